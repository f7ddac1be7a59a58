// The gate explorer: units by depth, one unit's channels, one channel's images, and how similar the units are.

const ABLATIONS = { mean: "gates at their mean", other: "gates of another image", one: "gates at one" };

const MEASURES = [
  { name: "mean gate", of: (u) => u.gate, text: number },
  { name: "saturated", hint: "below 0.05 or above 0.95", of: (u) => u.low + u.high, text: percent },
  { name: "near one", hint: "within 0.05 of 1", of: (u) => u.near_one, text: percent },
  { name: "class specificity", hint: "share of the variance between classes", of: (u) => u.specificity, text: number },
  { name: "entropy, bits", hint: "of a channel's gate over images", of: (u) => u.entropy, text: number },
  {
    name: "error at mean gate, %",
    hint: "top-1 error with the unit's gates at their mean over the images",
    of: (u) => u.ablation.mean,
    text: number,
  },
];

function drawGates(host, { units, lines, similarity, thumbnails, top1_error: error, ablation }) {
  const last = Math.max(
    units.findLastIndex((u) => u.drawn),
    0,
  );
  // The unit and the channel that are shown; of the channel also the one under the pointer.
  const [unitAt, unit] = [shared(last), shared(last)];
  const [channelAt, channel] = [shared(0), shared(0)];
  const hidden = new Set();
  let order = "channel";
  let scale = "whole";
  let spread = "none";

  const now = () => units[unit.value];
  const ownColour = (k) => (k ? colour(k) : "var(--ink)");
  const visible = () => lines.map((_, k) => k).filter((k) => !hidden.has(k));
  const positions = () => {
    const all = now().sampled.map((_, i) => i);
    return order === "channel" ? all : all.sort((a, b) => now().mean[0][a] - now().mean[0][b]);
  };
  const sample = () => positions()[clamp(channelAt.value, 0, now().sampled.length - 1)];

  const facts = html("dl.facts.slim");
  const heading = html("h3");
  const plot = html("div.channels", html("div.controls", classChips()), html("div.panel-head", heading));
  const aside = html("div.channel");
  host.append(depth(), chooser(), html("div.unit", facts), html("div.explorer", plot, aside));
  const chart = channelChart();
  plot.append(channelControls());
  plot.append(
    asTable(
      "Mean gate by channel",
      () => ["channel", ...lines.map((line) => line.name)],
      () => positions().map((i) => [String(now().sampled[i]), ...lines.map((_, k) => number(now().mean[k][i], 3))]),
    ),
  );
  channelAt.listen(showChannel);
  unit.listen(showUnit);
  showUnit();
  if (units.length > 1 && similarity.length) host.append(similarities());

  // One small bar chart over the units for each measure, with one cursor for all of them.
  function depth() {
    const measures = MEASURES.filter((m) => units.some((u) => isNumber(m.of(u))));
    const texts = (u) => measures.map((m) => m.text(m.of(u)));
    const where = html("b");
    const box = html(
      "div.depth",
      html("p.panel-head", html("span", "By depth, from the first unit to the last: "), where),
    );
    const gap = 28;
    const high = 54;

    function barChart(measure, width, step) {
      const most = Math.max(...units.map((u) => measure.of(u) ?? 0), 1e-9);
      const size = { width, height: high + 7, viewBox: `0 0 ${width} ${high + 7}` };
      const root = svg("svg", { ...size, "aria-hidden": "true" });
      const bars = units.map((u, i) => {
        const height = Math.max(1, (high * (measure.of(u) ?? 0)) / most);
        const barWidth = Math.max(0.8, step - (step > 4 ? 2 : 0.4));
        return svg("rect", { x: i * step, y: high - height, width: barWidth, height, rx: step > 8 ? 1.5 : 0 });
      });
      root.append(...bars, svg("line.base", { x1: 0, x2: width, y1: high, y2: high }));
      for (const [from, to] of stages())
        root.append(
          svg("line.stage", {
            x1: from * step,
            x2: (to + 1) * step - Math.min(5, step / 2),
            y1: high + 5,
            y2: high + 5,
          }),
        );
      const value = html("b");
      return { bars, value, element: html("div", html("p", { title: measure.hint }, measure.name, " ", value), root) };
    }

    function draw(width) {
      const fit = clamp(Math.floor((width + gap) / (150 + gap)), 2, measures.length);
      const columns = Math.ceil(measures.length / Math.ceil(measures.length / fit));
      const chartWidth = (width - gap * (columns - 1)) / columns;
      const step = chartWidth / units.length;
      const charts = measures.map((m) => barChart(m, chartWidth, step));
      const style = `grid-template-columns:repeat(${columns},1fr);column-gap:${gap}px`;
      return {
        element: html(
          "div.multiples",
          { style },
          charts.map((c) => c.element),
        ),
        at: (px) => Math.floor((px % (chartWidth + gap)) / step),
        mark(i) {
          where.textContent = units[i].label;
          texts(units[i]).forEach((text, n) => {
            charts[n].value.textContent = text;
            charts[n].bars.forEach((bar, k) => {
              bar.classList.toggle("on", k === i);
              bar.classList.toggle("kept", k === unit.value);
            });
          });
        },
      };
    }
    const text = (i) =>
      `${units[i].label}: ${texts(units[i])
        .map((t, n) => `${measures[n].name} ${t}`)
        .join(", ")}`;
    frame(box, { label: "Unit, by depth", isOne: false, cursor: unitAt, pinned: unit, count: () => units.length, text, draw });
    box.append(
      asTable(
        "Units by depth",
        () => ["unit", ...measures.map((m) => m.name)],
        () => units.map((u) => [u.label, ...texts(u)]),
      ),
    );
    return box;
  }

  // The first and the last unit of each stage.
  function stages() {
    const found = new Map();
    units.forEach((u, i) => found.set(u.stage, [found.get(u.stage)?.[0] ?? i, i]));
    found.delete("");
    return found.values();
  }

  function chooser() {
    const option = (u) =>
      html("option", { value: units.indexOf(u) }, u.label === u.name ? u.name : `${u.label}  (${u.name})`);
    const groups = [...new Set(units.map((u) => u.stage))].map((stage) => {
      const options = units.filter((u) => u.stage === stage).map(option);
      return stage ? html("optgroup", { label: stage }, options) : options;
    });
    const select = html("select", { id: "unit", onchange: () => choose(Number(select.value)) }, groups);
    const step = (name, arrow, by) =>
      html("button.step", { type: "button", "aria-label": name, onclick: () => choose(unit.value + by) }, arrow);
    const back = step("Previous unit", "\u2190", -1);
    const forward = step("Next unit", "\u2192", 1);
    const update = () => {
      select.value = String(unit.value);
      back.disabled = unit.value === 0;
      forward.disabled = unit.value === units.length - 1;
    };
    unit.listen(update);
    update();
    return html("div.chooser", html("label", { for: "unit" }, "Unit"), back, select, forward);
  }

  function choose(i) {
    const at = clamp(i, 0, units.length - 1);
    unit.set(at);
    unitAt.set(at);
  }

  function classChips() {
    const chip = (line, k) => {
      const change = (isOn) => {
        isOn ? hidden.delete(k) : hidden.add(k);
        redraw();
      };
      return toggle(line.name, true, change, { own: ownColour(k), title: `${count(line.images)} images` });
    };
    return html("div.chips", { role: "group", "aria-label": "Classes" }, lines.map(chip));
  }

  function channelControls() {
    const changeOrder = (value) => {
      order = value;
      redraw();
    };
    const changeScale = (value) => {
      scale = value;
      redraw();
    };
    const changeSpread = (value) => {
      spread = value;
      redraw();
    };
    return html(
      "div.controls.under",
      choice("Order", { channel: "channel", mean: "mean gate" }, order, changeOrder),
      choice("Scale", { whole: "0 to 1", fit: "fitted" }, scale, changeScale),
      choice("Spread within a class", { none: "hidden", shown: "one deviation" }, spread, changeSpread),
    );
  }

  function redraw() {
    chart.redraw();
    showChannel();
  }

  function channelChart() {
    // A line's means, plus or minus the deviation for `sign` 1 or -1.
    const gates = (k, sign = 0) => now().mean[k].map((v, i) => (isNumber(v) ? v + sign * now().deviation[k][i] : v));
    const isSpread = () => spread !== "none";

    // Most gates are from 0 to 1; those of tanh and ReLU go beyond.
    function limits() {
      const [least, most] = extent(visible().flatMap((k) => gates(k)));
      const signs = isSpread() ? [-1, 1] : [0];
      const [low, high] = extent(visible().flatMap((k) => signs.flatMap((sign) => gates(k, sign))));
      if (scale === "whole") return [least < 0 ? low : 0, most > 1 ? high : 1];
      const room = 0.06 * (high - low || 0.1);
      return [least < 0 ? low - room : Math.max(0, low - room), high + room];
    }

    function line(k) {
      const ordered = (values) => positions().map((i) => values[i]);
      return {
        y: ordered(gates(k)),
        low: isSpread() ? ordered(gates(k, -1)) : null,
        high: isSpread() ? ordered(gates(k, 1)) : null,
        colour: ownColour(k),
        width: k ? 1.5 : 2.2,
        dash: k > COLOURS - 1 ? "5 3" : null,
      };
    }

    return lineChart(plot, {
      label: "Mean gate of the sampled channels",
      cursor: channelAt,
      pinned: channel,
      height: 300,
      xLabel: "channel",
      whole: true,
      x: () => now().sampled.map((_, i) => i),
      xText: (i) => String(now().sampled[positions()[i]]),
      limits,
      // The mean over all images is drawn last, on top.
      series: () => visible().reverse().map(line),
      text: () => {
        const values = visible().map((k) => `${lines[k].name} ${number(now().mean[k][sample()])}`);
        return `${now().label}, channel ${now().sampled[sample()]}: ${values.join(", ")}`;
      },
    });
  }

  function showUnit() {
    const u = now();
    const at = clamp(channel.value, 0, u.sampled.length - 1);
    channel.set(at);
    channelAt.set(at);
    const isPart = u.sampled.length < u.channels;
    const all = [
      ["kind", u.kind],
      ["channels", isPart ? `${u.sampled.length} of ${count(u.channels)} drawn` : count(u.channels)],
      ["below 0.05", percent(u.low)],
      ["above 0.95", percent(u.high)],
      ["within 0.05 of 1", percent(u.near_one)],
      ...ablationFacts("", u.ablation),
      ...ablationFacts("all units: ", ablation),
    ];
    facts.replaceChildren(...all.map(([name, value]) => html("div", html("dt", name), html("dd", value))));
    redraw();
  }

  // Errors with replaced gates, and how much they are above the network's own.
  function ablationFacts(of, errors) {
    const more = (v) => (isNumber(error) ? ` (${v > error ? "+" : ""}${number(v - error)})` : "");
    return Object.entries(ABLATIONS)
      .filter(([key]) => isNumber(errors[key]))
      .map(([key, name]) => [`error, ${of}${name}`, `${number(errors[key])} %${more(errors[key])}`]);
  }

  // The channel under the cursor: its gate for each class, and the images with its largest and smallest gates.
  function showChannel() {
    const u = now();
    const i = sample();
    heading.textContent = `${u.label}, mean gate by channel`;
    const means = visible().map((k) => u.mean[k][i] ?? 0);
    const toPercent = scaleOf(Math.min(0, ...means), Math.max(1, ...means));
    const rows = visible().map((k) => {
      const [mean, deviation] = [u.mean[k][i], u.deviation[k][i]];
      const span = `left:${toPercent(mean - deviation)};right:calc(100% - ${toPercent(mean + deviation)})`;
      const marks = [html("i.span", { style: span }), html("i.mean", { style: `left:${toPercent(mean)}` })];
      return html(
        "li",
        { style: `--own:${ownColour(k)}` },
        html("span.what", lines[k].name),
        html("div.range", { "aria-hidden": "true" }, isNumber(mean) ? marks : []),
        html("span.n", html("b", number(mean)), html("small", ` \u00b1 ${number(deviation)}`)),
      );
    });
    aside.replaceChildren(
      html("h3", "Channel ", html("b.which", String(u.sampled[i]))),
      html("ul.forest.slim", rows),
      ...strip("Images with its largest gates", u.openers[i]),
      ...strip("Images with its smallest gates", u.closers[i]),
    );
  }

  function scaleOf(low, high) {
    return (v) => `${(100 * clamp((v - low) / (high - low), 0, 1)).toFixed(1)}%`;
  }

  function strip(title, ends) {
    if (!ends.length) return [];
    const images = ends.map(([image, gate]) => {
      const source = thumbnails[image];
      const text = `image ${image}, gate ${number(gate)}`;
      const picture = source
        ? html("img", { src: source, alt: text, title: text })
        : html("span.missing", `no. ${image}`);
      return html("li", picture, html("span", number(gate)));
    });
    return [html("h4", title), html("ul.strip", images)];
  }

  function similarities() {
    const names = units.map((u) => u.label);
    const [low, high] = extent(similarity.flat());
    const note =
      "Linear CKA of the class means: 1 if two units separate the classes in the same way. Grey: a unit whose gates " +
      "are equal for all classes. Choosing a cell chooses the unit of its row.";
    const box = html("div");
    const section = html(
      "div.alike.beside",
      html("div", html("h3", "Similarity of the units"), html("p.note", note)),
      box,
    );
    const strength = (v) => (5 + 90 * ((v - low) / (high - low || 1)) ** 1.5).toFixed(0);
    heatMap(box, {
      label: "Similarity of units",
      rows: names,
      columns: names,
      values: similarity,
      names: units.length <= 24,
      most: 34,
      cursor: shared(null),
      hint: "Point at a cell, or move with the arrow keys.",
      colour: (v) =>
        isNumber(v)
          ? `color-mix(in oklab, var(--c2) ${strength(v)}%, var(--paper))`
          : "color-mix(in oklab, var(--ink) 25%, var(--paper))",
      text: (i, j) => {
        const constant = [i, j].find((k) => !isNumber(similarity[k][k]));
        const value =
          constant === undefined
            ? number(similarity[i][j])
            : `the gates of ${names[constant]} are equal for all classes`;
        return `${names[i]} and ${names[j]}: ${value}`;
      },
      pick: choose,
    });
    box.append(
      asTable(
        "Similarity of units",
        () => ["unit", ...names],
        () => similarity.map((row, i) => [names[i], ...row.map((v) => number(v))]),
      ),
    );
    return section;
  }
}
