// The page itself: draws its charts, switches its theme and marks the current section in the navigation.

const data = JSON.parse(document.getElementById("data").textContent);
const DRAWINGS = { curves: drawCurves, gates: drawGates, confusion: drawConfusion, calibration: drawCalibration };

for (const host of document.querySelectorAll("[data-draw]")) {
  host.replaceChildren();
  DRAWINGS[host.dataset.draw](host, data[host.dataset.draw], data);
}

const theme = document.getElementById("theme");
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
}
function showTheme() {
  theme.setAttribute("aria-pressed", isDark());
}
// A page opened from a file may have no storage; then the choice is lost when the page is closed.
function stored(value) {
  try {
    return value ? localStorage.setItem("senet-theme", value) : localStorage.getItem("senet-theme");
  } catch {
    return null;
  }
}
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  stored(root.dataset.theme);
  showTheme();
});
system.addEventListener("change", showTheme);
if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
showTheme();

const links = new Map([...document.querySelectorAll(".top nav a")].map((a) => [a.hash.slice(1), a]));
const sections = [...document.querySelectorAll("main > section")];
function here() {
  const current = sections.findLast((s) => s.getBoundingClientRect().top < innerHeight * 0.35) ?? sections[0];
  for (const [name, link] of links) {
    const on = name === current?.id;
    if (on && !link.hasAttribute("aria-current")) {
      const list = link.closest("ul");
      list.scrollTo({ left: link.offsetLeft - list.clientWidth / 2 + link.clientWidth / 2 });
    }
    on ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
}
addEventListener("scroll", here, { passive: true });
here();

for (const button of document.querySelectorAll(".command button")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1600);
  });
}
