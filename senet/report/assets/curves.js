// Error, loss and learning rate over the epochs; one cursor for all three.

function drawCurves(host, runs) {
  const names = Object.keys(runs).filter((name) => runs[name].some((history) => history.length));
  const longest = names.flatMap((n) => runs[n]).reduce((a, b) => (b.length > a.length ? b : a), []);
  const epochs = longest.map((row) => row.epoch);
  const cursor = shared(epochs.length - 1);
  const pinned = shared(epochs.length - 1);
  const hidden = new Set(names.slice(6));
  let isLog = false;
  let isLate = false;

  const from = () => (isLate ? Math.floor(epochs.length / 2) : 0);
  const shownEpochs = () => epochs.slice(from());
  const here = () => from() + cursor.value;

  // Mean, lowest and highest over the seeds, epoch by epoch.
  function over(name, key) {
    const columns = epochs.map((_, e) => runs[name].map((history) => history[e]?.[key]).filter(isNumber));
    const most = (f) => columns.map((c) => (c.length ? f(c) : null));
    return {
      y: most((c) => c.reduce((a, b) => a + b, 0) / c.length),
      low: most((c) => Math.min(...c)),
      high: most((c) => Math.max(...c)),
      seeds: runs[name].length,
    };
  }
  const found = new Map();
  function values(name, key) {
    const id = JSON.stringify([name, key]);
    if (!found.has(id)) found.set(id, over(name, key));
    return found.get(id);
  }
  const own = (name) => colour(names.length > 1 ? names.indexOf(name) : 1);
  const has = (key) => longest.some((row) => isNumber(row[key]));
  const shown = () => names.filter((name) => !hidden.has(name));

  function series(test, train) {
    return shown().flatMap((name) => {
      const ink = own(name);
      const one = (key, style) => {
        const { seeds, ...v } = values(name, key);
        const [y, low, high] = [v.y, v.low, v.high].map((values) => values.slice(from()));
        return { y, ...(seeds > 1 ? { low, high } : {}), colour: ink, ...style };
      };
      return [
        ...(train && has(train) ? [one(train, { dash: "4 3", width: 1.2 })] : []),
        ...(has(test) ? [one(test, { width: 2 })] : []),
      ];
    });
  }

  const panels = [
    { title: "Error, %", test: "test_top1_error", train: "train_error", digits: 2, height: 270 },
    { title: "Loss", test: "test_loss", train: "train_loss", digits: 3, height: 270 },
    { title: "Learning rate", test: "lr", train: null, height: 110 },
  ].filter((p) => has(p.test));

  // Seen late, an axis need not begin at zero: it holds the test curves.
  function limits(p) {
    if (!isLate || isLog || !p.train) return null;
    const [low, high] = extent(
      shown().flatMap((name) => ["y", "low", "high"].flatMap((k) => values(name, p.test)[k].slice(from()))),
    );
    const room = 0.06 * (high - low || 0.1);
    return [Math.max(0, low - room), high + room];
  }

  const redraws = [];
  const grid = html("div", { class: "panels" });
  const update = () => redraws.forEach((redraw) => redraw());
  const controls = html("div", { class: "controls" });
  if (names.length > 1)
    controls.append(
      html(
        "div",
        { class: "chips", role: "group", "aria-label": "Networks" },
        names.map((name, i) =>
          toggle(
            name,
            !hidden.has(name),
            (on) => {
              on ? hidden.delete(name) : hidden.add(name);
              update();
            },
            { own: colour(i) },
          ),
        ),
      ),
    );
  controls.append(
    choice("Scale", { linear: "linear", log: "log" }, "linear", (v) => {
      isLog = v === "log";
      update();
    }),
  );
  if (epochs.length > 7)
    controls.append(
      choice("Epochs", { all: "all", late: "last half" }, "all", (v) => {
        isLate = v === "late";
        pinned.set(shownEpochs().length - 1);
        cursor.set(pinned.value);
        update();
      }),
    );
  host.append(controls, grid);

  for (const p of panels) {
    const at = html("span", { class: "where" });
    const read = html("ul", { class: "read" });
    const panel = html(
      "div",
      { class: `panel ${p.train ? "" : "wide"}` },
      html("div", { class: "panel-head" }, html("h3", {}, p.title), at),
      read,
    );
    grid.append(panel);
    const pieces = () =>
      (p.train ? shown() : shown().slice(0, 1)).map((name) => {
        const test = values(name, p.test);
        const i = here();
        const spread =
          p.train && test.seeds > 1 && isNumber(test.low[i])
            ? ` (${number(test.low[i], p.digits)} to ${number(test.high[i], p.digits)})`
            : "";
        const train = p.train && has(p.train) ? number(values(name, p.train).y[i], p.digits) : null;
        return { name, test: p.train ? number(test.y[i], p.digits) : tickText(test.y[i]), spread, train };
      });
    const text = () =>
      `epoch ${epochs[here()]}: ${pieces()
        .map((v) => `${v.name} ${v.test}${v.spread}${v.train ? `, training ${v.train}` : ""}`)
        .join("; ")}`;
    const chart = lineChart(panel, {
      label: `${p.title} over the epochs`,
      cursor,
      pinned,
      height: p.height,
      xLabel: p.train ? "epoch" : null,
      whole: true,
      x: shownEpochs,
      log: () => isLog,
      text,
      limits: () => limits(p),
      series: () =>
        p.train
          ? series(p.test, p.train)
          : series(p.test, null)
              .slice(0, 1)
              .map((s) => ({ ...s, low: null, colour: "var(--ink)" })),
    });
    const tell = () => {
      at.textContent = `epoch ${epochs[here()]}`;
      read.replaceChildren(
        ...pieces().map((v) =>
          html(
            "li",
            { style: `--own:${p.train ? own(v.name) : "var(--ink)"}` },
            html("i", { class: "dot" }),
            p.train && names.length > 1 ? html("span", {}, v.name) : null,
            html("b", {}, v.test),
            v.spread ? html("small", {}, v.spread) : null,
            v.train ? html("small", {}, `training ${v.train}`) : null,
          ),
        ),
      );
    };
    cursor.listen(tell);
    tell();
    redraws.push(() => {
      chart.redraw();
      tell();
    });
  }
  const columns = () => [
    "epoch",
    ...shown().flatMap((n) =>
      panels.filter((p) => p.train).flatMap((p) => [`${n}, test ${p.title.toLowerCase()}`, `training`]),
    ),
  ];
  const rows = () =>
    epochs.map((epoch, i) => [
      String(epoch),
      ...shown().flatMap((n) =>
        panels
          .filter((p) => p.train)
          .flatMap((p) => [number(values(n, p.test).y[i], p.digits), number(values(n, p.train).y[i], p.digits)]),
      ),
    ]);
  host.append(asTable(columns, rows));
}
