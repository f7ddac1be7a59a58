// The gate explorer: units by depth, one unit's channels, one channel's images, and how alike the units are.

function drawGates(host, { units, lines, similarity, thumbnails = {}, top1_error: error, ablation = {} }) {
  const first = Math.max(
    units.findLastIndex((u) => u.drawn),
    0,
  );
  const unitAt = shared(first);
  const unit = shared(first);
  const channelAt = shared(0);
  const channel = shared(0);
  const off = new Set();
  let order = "channel";
  let spread = "none";
  let range = "whole";

  const signed = (v) => `${v > 0 ? "+" : ""}${number(v)}`;
  const now = () => units[unit.value];
  const nameOf = (u) => u.label ?? u.name;
  const own = (k) => (k ? colour(k) : "var(--ink)");
  const seen = () => lines.map((_, k) => k).filter((k) => !off.has(k));
  const positions = () => {
    const all = now().sampled.map((_, i) => i);
    return order === "channel" ? all : all.sort((a, b) => now().mean[0][a] - now().mean[0][b]);
  };
  const place = () => positions()[clamp(channelAt.value, 0, now().sampled.length - 1)];

  host.append(depth(), chooser());
  const main = html("div", { class: "explorer" });
  const plot = html("div", { class: "channels" });
  const aside = html("div", { class: "channel" });
  host.append(main);
  main.append(plot, aside);

  const head = html("h3");
  const facts = html("dl", { class: "facts slim" });
  main.before(html("div", { class: "unit" }, facts));

  plot.append(
    html(
      "div",
      { class: "controls" },
      html(
        "div",
        { class: "chips", role: "group", "aria-label": "Classes" },
        lines.map((line, k) =>
          toggle(
            line.name,
            true,
            (on) => {
              on ? off.delete(k) : off.add(k);
              chart.redraw();
              tell();
            },
            { own: own(k), title: `${count(line.images)} images` },
          ),
        ),
      ),
    ),
  );
  plot.append(html("div", { class: "panel-head" }, head));
  const chart = lineChart(plot, {
    label: "Mean gate of the sampled channels",
    cursor: channelAt,
    pinned: channel,
    height: 300,
    xLabel: "channel",
    whole: true,
    x: () => now().sampled.map((_, i) => i),
    xText: (i) => String(now().sampled[positions()[i]]),
    limits: () => {
      const means = seen().flatMap((k) => now().mean[k]);
      const ends = seen().flatMap((k) =>
        now().mean[k].flatMap((v, i) =>
          spread === "none" || !isNumber(v) ? [v] : [v - now().deviation[k][i], v + now().deviation[k][i]],
        ),
      );
      const [[least, most], [low, high]] = [extent(means), extent(ends)];
      const room = 0.06 * (high - low || 0.1);
      // Most gates are from 0 to 1; those of tanh and ReLU go beyond.
      return range === "whole"
        ? [least < 0 ? low : 0, most > 1 ? high : 1]
        : [least < 0 ? low - room : Math.max(0, low - room), high + room];
    },
    series: () =>
      seen()
        .reverse()
        .map((k) => {
          const [mean, deviation] = [now().mean[k], now().deviation[k]];
          const y = positions().map((i) => mean[i]);
          const bound = (sign) =>
            spread === "none"
              ? null
              : positions().map((i) => (isNumber(mean[i]) ? mean[i] + sign * deviation[i] : null));
          return {
            y,
            low: bound(-1),
            high: bound(1),
            colour: own(k),
            width: k ? 1.5 : 2.2,
            dash: k > COLOURS - 1 ? "5 3" : null,
          };
        }),
    text: () =>
      `${nameOf(now())}, channel ${now().sampled[place()]}: ${seen()
        .map((k) => `${lines[k].name} ${number(now().mean[k][place()])}`)
        .join(", ")}`,
  });
  plot.append(
    html(
      "div",
      { class: "controls under" },
      choice("Order", { channel: "channel", mean: "mean gate" }, order, (v) => {
        order = v;
        chart.redraw();
        tell();
      }),
      choice("Scale", { whole: "0 to 1", fit: "fitted" }, range, (v) => {
        range = v;
        chart.redraw();
      }),
      choice("Spread within a class", { none: "hidden", shown: "one deviation" }, spread, (v) => {
        spread = v;
        chart.redraw();
      }),
    ),
  );
  plot.append(
    asTable(
      () => ["channel", ...lines.map((line) => line.name)],
      () => positions().map((i) => [String(now().sampled[i]), ...lines.map((_, k) => number(now().mean[k][i], 3))]),
    ),
  );
  channelAt.listen(tell);
  unit.listen(changed);
  changed();
  if (units.length > 1 && similarity?.length) alike();

  // What is to be said of every unit, by depth: one small chart each, and one cursor for all.
  function depth() {
    const percent = (v) => `${number(100 * v, 1)} %`;
    const measures = [
      { name: "mean gate", of: (u) => u.gate, text: (v) => number(v) },
      { name: "saturated", hint: "below 0.05 or above 0.95", of: (u) => u.low + u.high, text: percent },
      { name: "near one", hint: "within 0.05 of 1", of: (u) => u.near_one, text: percent },
      {
        name: "class specificity",
        hint: "part of the variance that is between classes",
        of: (u) => u.specificity,
        text: (v) => number(v),
      },
      { name: "entropy, bits", hint: "of a channel's gate over images", of: (u) => u.entropy, text: (v) => number(v) },
      {
        name: "error without it, %",
        hint: "top-1 error with the unit's gates at one",
        of: (u) => u.ablation?.off,
        text: (v) => number(v),
      },
    ].filter((m) => units.some((u) => isNumber(m.of(u))));
    const box = html("div", { class: "depth" });
    const gap = 28;

    function draw(width) {
      const fit = clamp(Math.floor((width + gap) / (150 + gap)), 2, measures.length);
      const columns = Math.ceil(measures.length / Math.ceil(measures.length / fit));
      const w = (width - gap * (columns - 1)) / columns;
      const [high, step] = [54, w / units.length];
      const bars = [];
      const values = [];
      const element = html(
        "div",
        { class: "multiples", style: `grid-template-columns:repeat(${columns},1fr);column-gap:${gap}px` },
        measures.map((m) => {
          const most = Math.max(...units.map((u) => m.of(u) ?? 0), 1e-9);
          const root = svg("svg", {
            width: w,
            height: high + 7,
            viewBox: `0 0 ${w} ${high + 7}`,
            "aria-hidden": "true",
          });
          bars.push(
            units.map((u, i) => {
              const tall = Math.max(1, (high * (m.of(u) ?? 0)) / most);
              const bar = svg("rect", {
                x: i * step,
                y: high - tall,
                width: Math.max(0.8, step - (step > 4 ? 2 : 0.4)),
                height: tall,
                rx: step > 8 ? 1.5 : 0,
              });
              root.append(bar);
              return bar;
            }),
          );
          root.append(svg("line", { class: "base", x1: 0, x2: w, y1: high, y2: high }));
          stages(step, (from, to) =>
            root.append(svg("line", { class: "stage", x1: from, x2: to, y1: high + 5, y2: high + 5 })),
          );
          const value = html("b");
          values.push(value);
          return html("div", {}, html("p", { title: m.hint }, m.name, " ", value), root);
        }),
      );
      return {
        element,
        at: (px) => Math.floor((px % (w + gap)) / step),
        mark(i) {
          measures.forEach((m, n) => {
            values[n].textContent = m.text(m.of(units[i]));
            bars[n].forEach((bar, k) => {
              bar.classList.toggle("on", k === i);
              bar.classList.toggle("kept", k === unit.value);
            });
          });
          where.textContent = nameOf(units[i]);
        },
      };
    }
    const where = html("b");
    box.append(
      html("p", { class: "panel-head" }, html("span", {}, "By depth, from the first unit to the last: "), where),
    );
    const text = (i) => `${nameOf(units[i])}: ${measures.map((m) => `${m.name} ${m.text(m.of(units[i]))}`).join(", ")}`;
    frame(box, { label: "Unit, by depth", cursor: unitAt, pinned: unit, count: () => units.length, text, draw });
    box.append(
      asTable(
        () => ["unit", ...measures.map((m) => m.name)],
        () => units.map((u) => [nameOf(u), ...measures.map((m) => m.text(m.of(u)))]),
      ),
    );
    return box;
  }

  // Calls with the two ends of each stage that holds more than a unit.
  function stages(step, call) {
    let from = 0;
    units.forEach((u, i) => {
      if (i + 1 < units.length && units[i + 1].stage === u.stage) return;
      if (u.stage) call(from * step, (i + 1) * step - Math.min(5, step / 2));
      from = i + 1;
    });
  }

  function chooser() {
    const groups = new Map();
    units.forEach((u, i) =>
      groups.set(u.stage, [
        ...(groups.get(u.stage) ?? []),
        html("option", { value: i }, u.label && u.label !== u.name ? `${u.label}  (${u.name})` : u.name),
      ]),
    );
    const select = html(
      "select",
      { id: "unit", onchange: () => go(Number(select.value)) },
      [...groups].map(([stage, options]) => (stage ? html("optgroup", { label: stage }, options) : options)),
    );
    const back = html(
      "button",
      { type: "button", class: "step", "aria-label": "Unit before", onclick: () => go(unit.value - 1) },
      "\u2190",
    );
    const on = html(
      "button",
      { type: "button", class: "step", "aria-label": "Next unit", onclick: () => go(unit.value + 1) },
      "\u2192",
    );
    const update = () => {
      select.value = String(unit.value);
      back.disabled = unit.value === 0;
      on.disabled = unit.value === units.length - 1;
    };
    unit.listen(update);
    update();
    return html("div", { class: "chooser" }, html("label", { for: "unit" }, "Unit"), back, select, on);
  }

  function go(i) {
    const at = clamp(i, 0, units.length - 1);
    unit.set(at);
    unitAt.set(at);
  }

  function changed() {
    const u = now();
    const at = clamp(channel.value, 0, u.sampled.length - 1);
    channel.set(at);
    channelAt.set(at);
    const percent = (v) => `${number(100 * v, 1)} %`;
    const all = [
      ["kind", u.kind],
      [
        "channels",
        u.sampled.length < u.channels ? `${u.sampled.length} of ${count(u.channels)} drawn` : count(u.channels),
      ],
      ["below 0.05", percent(u.low)],
      ["above 0.95", percent(u.high)],
      ["within 0.05 of 1", percent(u.near_one)],
    ];
    const replaced = { off: "gates at one", mean: "gates at their mean", shuffled: "gates of another image" };
    for (const [errors, whose] of [
      [u.ablation, ""],
      [ablation, "all units: "],
    ])
      for (const [key, name] of Object.entries(replaced))
        if (isNumber(errors?.[key]))
          all.push([
            `error, ${whose}${name}`,
            `${number(errors[key])} %${isNumber(error) ? ` (${signed(errors[key] - error)})` : ""}`,
          ]);
    facts.replaceChildren(...all.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
    chart.redraw();
    tell();
  }

  // The channel under the cursor: its gate for each class, and the images at its two ends.
  function tell() {
    const u = now();
    const i = place();
    head.textContent = `${nameOf(u)}, mean gate by channel`;
    const means = seen().map((k) => u.mean[k][i] ?? 0);
    const [least, most] = [Math.min(0, ...means), Math.max(1, ...means)];
    const percent = (v) => `${(100 * clamp((v - least) / (most - least), 0, 1)).toFixed(1)}%`;
    const rows = seen().map((k) => {
      const [m, d] = [u.mean[k][i], u.deviation[k][i]];
      const bar = isNumber(m)
        ? [
            html("i", { class: "span", style: `left:${percent(m - d)};right:calc(100% - ${percent(m + d)})` }),
            html("i", { class: "mean", style: `left:${percent(m)}` }),
          ]
        : [];
      return html(
        "li",
        { style: `--own:${own(k)}` },
        html("span", { class: "what" }, lines[k].name),
        html("div", { class: "range", "aria-hidden": "true" }, bar),
        html("span", { class: "n" }, html("b", {}, number(m)), html("small", {}, ` \u00b1 ${number(d)}`)),
      );
    });
    const strip = (title, ends) => {
      if (!ends?.length) return [];
      const images = ends.map(([image, value]) => {
        const source = thumbnails[image];
        const said = `image ${image}, gate ${number(value)}`;
        return html(
          "li",
          {},
          source
            ? html("img", { src: source, alt: said, title: said })
            : html("span", { class: "missing" }, `no. ${image}`),
          html("span", {}, number(value)),
        );
      });
      return [html("h4", {}, title), html("ul", { class: "strip" }, images)];
    };
    aside.replaceChildren(
      html("h3", {}, "Channel ", html("b", { class: "which" }, String(u.sampled[i]))),
      html("ul", { class: "forest slim" }, rows),
      ...strip("Images that open it", u.openers?.[i]),
      ...strip("Images that shut it", u.closers?.[i]),
    );
  }

  function alike() {
    const names = units.map(nameOf);
    const [low, high] = extent(similarity.flat());
    const box = html("div");
    host.append(
      html(
        "div",
        { class: "alike beside" },
        html(
          "div",
          {},
          html("h3", {}, "How alike the units are"),
          html(
            "p",
            { class: "note" },
            "Linear CKA of the class means: 1 where two units tell the classes apart in the same way; grey, and no number, for a unit whose gates are the same for all. Choosing a cell chooses the unit of its row.",
          ),
        ),
        box,
      ),
    );
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
          ? `color-mix(in oklab, var(--c2) ${(5 + 90 * ((v - low) / (high - low || 1)) ** 1.5).toFixed(0)}%, var(--paper))`
          : "color-mix(in oklab, var(--ink) 25%, var(--paper))",
      text: (i, j) => {
        const still = [i, j].filter((k) => !isNumber(similarity[k][k])).map((k) => names[k]);
        const said = still.length ? `${still[0]}'s gates are the same for all classes` : number(similarity[i][j]);
        return `${names[i]} and ${names[j]}: ${said}`;
      },
      pick: (i) => go(i),
    });
    box.append(
      asTable(
        () => ["unit", ...names],
        () => similarity.map((row, i) => [names[i], ...row.map((v) => number(v))]),
      ),
    );
  }
}
