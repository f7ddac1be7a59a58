// The confusion matrix and the calibration diagram.

function drawConfusion(host, { classes, matrix }) {
  const totals = matrix.map((row) => row.reduce((a, b) => a + b, 0));
  const share = (i, j) => (totals[i] ? matrix[i][j] / totals[i] : 0);
  let worst = 1e-9;
  matrix.forEach((row, i) =>
    row.forEach((_, j) => {
      if (i !== j) worst = Math.max(worst, share(i, j));
    }),
  );
  const names = classes.length <= 20;
  heatMap(host, {
    label: "Confusion matrix",
    rows: classes,
    columns: classes,
    values: matrix,
    names,
    most: names ? 46 : 16,
    cursor: shared(null),
    hint: "Point at a cell, or move with the arrow keys.",
    colour: (v, i, j) => {
      if (i === j) return `color-mix(in oklab, var(--c2) ${(12 + 48 * share(i, j)).toFixed(0)}%, var(--paper))`;
      const strength = v ? 14 + 86 * Math.sqrt(share(i, j) / worst) : 0;
      return strength ? `color-mix(in oklab, var(--c1) ${strength.toFixed(0)}%, var(--paper))` : "var(--well)";
    },
    inside: (v) => (v ? count(v) : null),
    strong: (v, i, j) => i !== j && share(i, j) > 0.4 * worst,
    text: (i, j) =>
      i === j
        ? `${classes[i]}: ${count(matrix[i][j])} of ${count(totals[i])} right, ${percent(share(i, j))}`
        : `${classes[i]} taken for ${classes[j]}: ${count(matrix[i][j])} of ${count(totals[i])}, ${percent(share(i, j))}`,
  });
  host.append(
    asTable(
      "Confusion matrix",
      () => ["truth", ...classes],
      () => matrix.map((row, i) => [classes[i], ...row.map(count)]),
    ),
  );
}

function drawCalibration(host, { bins }) {
  const most = Math.max(...bins.map((b) => b.images), 1);
  const all = bins.reduce((sum, b) => sum + b.images, 0) || 1;
  const fullest = bins.findIndex((b) => b.images === most);
  const cursor = shared(Math.max(0, fullest));
  const pinned = shared(cursor.value);
  const readout = html("output.readout");
  const text = (i) => {
    const b = bins[i];
    const range = `confidence ${number(b.low)} to ${number(b.high)}`;
    return b.images
      ? `${range}: ${count(b.images)} images (${percent(b.images / all)}), mean confidence ${number(b.confidence)}, right ${number(b.accuracy)}`
      : `${range}: no images`;
  };

  function draw(width) {
    const [left, right, top, side] = [36, 10, 8, Math.min(width - 46, 380)];
    const low = 56;
    const height = top + side * 0.78 + 14 + low + 34;
    const sx = scale(0, 1, left, left + side);
    const sy = scale(0, 1, top + side * 0.78, top);
    const base = top + side * 0.78 + 14 + low;
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const v of [0, 0.25, 0.5, 0.75, 1]) {
      root.append(svg("line.grid", { x1: left, x2: sx(1), y1: sy(v), y2: sy(v) }));
      root.append(svg("text", { x: left - 8, y: sy(v), dy: "0.32em", "text-anchor": "end" }, tickText(v)));
      root.append(svg("text", { x: sx(v), y: base + 18, "text-anchor": v === 1 ? "end" : "middle" }, tickText(v)));
    }
    root.append(svg("text", { x: sx(1), y: base + 32, "text-anchor": "end", class: "axis" }, "confidence"));
    root.append(svg("text", { x: left + 4, y: top + 8, class: "axis" }, "share that is right"));
    const bars = bins.map((b) => {
      const [x, w] = [sx(b.low) + 1, Math.max(1, sx(b.high) - sx(b.low) - 2)];
      const group = svg("g.bin");
      if (b.images) {
        const [less, more] = [Math.min(b.accuracy, b.confidence), Math.max(b.accuracy, b.confidence)];
        const gap = b.accuracy < b.confidence ? "overconfident" : "underconfident";
        group.append(svg("rect", { x, width: w, y: sy(less), height: sy(0) - sy(less), class: "right" }));
        group.append(svg("rect", { x, width: w, y: sy(more), height: sy(less) - sy(more), class: gap }));
        const tall = (low * b.images) / most;
        group.append(svg("rect", { x, width: w, y: base - tall, height: Math.max(tall, 1), class: "many" }));
      }
      root.append(group);
      return group;
    });
    root.append(svg("line.diagonal", { x1: sx(0), y1: sy(0), x2: sx(1), y2: sy(1) }));
    root.append(svg("line.base", { x1: left, x2: sx(1), y1: base, y2: base }));
    root.append(svg("text", { x: left + 4, y: base - low + 4, class: "axis" }, "images"));
    return {
      element: root,
      at: (px) => bins.reduce((best, b, i) => (px >= sx(b.low) ? i : best), 0),
      mark: (i) => bars.forEach((bar, k) => bar.classList.toggle("on", k === i)),
    };
  }
  frame(host, { label: "Accuracy by confidence", cursor, pinned, count: () => bins.length, text, draw });
  const tell = () => {
    readout.textContent = text(cursor.value);
  };
  cursor.listen(tell);
  tell();
  const kinds = ["right", "overconfident", "underconfident"];
  const key = html(
    "p.key.note",
    kinds.flatMap((kind) => [html(`i.swatch.${kind}`), ` ${kind} `]),
  );
  host.append(
    readout,
    key,
    asTable(
      "Accuracy by confidence",
      () => ["confidence", "images", "mean confidence", "right"],
      () =>
        bins.map((b) => [
          `${number(b.low)} to ${number(b.high)}`,
          count(b.images),
          number(b.confidence, 3),
          number(b.accuracy, 3),
        ]),
    ),
  );
}
