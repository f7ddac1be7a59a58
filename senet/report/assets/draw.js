// Drawing: elements, scales, and the charts that the sections are made of. Text is only ever set as text.

const DASH = "\u2013";
const COLOURS = 8;

function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
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

function logTicks(low, high) {
  const every = Math.log10(high / low) > 2.5 ? [1] : Math.log10(high / low) > 1 ? [1, 3] : [1, 2, 3, 5];
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const m of every) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) found.push(m * 10 ** e);
  return found;
}

function tickText(value) {
  return String(Number(value.toPrecision(3))).replace("-", "\u2212");
}

function scale(low, high, from, to, isLog = false) {
  const f = isLog ? Math.log10 : (v) => v;
  const [a, b] = [f(low), f(high)];
  return (v) => from + ((f(v) - a) / (b - a || 1)) * (to - from);
}

// Something that several charts look at: a value, and who wants to hear of it.
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

// A chart that a reader moves along: by pointer, or by the keys of a slider. `cursor` holds the position shown, and
// `pinned` the one to go back to when the pointer leaves; a click or a key pins.
// options: label, cursor, pinned, count(), text(i), draw(width) -> {element, at(x, y) -> position, mark(i)}
function frame(host, options) {
  const { cursor, pinned } = options;
  const box = html("div", {
    class: "plot",
    tabindex: 0,
    role: "slider",
    "aria-label": options.label,
    "aria-valuemin": 1,
  });
  host.append(box);
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
  return { redraw, box };
}

// Lines over a common x. options: those of `frame`, and
// x(): numbers.  series(): [{colour, dash, width, y, low, high}].  log(), limits(): of y.  height, xLabel, xText(v).
function lineChart(host, options) {
  return frame(host, { ...options, count: () => options.x().length, draw });

  function draw(width) {
    const x = options.x();
    const series = options.series();
    const height = options.height ?? 260;
    const isLog = options.log?.() ?? false;
    const all = series
      .flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? [])])
      .filter((v) => isNumber(v) && (!isLog || v > 0));
    const highest = extent(all)[1];
    const natural = isLog ? extent(all).map((v, i) => v * (i ? 1.1 : 0.9)) : [0, highest * 1.04 || 1];
    const [low, high] = options.limits?.() ?? natural;
    const marks = isLog ? logTicks(low, high) : ticks(low, high, height > 150 ? 5 : 3);
    const left = 12 + 7 * Math.max(...marks.map((v) => tickText(v).length), 1);
    const [right, top, bottom] = [10, 8, options.xLabel ? 38 : 10];
    const sx = scale(x[0], x[x.length - 1] === x[0] ? x[0] + 1 : x[x.length - 1], left, width - right);
    const sy = scale(low, high, height - bottom, top, isLog);
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });

    for (const v of marks) {
      root.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: sy(v), y2: sy(v) }));
      root.append(svg("text", { x: left - 8, y: sy(v), dy: "0.32em", "text-anchor": "end" }, tickText(v)));
    }
    if (options.xLabel) {
      const wanted = ticks(x[0], x[x.length - 1], clamp(Math.floor(width / 80), 2, 10)).filter(
        (v) => Number.isInteger(v) || !options.whole,
      );
      for (const v of wanted.length ? wanted : x)
        root.append(
          svg(
            "text",
            { x: sx(v), y: height - bottom + 18, "text-anchor": "middle" },
            options.xText?.(v) ?? tickText(v),
          ),
        );
      root.append(
        svg("text", { x: width - right, y: height - 2, "text-anchor": "end", class: "axis" }, options.xLabel),
      );
    }
    const seen = (v) => isNumber(v) && (!isLog || v > 0);
    const points = (ys) => ys.map((v, i) => (seen(v) ? [sx(x[i]), sy(v)] : null));
    const clip = `clip-${(lineChart.made = (lineChart.made ?? 0) + 1)}`;
    root.append(
      svg(
        "clipPath",
        { id: clip },
        svg("rect", { x: left - 3, y: top - 3, width: width - left - right + 6, height: height - top - bottom + 6 }),
      ),
    );
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    for (const s of series) {
      if (!s.low) continue;
      const [up, down] = [points(s.high), points(s.low)];
      const whole = up.map((p, i) => p && down[i] && i).filter((i) => i !== null && i !== false);
      if (whole.length < 2) continue;
      const outline = [...whole.map((i) => up[i]), ...whole.reverse().map((i) => down[i])];
      inside.append(svg("path", { d: `M${outline.map(pair).join("L")}Z`, fill: s.colour, class: "band" }));
    }
    for (const s of series) {
      const d = path(points(s.y));
      const style = { stroke: s.colour, "stroke-width": s.width ?? 1.8, "stroke-dasharray": s.dash ?? null };
      if (d) inside.append(svg("path", { d, class: "line", ...style }));
      if (x.length < 2)
        points(s.y).forEach((p) => p && inside.append(svg("circle", { cx: p[0], cy: p[1], r: 3, fill: s.colour })));
    }
    root.append(inside);
    const rule = svg("line", { class: "cursor", y1: top, y2: height - bottom });
    const dots = series.map((s) => svg("circle", { r: 3.5, fill: s.colour, class: "spot" }));
    root.append(rule, ...dots);
    return {
      element: root,
      at: (px) => x.reduce((best, v, i) => (Math.abs(sx(v) - px) < Math.abs(sx(x[best]) - px) ? i : best), 0),
      mark(i) {
        if (i >= x.length) return;
        fill(rule, { x1: sx(x[i]), x2: sx(x[i]) }, []);
        series.forEach((s, k) => {
          const v = s.y[i];
          fill(
            dots[k],
            seen(v) && v >= low && v <= high
              ? { cx: sx(x[i]), cy: sy(v), visibility: "visible" }
              : { visibility: "hidden" },
            [],
          );
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
  const said = html("output", { class: "said", "aria-live": "polite" });
  const box = html("div", {
    class: "plot heat",
    tabindex: 0,
    role: "application",
    "aria-label": `${options.label}. Arrow keys move, Enter chooses.`,
  });
  host.append(box, said);
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
        const at = { x: left + j * cell, y: top + i * cell, width: cell - gap, height: cell - gap };
        root.append(svg("rect", { ...at, rx: cell > 14 ? 2 : 0, style: `fill:${options.colour(v, i, j)}` }));
        const text = cell > 24 ? options.inside?.(v, i, j) : null;
        if (text) {
          const middle = {
            x: at.x + (cell - gap) / 2,
            y: at.y + (cell - gap) / 2,
            dy: "0.35em",
            "text-anchor": "middle",
          };
          root.append(svg("text", { ...middle, class: `inside ${options.strong?.(v, i, j) ? "strong" : ""}` }, text));
        }
      }),
    );
    if (options.names) {
      rows.forEach((name, i) =>
        root.append(
          svg(
            "text",
            { x: left - 7, y: top + (i + 0.5) * cell, dy: "0.32em", "text-anchor": "end" },
            cut(name, left / 6.4),
          ),
        ),
      );
      columns.forEach((name, j) => {
        const [x, y] = [left + (j + 0.5) * cell, top - 6];
        root.append(svg("text", { x, y, transform: `rotate(-45 ${x} ${y})` }, cut(name, 16)));
      });
    }
    const ring = svg("rect", { class: "ring", width: cell - gap, height: cell - gap, rx: cell > 14 ? 2 : 0 });
    root.append(ring);
    drawn = { cell, left, top, ring };
    box.replaceChildren(root);
    show();
  }
  function show() {
    const at = cursor.value;
    said.textContent = at ? options.text(...at) : (options.hint ?? "");
    if (!drawn) return;
    const [i, j] = at ?? [0, 0];
    fill(
      drawn.ring,
      { x: drawn.left + j * drawn.cell, y: drawn.top + i * drawn.cell, visibility: at ? "visible" : "hidden" },
      [],
    );
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
  box.addEventListener("keydown", (event) => {
    const [i, j] = cursor.value ?? [0, 0];
    const [di, dj] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [
      0, 0,
    ];
    if (di || dj)
      cursor.set(cursor.value ? [clamp(i + di, 0, rows.length - 1), clamp(j + dj, 0, columns.length - 1)] : [0, 0]);
    else if (event.key === "Enter" && cursor.value) options.pick?.(i, j);
    else return;
    event.preventDefault();
  });
  cursor.listen(show);
  new ResizeObserver(() => {
    if (box.clientWidth !== width) draw();
  }).observe(box);
  draw();
  return { draw };
}

function cut(text, most) {
  return text.length > most ? `${text.slice(0, Math.max(1, Math.floor(most) - 1))}\u2026` : text;
}

// The same values as text, made when it is opened.
function asTable(columns, rows, title = "As a table") {
  const details = html("details", { class: "as-table" }, html("summary", {}, title));
  details.addEventListener("toggle", () => {
    details.querySelector(".scroll")?.remove();
    if (!details.open) return;
    const head = html(
      "tr",
      {},
      columns().map((c) => html("th", { scope: "col", class: "n" }, c)),
    );
    const body = rows().map((row) =>
      html(
        "tr",
        {},
        row.map((v, i) => html(i ? "td" : "th", { class: "n", scope: i ? null : "row" }, v)),
      ),
    );
    details.append(
      html(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
        html("table", {}, html("thead", {}, head), html("tbody", {}, body)),
      ),
    );
  });
  return details;
}

// A button that stays pressed or not.
function toggle(text, isOn, change, { own = null, title = null } = {}) {
  const dot = own ? html("i", { class: "dot" }) : null;
  const button = html(
    "button",
    { type: "button", class: "chip", "aria-pressed": isOn, title, style: own ? `--own:${own}` : null },
    dot,
    text,
  );
  button.addEventListener("click", () => {
    const next = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", next);
    change(next);
  });
  button.setAttribute("aria-pressed", isOn);
  return button;
}

// One of several, as a row of radio buttons.
function choice(label, values, chosen, change) {
  const name = `choice-${(choice.made = (choice.made ?? 0) + 1)}`;
  return html(
    "fieldset",
    { class: "choice" },
    html("legend", {}, label),
    Object.entries(values).map(([value, text]) => {
      const input = html("input", {
        type: "radio",
        name,
        value,
        checked: value === chosen,
        onchange: () => change(value),
      });
      return html("label", {}, input, html("span", {}, text));
    }),
  );
}
