// Elements, scales, and the charts that the sections are made of. Text is only ever set as text, never as markup.

const DASH = "\u2013";
const COLOURS = 8;

// html("p.note", { title: "..." }, child, ...) makes an element; svg(...) does the same for SVG. Attributes may be
// omitted. Children are elements, text, lists of both, or null for nothing.
function html(name, ...rest) {
  return build((tag) => document.createElement(tag), name, rest);
}

function svg(name, ...rest) {
  return build((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag), name, rest);
}

function build(create, name, rest) {
  const [tag, ...classes] = name.split(".");
  const element = create(tag);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  if (rest[0]?.constructor === Object) set(element, rest.shift());
  element.append(...rest.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
}

function colour(i) {
  return `var(--c${i % COLOURS})`;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function number(value, digits = 2) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "\u2212") : DASH;
}

function percent(share) {
  return isNumber(share) ? `${number(100 * share, 1)} %` : DASH;
}

function count(value) {
  return isNumber(value) ? value.toLocaleString("en") : DASH;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (!isNumber(v)) continue;
    low = Math.min(low, v);
    high = Math.max(high, v);
  }
  return low <= high ? [low, high] : [0, 1];
}

// Round numbers from low to high, about `wanted` of them.
function ticks(low, high, wanted) {
  const rough = (high - low || 1) / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((m) => m * size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// Zero and 1, 2, 5 times powers of ten, from `knee` up.
function logTicks(knee, high) {
  const every = Math.log10(high / knee) > 2.5 ? [1] : [1, 2, 5];
  const found = [0];
  for (let e = Math.round(Math.log10(knee)); e <= Math.log10(high); e++)
    for (const m of every) if (m * 10 ** e <= high * 1.001) found.push(m * 10 ** e);
  return found;
}

function tickText(value) {
  return String(Number(value.toPrecision(3))).replace("-", "\u2212");
}

// With a knee, logarithmic above it and linear below, so that zero is on the scale.
function scale(low, high, from, to, knee = 0) {
  const f = (v) => (!knee ? v : v > knee ? 1 + Math.log10(v / knee) : v / knee);
  const [a, b] = [f(low), f(high)];
  return (v) => from + ((f(v) - a) / (b - a || 1)) * (to - from);
}

// A value that several charts share; listeners are called when it changes.
function shared(value) {
  const listeners = [];
  return {
    get value() {
      return value;
    },
    set(next) {
      if (next === value) return;
      value = next;
      for (const listener of listeners) listener(value);
    },
    listen(listener) {
      listeners.push(listener);
    },
  };
}

// A chart along which the pointer or the keys of a slider move. `cursor` holds the position shown, `pinned` the position
// to return to when the pointer leaves; a click or a key sets both.
// options: label, cursor, pinned, count(), text(i), draw(width) -> {element, at(x, y) -> position, mark(i)}
function frame(host, options) {
  const { cursor, pinned } = options;
  const box = html("div.plot", { tabindex: 0, role: "slider", "aria-label": options.label, "aria-valuemin": 1 });
  host.append(box);
  if (options.isOne ?? true) host.append(saver(box, options.label));
  let drawn = null;
  let width = 0;

  function show() {
    const i = cursor.value;
    if (drawn) drawn.mark(i);
    box.setAttribute("aria-valuemax", options.count());
    box.setAttribute("aria-valuenow", i + 1);
    box.setAttribute("aria-valuetext", options.text(i));
  }
  function redraw() {
    width = box.clientWidth || width;
    if (!width) return;
    drawn = options.draw(width);
    box.replaceChildren(drawn.element);
    show();
  }
  function pin(i) {
    const at = clamp(i, 0, options.count() - 1);
    pinned.set(at);
    cursor.set(at);
  }
  function under(event) {
    const r = box.getBoundingClientRect();
    return drawn ? clamp(drawn.at(event.clientX - r.left, event.clientY - r.top), 0, options.count() - 1) : 0;
  }
  box.addEventListener("pointermove", (event) => cursor.set(under(event)));
  box.addEventListener("pointerleave", () => cursor.set(pinned.value));
  box.addEventListener("click", (event) => pin(under(event)));
  box.addEventListener("keydown", (event) => {
    const far = Math.max(2, Math.round(options.count() / 10));
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: far, PageDown: -far }[event.key];
    if (by) pin(cursor.value + by);
    else if (event.key === "Home") pin(0);
    else if (event.key === "End") pin(options.count() - 1);
    else return;
    event.preventDefault();
  });
  cursor.listen(show);
  new ResizeObserver(() => {
    if (box.clientWidth !== width) redraw();
  }).observe(box);
  redraw();
  return { redraw };
}

// Lines over a common x. options: those of `frame`, and
// x(): numbers.  series(): [{colour, dash, width, y, low, high}].  knee(), limits(): of y.  height, xLabel, xText(v).
function lineChart(host, options) {
  return frame(host, { ...options, count: () => options.x().length, draw });

  // The ends of the y axis: the chart's own, or those that hold all values.
  function limits(values, knee) {
    const most = extent(values)[1];
    return options.limits?.() ?? [0, most * (knee ? 1.15 : 1.04) || 1];
  }

  function xTicks(x, width) {
    const wanted = ticks(x[0], x.at(-1), clamp(Math.floor(width / 80), 2, 10));
    const found = options.whole ? wanted.filter(Number.isInteger) : wanted;
    return found.length ? found : x;
  }

  function draw(width) {
    const x = options.x();
    const series = options.series();
    const height = options.height;
    const knee = options.knee?.() ?? 0;
    const isDrawn = isNumber;
    const values = series.flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? [])]);
    const [low, high] = limits(values, knee);
    const marks = knee ? logTicks(knee, high) : ticks(low, high, height > 150 ? 5 : 3);
    const left = 12 + 7 * Math.max(...marks.map((v) => tickText(v).length), 1);
    const [right, top, bottom] = [width - 10, 8, height - (options.xLabel ? 38 : 10)];
    const sx = scale(x[0], x.at(-1) === x[0] ? x[0] + 1 : x.at(-1), left, right);
    const sy = scale(low, high, bottom, top, knee);
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });

    for (const v of marks) {
      root.append(svg("line.grid", { x1: left, x2: right, y1: sy(v), y2: sy(v) }));
      root.append(svg("text", { x: left - 8, y: sy(v), dy: "0.32em", "text-anchor": "end" }, tickText(v)));
    }
    if (options.xLabel) {
      const text = options.xText ?? tickText;
      for (const v of xTicks(x, width))
        root.append(svg("text", { x: sx(v), y: bottom + 18, "text-anchor": "middle" }, text(v)));
      root.append(svg("text.axis", { x: right, y: height - 2, "text-anchor": "end" }, options.xLabel));
    }

    const clip = `clip-${(lineChart.made = (lineChart.made ?? 0) + 1)}`;
    const frameOfLines = { x: left - 3, y: top - 3, width: right - left + 6, height: bottom - top + 6 };
    root.append(svg("clipPath", { id: clip }, svg("rect", frameOfLines)));
    const points = (ys) => ys.map((v, i) => (isDrawn(v) ? [sx(x[i]), sy(v)] : null));
    const band = (s) => {
      const [up, down] = [points(s.high), points(s.low)];
      const whole = x.map((_, i) => i).filter((i) => up[i] && down[i]);
      const outline = [...whole.map((i) => up[i]), ...whole.reverse().map((i) => down[i])];
      return whole.length < 2 ? null : svg("path.band", { d: `M${outline.map(pair).join("L")}Z`, fill: s.colour });
    };
    const line = (s) => {
      if (x.length < 2) return points(s.y).map((p) => p && svg("circle", { cx: p[0], cy: p[1], r: 3, fill: s.colour }));
      const style = { stroke: s.colour, "stroke-width": s.width, "stroke-dasharray": s.dash };
      return svg("path.line", { d: path(points(s.y)), ...style });
    };
    const bands = series.filter((s) => s.low).map(band);
    root.append(svg("g", { "clip-path": `url(#${clip})` }, bands, series.map(line)));

    const rule = svg("line.cursor", { y1: top, y2: bottom });
    const dots = series.map((s) => svg("circle.spot", { r: 3.5, fill: s.colour }));
    root.append(rule, ...dots);
    return {
      element: root,
      at: (px) => x.reduce((best, v, i) => (Math.abs(sx(v) - px) < Math.abs(sx(x[best]) - px) ? i : best), 0),
      mark(i) {
        if (i >= x.length) return;
        set(rule, { x1: sx(x[i]), x2: sx(x[i]) });
        series.forEach((s, k) => {
          const v = s.y[i];
          const isInside = isDrawn(v) && v >= low && v <= high;
          set(dots[k], isInside ? { cx: sx(x[i]), cy: sy(v), visibility: "visible" } : { visibility: "hidden" });
        });
      },
    };
  }
}

function pair([x, y]) {
  return `${x.toFixed(1)},${y.toFixed(1)}`;
}

// A broken line: a gap wherever a point is missing.
function path(points) {
  return points.map((p, i) => (p ? `${i && points[i - 1] ? "L" : "M"}${pair(p)}` : "")).join("");
}

// Cells coloured by value. options: label, rows, columns (names), values, colour(value, i, j), text(i, j), most (pixels
// of a cell), names (draw them), inside(value, i, j) -> text in the cell, cursor (shared [i, j]), pick(i, j).
function heatMap(host, options) {
  const { rows, columns, values, cursor } = options;
  const readout = html("output.readout", { "aria-live": "polite" });
  const box = html("div.plot.heat", {
    tabindex: 0,
    role: "application",
    "aria-label": `${options.label}. Arrow keys move, Enter chooses.`,
  });
  host.append(box, readout, saver(box, options.label));
  let width = 0;
  let drawn = null;

  function draw() {
    width = box.clientWidth || width;
    if (!width) return;
    const longest = options.names ? Math.max(...rows.map((r) => r.length)) : 0;
    const left = options.names ? clamp(7 + 6.4 * longest, 20, width * 0.3) : 2;
    const right = options.names ? clamp(4.6 * columns[columns.length - 1].length - 6, 2, 60) : 2;
    const cell = Math.min((width - left - right) / columns.length, options.most ?? 44);
    const top = options.names ? clamp(7 + 4.9 * longest, 16, 96) : 2;
    const height = top + cell * rows.length + 2;
    const used = left + cell * columns.length + right;
    const root = svg("svg", { width: used, height, viewBox: `0 0 ${used} ${height}`, "aria-hidden": "true" });
    const gap = cell > 8 ? 1 : 0;
    values.forEach((row, i) =>
      row.forEach((v, j) => {
        const [x, y, side] = [left + j * cell, top + i * cell, cell - gap];
        const style = `fill:${options.colour(v, i, j)}`;
        root.append(svg("rect", { x, y, width: side, height: side, rx: cell > 14 ? 2 : 0, style }));
        const text = cell > 24 ? options.inside?.(v, i, j) : null;
        const kind = options.strong?.(v, i, j) ? "text.inside.strong" : "text.inside";
        if (text)
          root.append(svg(kind, { x: x + side / 2, y: y + side / 2, dy: "0.35em", "text-anchor": "middle" }, text));
      }),
    );
    if (options.names) {
      rows.forEach((name, i) => {
        const at = { x: left - 7, y: top + (i + 0.5) * cell, dy: "0.32em", "text-anchor": "end" };
        root.append(svg("text", at, cut(name, left / 6.4)));
      });
      columns.forEach((name, j) => {
        const [x, y] = [left + (j + 0.5) * cell, top - 6];
        root.append(svg("text", { x, y, transform: `rotate(-45 ${x} ${y})` }, cut(name, 16)));
      });
    }
    const ring = svg("rect.ring", { width: cell - gap, height: cell - gap, rx: cell > 14 ? 2 : 0 });
    root.append(ring);
    drawn = { cell, left, top, ring };
    box.replaceChildren(root);
    show();
  }
  function show() {
    const at = cursor.value;
    readout.textContent = at ? options.text(...at) : (options.hint ?? "");
    if (!drawn) return;
    const [i, j] = at ?? [0, 0];
    const [x, y] = [drawn.left + j * drawn.cell, drawn.top + i * drawn.cell];
    set(drawn.ring, { x, y, visibility: at ? "visible" : "hidden" });
  }
  function under(event) {
    const r = box.getBoundingClientRect();
    const j = Math.floor((event.clientX - r.left - drawn.left) / drawn.cell);
    const i = Math.floor((event.clientY - r.top - drawn.top) / drawn.cell);
    return i >= 0 && j >= 0 && i < rows.length && j < columns.length ? [i, j] : null;
  }
  box.addEventListener("pointermove", (event) => {
    const at = under(event);
    if (at) cursor.set(at);
  });
  box.addEventListener("click", (event) => {
    const at = under(event);
    if (at) {
      cursor.set(at);
      options.pick?.(...at);
    }
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  box.addEventListener("keydown", (event) => {
    const [at, step] = [cursor.value, steps[event.key]];
    if (step && at)
      cursor.set([clamp(at[0] + step[0], 0, rows.length - 1), clamp(at[1] + step[1], 0, columns.length - 1)]);
    else if (step) cursor.set([0, 0]);
    else if (event.key === "Enter" && at) options.pick?.(...at);
    else return;
    event.preventDefault();
  });
  cursor.listen(show);
  new ResizeObserver(() => {
    if (box.clientWidth !== width) draw();
  }).observe(box);
  draw();
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, Math.max(1, Math.floor(most) - 1))}\u2026` : text;
}

// A table of a chart's values, built when it is opened; `label` tells it from the page's other tables.
function asTable(label, columns, rows) {
  const details = html("details.as-table", html("summary", "As a table"));
  details.addEventListener("toggle", () => {
    details.querySelector(".scroll")?.remove();
    if (!details.open) return;
    const head = columns().map((text) => html("th.n", { scope: "col" }, text));
    const line = ([name, ...cells]) =>
      html(
        "tr",
        html("th.n", { scope: "row" }, name),
        cells.map((text) => html("td.n", text)),
      );
    const table = html("table", html("thead", html("tr", head)), html("tbody", rows().map(line)));
    details.append(html("div.scroll", { tabindex: 0, role: "region", "aria-label": label }, table));
  });
  return details;
}

// Buttons that save the drawing in a box as a file of its own, with its title.
function saver(box, title) {
  const name = title.replace(/[^\w]+/g, "-").replace(/^-|-$/g, "").toLowerCase();
  const save = (href, ending) => html("a", { href, download: `${name}.${ending}` }).click();
  const source = () => {
    const text = new XMLSerializer().serializeToString(standalone(box.querySelector("svg"), title));
    return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  };
  const savePng = () => {
    const image = new Image();
    image.onload = () => {
      const canvas = html("canvas", { width: 2 * image.width, height: 2 * image.height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      save(canvas.toDataURL("image/png"), "png");
    };
    image.src = source();
  };
  const button = (text, onclick) =>
    html("button", { type: "button", "aria-label": `Save ${title} as ${text}`, onclick }, text);
  return html("p.save", "Save as ", button("SVG", () => save(source(), "svg")), button("PNG", savePng));
}

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font", "visibility"];

// A copy of a drawing that needs no style sheet: computed styles, the paper behind, the title above.
function standalone(drawing, title) {
  const pixel = html("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  // Other programs do not know the colours that browsers compute.
  const plain = (value) => {
    if (!value.includes("(") || value.startsWith("rgb")) return value;
    pixel.fillStyle = value;
    pixel.fillRect(0, 0, 1, 1);
    return `rgb(${[...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).join(",")})`;
  };
  const copy = drawing.cloneNode(true);
  const [from, to] = [drawing, copy].map((one) => [one, ...one.querySelectorAll("*")]);
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const key of DRAWN) {
      to[i].removeAttribute(key);
      const value = style.getPropertyValue(key);
      to[i].style.setProperty(key, key === "fill" || key === "stroke" ? plain(value) : value);
    }
  });
  for (const mark of copy.querySelectorAll(".cursor, .spot, .ring")) mark.remove();
  const [width, height, above] = [Number(drawing.getAttribute("width")), Number(drawing.getAttribute("height")), 40];
  const page = getComputedStyle(document.body);
  const size = { width: width + 24, height: height + above + 12 };
  const heading = { x: 12, y: 24, fill: page.color, style: "font: 600 15px sans-serif" };
  set(copy, { x: 12, y: above });
  return svg(
    "svg",
    { ...size, viewBox: `0 0 ${size.width} ${size.height}`, xmlns: "http://www.w3.org/2000/svg" },
    svg("rect", { ...size, fill: page.backgroundColor }),
    svg("text", heading, title),
    copy,
  );
}

// A button with a coloured dot that stays pressed or not.
function toggle(text, isOn, change, { own, title = null }) {
  const style = `--own:${own}`;
  const button = html(
    "button.chip",
    { type: "button", "aria-pressed": String(isOn), title, style },
    html("i.dot"),
    text,
  );
  button.addEventListener("click", () => {
    const next = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", next);
    change(next);
  });
  return button;
}

// One of several, as a row of radio buttons.
function choice(label, values, chosen, change) {
  const name = `choice-${(choice.made = (choice.made ?? 0) + 1)}`;
  return html(
    "fieldset.choice",
    html("legend", label),
    Object.entries(values).map(([value, text]) => {
      const checked = value === chosen;
      const input = html("input", { type: "radio", name, value, checked, onchange: () => change(value) });
      return html("label", input, html("span", text));
    }),
  );
}
