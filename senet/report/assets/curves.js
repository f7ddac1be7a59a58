// The task's figure, loss and learning rate over the epochs; one cursor for all three.

const TRAIN = { dash: "4 3", width: 1.2 };
const TEST = { width: 2 };

function drawCurves(host, runs, { panels }) {
  const PANELS = panels.map((panel) => ({
    ...panel,
    main: panel.test === "eval_" ? panel.train : panel.test,
    ...(panel.title === "Loss" ? { digits: 3, knee: 0.1 } : { digits: 2, knee: 1 }),
    height: 270,
  }));
  const KEYS = PANELS.flatMap((panel) => [panel.train, panel.test]);
  const names = Object.keys(runs).filter((name) => runs[name].some((history) => history.length));
  const longest = names.flatMap((name) => runs[name]).reduce((a, b) => (b.length > a.length ? b : a), []);
  const epochs = longest.map((row) => row.epoch);
  const means = Object.fromEntries(
    names.map((name) => [name, Object.fromEntries(KEYS.map((key) => [key, overSeeds(name, key)]))]),
  );
  const cursor = shared(epochs.length - 1);
  const pinned = shared(epochs.length - 1);
  const hidden = new Set(names.slice(6));
  // Curves that fall far are flat on a linear scale.
  const ends = Object.values(means).map((mean) => extent(mean[PANELS[0].main].y));
  let isLog = PANELS[0].main === "eval_top1_error" && ends.some(([low, high]) => high > 20 * low);
  let isLate = false;

  const first = () => (isLate ? Math.floor(epochs.length / 2) : 0);
  const here = () => first() + cursor.value;
  const shown = () => names.filter((name) => !hidden.has(name));
  const ownColour = (name) => colour(names.length > 1 ? names.indexOf(name) : 1);

  // Mean, lowest and highest value over the seeds in each epoch. A single seed has no band.
  function overSeeds(name, key) {
    const columns = epochs.map((_, e) => runs[name].map((history) => history[e]?.[key]).filter(isNumber));
    const each = (f) => columns.map((column) => (column.length ? f(column) : null));
    const y = each((column) => column.reduce((a, b) => a + b, 0) / column.length);
    if (runs[name].length < 2) return { y };
    return { y, low: each((column) => Math.min(...column)), high: each((column) => Math.max(...column)) };
  }

  function line(name, key, style) {
    const { y, low, high } = means[name][key];
    const part = (values) => values?.slice(first());
    return { y: part(y), low: part(low), high: part(high), colour: ownColour(name), ...style };
  }

  // For the last half of the epochs the axis fits the evaluated curves and need not begin at zero.
  function limits(panel) {
    if (!isLate || isLog) return null;
    const lines = shown().map((name) => line(name, panel.main));
    const [low, high] = extent(lines.flatMap((l) => [...l.y, ...(l.low ?? []), ...(l.high ?? [])]));
    const room = 0.06 * (high - low || 0.1);
    return [Math.max(0, low - room), high + room];
  }

  const redraws = [];
  const redraw = () => redraws.forEach((one) => one());
  host.append(controls());
  const grid = html("div.panels");
  host.append(grid);

  function controls() {
    const box = html("div.controls");
    const chips = names.map((name, i) => {
      const change = (isOn) => {
        isOn ? hidden.delete(name) : hidden.add(name);
        redraw();
      };
      return toggle(name, !hidden.has(name), change, { own: colour(i) });
    });
    if (names.length > 1) box.append(html("div.chips", { role: "group", "aria-label": "Networks" }, chips));
    const changeScale = (scale) => {
      isLog = scale === "log";
      redraw();
    };
    box.append(choice("Scale", { linear: "linear", log: "log" }, isLog ? "log" : "linear", changeScale));
    const changePart = (part) => {
      isLate = part === "late";
      pinned.set(epochs.length - first() - 1);
      cursor.set(pinned.value);
      redraw();
    };
    if (epochs.length > 7) box.append(choice("Epochs", { all: "all", late: "last half" }, "all", changePart));
    return box;
  }

  // A chart with the values under the cursor above it. `values()`: [{name, colour, value, notes}].
  function addPanel(title, values, options) {
    const where = html("span.where");
    const read = html("ul.read");
    const panel = html("div.panel", html("div.panel-head", html("h3", title), where), read);
    grid.append(panel);
    const chart = lineChart(panel, {
      label: `${title} over the epochs`,
      cursor,
      pinned,
      whole: true,
      x: () => epochs.slice(first()),
      text: () => {
        const each = values().map((v) => `${v.name} ${[v.value, ...v.notes].join(", ")}`);
        return `epoch ${epochs[here()]}: ${each.join("; ")}`;
      },
      ...options,
    });
    const tell = () => {
      where.textContent = `epoch ${epochs[here()]}`;
      read.replaceChildren(
        ...values().map((v) =>
          html(
            "li",
            { style: `--own:${v.colour}` },
            html("i.dot"),
            v.isNamed ? html("span", v.name) : null,
            html("b", v.value),
            v.notes.map((note) => html("small", note)),
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
    return panel;
  }

  for (const panel of PANELS) {
    const values = () =>
      shown().map((name) => {
        const [main, train] = [means[name][panel.main], means[name][panel.train]];
        const at = (list) => number(list[here()], panel.digits);
        const notes = main.low ? [`seeds ${at(main.low)} to ${at(main.high)}`] : [];
        if (panel.main !== panel.train && isNumber(train.y[here()])) notes.push(`training ${at(train.y)}`);
        return { name, isNamed: names.length > 1, colour: ownColour(name), value: at(main.y), notes };
      });
    addPanel(panel.title, values, {
      height: panel.height,
      xLabel: "epoch",
      knee: () => (isLog ? panel.knee : 0),
      limits: () => limits(panel),
      series: () =>
        shown()
          .flatMap((name) => [line(name, panel.train, TRAIN), line(name, panel.test, TEST)])
          .filter((one) => one.y.some(isNumber)),
    });
  }
  const rates = longest.map((row) => row.lr);
  const rate = () => [{ name: "learning rate", colour: "var(--ink)", value: tickText(rates[here()]), notes: [] }];
  addPanel("Learning rate", rate, {
    height: 110,
    series: () => [{ y: rates.slice(first()), colour: "var(--ink)", ...TEST }],
  }).classList.add("wide");

  // Of a panel, the columns that have values: evaluated, then training.
  const keys = (p) => [p.test, p.train].filter((key) => shown().some((name) => means[name][key].y.some(isNumber)));
  const titled = (name, p) =>
    keys(p).map((key, i) => (i && key === p.train ? "training" : `${name}, ${p.title.toLowerCase()}`));
  const columns = () => ["epoch", ...shown().flatMap((name) => PANELS.flatMap((p) => titled(name, p)))];
  const cells = (name, i) => PANELS.flatMap((p) => keys(p).map((key) => number(means[name][key].y[i], p.digits)));
  const rows = () => epochs.map((epoch, i) => [String(epoch), ...shown().flatMap((name) => cells(name, i))]);
  host.append(asTable("Values by epoch", columns, rows));
}
