// The heads: their ranking and what the paired tests say, and of the chosen one its settings, probabilities and classes.

const SCORES = { accuracy: "accuracy", balanced_accuracy: "balanced accuracy", macro_f1: "macro-F1", log_loss: "log-loss" };
const shown = (key, value) => (key === "log_loss" ? fixed(value) : percent(value));

function rankingSection() {
  const body = section("ranking", "Ranking", `${many(F.n, "picture")} of ${F.split}; lines are 95% intervals, the same pictures for every head.`);
  const holder = el("div", { class: "chart" });
  let key = "accuracy";
  const again = drawn(holder, (width) => rankingChart(width, key));
  body.append(
    switcher("score", Object.entries(SCORES), key, (value) => {
      key = value;
      again();
    }),
    holder,
    scoresTable(),
    ...pairsOf(),
    ...F.heads.flatMap((h) => h.notes.map((note) => el("p", { class: "remark", text: `${h.name}: ${note}` }))),
    ...F.notes.map((note) => el("p", { class: "remark", text: note })),
  );
}

function rankingChart(width, key) {
  const heads = F.heads;
  const narrow = width < 560;
  const row = narrow ? 46 : 34;
  const left = narrow ? 12 : Math.min(220, 24 + 8 * Math.max(...heads.map((h) => h.name.length)));
  const right = narrow ? 62 : 150;
  const format = key === "log_loss" ? (v) => fixed(v, 2) : percents;
  const domain = stretch(heads.flatMap((h) => h[key].slice(1)), 0.06, key === "log_loss" ? [0, Infinity] : [0, 1]);
  const height = heads.length * row + 56;
  const y = { domain: [heads.length, 0], ticks: [] };
  const x = { domain, format, label: `${SCORES[key]}, with 95% interval` };
  const chart = frame({ width, height, left, right, top: 8, bottom: 46, x, y, label: `${SCORES[key]} of ${many(heads.length, "head")}` });
  heads.forEach((h, i) => {
    const [value, low, high] = h[key];
    const middle = 8 + (i + (narrow ? 0.68 : 0.5)) * row;
    const colour = h.verdict === "worse" ? token("quiet") : token("blue");
    const words = `${h.name}: ${shown(key, value)} [${shown(key, low)}, ${shown(key, high)}]`;
    chart.inside.append(
      svg("text", { class: "name", x: narrow ? left : left - 12, y: narrow ? middle - 13 : middle + 4, "text-anchor": narrow ? "start" : "end", text: h.name }),
      svg("line", { class: "interval", x1: chart.x(low), x2: chart.x(high), y1: middle, y2: middle, stroke: colour }),
      dot(chart.x(value), middle, 6, words, { fill: colour }),
      svg("text", { class: "value", x: width - right + 12, y: middle + 4, fill: colour, text: shown(key, value) }),
    );
    if (!narrow) chart.inside.append(svg("text", { class: "tick", x: width - right + 72, y: middle + 4, text: verdictWords(h) }));
  });
  return chart.picture;
}

const verdictWords = (h) => ({ best: F.heads.length > 1 ? "first" : "", tie: "ties with it", worse: "is worse" })[h.verdict];

function scoresTable() {
  const cell = (h, key) => {
    const [value, low, high] = h[key];
    return el("span", {}, shown(key, value), el("span", { class: "quiet range", text: ` ${shown(key, low)} – ${shown(key, high)}` }));
  };
  const columns = [{ name: "head", left: true }, ...Object.values(SCORES).map((name) => ({ name })), { name: "calibration error" }];
  const rows = F.heads.map((h) => [h.name, ...Object.keys(SCORES).map((key) => cell(h, key)), percent(h.ece)]);
  return el("details", {}, el("summary", { text: "All scores" }), table(columns, rows));
}

function pairsOf() {
  if (!F.pairs.length) return [];
  const columns = [
    { name: "compared", left: true },
    { name: "verdict", left: true },
    { name: "p" },
    { name: "p over all pairs" },
    ...F.pairs[0].others.map((other) => ({ name: other.what })),
  ];
  const rows = F.pairs.map((pair) => [
    `${pair.a} – ${pair.b}`,
    el("span", { class: pair.real ? "badge real" : "badge", text: pair.verdict }),
    fixed(pair.p),
    fixed(pair.p_holm),
    ...pair.others.map((o) => el("span", { class: o.p_holm < 0.05 ? "" : "quiet", text: `${o.difference >= 0 ? "+" : "−"}${fixed(Math.abs(o.difference))} (${pValue(o.p_holm)})` })),
  ]);
  const note =
    "Accuracies by McNemar's exact test, the rest as the difference by the paired bootstrap; p-values are corrected over all pairs (Holm). A difference is called real below 0.05.";
  const inner = [table(columns, rows, { tall: true }), el("p", { class: "remark", text: note })];
  if (F.separation && F.separation.detectable !== null) {
    const text = `${whole(F.n)} pictures show a difference of ${(100 * F.separation.detectable).toFixed(1)} points between the two best in four cases of five.`;
    inner.push(el("p", { class: "remark", text }));
  }
  return [el("details", { open: F.pairs.length <= 6 }, el("summary", { text: `Paired tests (${many(F.pairs.length, "pair")})` }), ...inner)];
}

function pathSection() {
  const body = section("path", "What was tried", "Held-out accuracy and log-loss of every setting, from training pictures alone.", "Settings");
  const holder = el("div", { class: "chart" });
  const remark = el("p", { class: "remark" });
  const again = drawn(holder, pathChart);
  body.append(holder, remark);
  onHead(() => {
    again();
    const path = head().path;
    remark.textContent = path ? pathWords(path) : "";
  });
}

function pathWords(path) {
  const source = { cv: `${path.folds}-fold cross-validation`, val: "the val split", loo: "leaving each picture out" }[path.tuned_on] || path.tuned_on;
  const chosen = path.points[path.chosen];
  const setting = chosen ? path.along.map((name, i) => `${name} = ${setting4(chosen.value[i])}`).join(", ") : "";
  return `${setting ? `${setting} was chosen by ${source}` : `Measured by ${source}`}${path.points.some((p) => p.deviation) ? "; the band is one deviation over the folds" : ""}.`;
}
const setting4 = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value));

function pathChart(width) {
  const path = head().path;
  if (!path) return el("p", { class: "empty", text: `${head().name} was fitted with one setting: nothing was chosen.` });
  const points = path.points.map((p, i) => ({ ...p, i }));
  const numbers = path.along.length === 1 && points.every((p) => typeof p.value[0] === "number");
  if (!numbers) return settingsList(path);
  points.sort((a, b) => a.value[0] - b.value[0]);
  const values = points.map((p) => p.value[0]);
  const log = values[0] > 0;
  const x = { domain: [values[0], values.at(-1)], log, ticks: spread(values, width), format: setting4 };
  const chosen = path.chosen === null ? null : path.points[path.chosen];
  const holder = el("div");
  for (const [key, height, format] of [["accuracy", 230, percents], ["log_loss", 170, (v) => fixed(v, 2)]]) {
    const spreads = points.map((p) => (key === "accuracy" ? p.deviation : 0));
    const domain = stretch(points.flatMap((p, i) => [p[key] - spreads[i], p[key] + spreads[i]]));
    const last = key === "log_loss";
    const y = { domain, format, label: `held-out ${last ? "log-loss" : "accuracy"}` };
    const chart = frame({ width, height, left: 58, right: 20, bottom: last ? 42 : 18, x: { ...x, bare: !last, label: last ? path.along[0] : "" }, y, label: `${y.label} along ${path.along[0]}` });
    const at = (p, shift = 0) => [chart.x(p.value[0]), chart.y(p[key] + shift)];
    if (spreads.some(Boolean)) chart.inside.append(area(points.map((p, i) => at(p, spreads[i])), points.map((p, i) => at(p, -spreads[i]))));
    if (chosen) chart.inside.append(svg("line", { class: "mark", x1: at(chosen)[0], x2: at(chosen)[0], y1: chart.box.top, y2: chart.box.bottom }));
    chart.inside.append(line(points.map((p) => at(p))));
    for (const p of points) {
      const words = `${path.along[0]} = ${setting4(p.value[0])}: accuracy ${percent(p.accuracy)}, log-loss ${fixed(p.log_loss)}`;
      const own = p.i === path.chosen;
      chart.inside.append(dot(...at(p), own ? 6.5 : 4, own ? `${words} (chosen)` : words, { class: own ? "dot chosen" : "dot" }));
    }
    holder.append(chart.picture);
  }
  return holder;
}

// As many of the values as fit beside each other.
function spread(values, width) {
  const step = Math.ceil(values.length / Math.max(2, Math.floor(width / 85)));
  return values.filter((_, i) => i % step === 0);
}

function settingsList(path) {
  const order = path.points.map((p, i) => ({ ...p, i })).sort((a, b) => b.accuracy - a.accuracy || a.log_loss - b.log_loss);
  const columns = [...path.along.map((name) => ({ name, left: true })), { name: "accuracy" }, { name: "log-loss" }, { name: "", left: true }];
  const rows = order.slice(0, 12).map((p) => [...p.value.map(setting4), percent(p.accuracy), fixed(p.log_loss), p.i === path.chosen ? "chosen" : ""]);
  return table(columns, rows);
}

function calibrationSection() {
  const body = section("calibration", "Calibration", "Of the answers given with so much confidence, how many are right? On the diagonal probabilities can be taken at face value.");
  const curve = el("div", { class: "chart" });
  const bars = el("div", { class: "chart" });
  const remark = el("p", { class: "remark" });
  const runs = [drawn(curve, calibrationChart), drawn(bars, confidenceChart)];
  body.append(el("div", { class: "halves" }, curve, bars), remark);
  onHead(() => {
    runs.forEach((again) => again());
    const h = head();
    const n = h.calibration.reduce((sum, bin) => sum + bin.n, 0);
    const sure = h.calibration.reduce((sum, bin) => sum + bin.n * (bin.confidence - bin.accuracy), 0) / n;
    const side = Math.abs(sure) < 0.01 ? "neither too sure nor too timid" : sure > 0 ? `too sure by ${percent(sure)} on average` : `too timid by ${percent(-sure)} on average`;
    remark.textContent = `Expected calibration error ${percent(h.ece)} over 15 bins, where ${whole(n)} pictures give up to ${percent(h.ece_by_chance)} by chance; ${h.name} is ${side}.`;
  });
}

const QUARTERS = [0, 0.25, 0.5, 0.75, 1];
const shareAxis = (label) => ({ domain: [0, 1], format: percents, label, ticks: QUARTERS });

function calibrationChart(width) {
  const x = shareAxis("confidence");
  const chart = frame({ width, height: Math.min(width * 0.8, 380), left: 58, right: 22, x, y: shareAxis("answers that are right"), label: `calibration of ${head().name}` });
  const bins = head().calibration;
  chart.inside.append(svg("line", { class: "diagonal", x1: chart.x(0), y1: chart.y(0), x2: chart.x(1), y2: chart.y(1) }));
  chart.inside.append(line(bins.map((bin) => [chart.x(bin.confidence), chart.y(bin.accuracy)]), { class: "line thin" }));
  for (const bin of bins) {
    const place = chart.x(bin.confidence);
    const words = `confidence ${percent(bin.confidence)}: ${percent(bin.accuracy)} of ${many(bin.n, "picture")} right [${percent(bin.ci95[0], 0)}, ${percent(bin.ci95[1], 0)}]`;
    chart.inside.append(interval(place, chart.y(bin.ci95[0]), chart.y(bin.ci95[1])), dot(place, chart.y(bin.accuracy), 5, words));
  }
  return chart.picture;
}

// How many answers have so much confidence: the right ones below, the wrong ones on top of them.
function confidenceChart(width) {
  const bins = head().calibration;
  const most = Math.max(...bins.map((bin) => bin.n));
  const y = { domain: [0, most * 1.05], format: whole, label: "pictures" };
  const chart = frame({ width, height: Math.min(width * 0.8, 380), left: 62, right: 22, x: shareAxis("confidence"), y, label: `confidence of ${head().name}` });
  for (const bin of bins) {
    const right = Math.round(bin.n * bin.accuracy);
    const box = { x: chart.x(bin.low) + 1, width: chart.x(bin.high) - chart.x(bin.low) - 2 };
    const words = `confidence ${percent(bin.low, 0)} to ${percent(bin.high, 0)}: ${whole(right)} right, ${whole(bin.n - right)} wrong`;
    const part = (low, high, name) => svg("rect", { class: name, ...box, y: chart.y(high), height: chart.y(low) - chart.y(high) }, svg("title", { text: words }));
    chart.inside.append(part(0, right, "bar"), part(right, bin.n, "bar wrong"));
  }
  chart.inside.append(
    svg("text", { class: "tick blue", x: chart.box.left + 10, y: chart.box.top + 14, text: "right" }),
    svg("text", { class: "tick orange", x: chart.box.left + 46, y: chart.box.top + 14, text: "wrong" }),
  );
  return chart.picture;
}

function classesSection() {
  const body = section("classes", "Classes", "Recall: how many of a class are found. Precision (ring): how many of those called so are. With 95% intervals of the recall.");
  const orders = { recall: "hardest first", precision: "least precise", support: "largest", name: "by name" };
  let order = "recall";
  let wanted = "";
  const holder = el("div", { class: "chart" });
  const box = el("div", { class: "tall", tabindex: F.n_classes > 24 ? 0 : null }, holder);
  const again = drawn(holder, (width) => classesChart(width, order, wanted));
  const find = el("input", { type: "search", placeholder: "find a class", "aria-label": "find a class" });
  find.addEventListener("input", () => {
    wanted = find.value.toLowerCase();
    again();
  });
  const bar = el("div", { class: "controls" }, switcher("order", Object.entries(orders), order, (value) => {
    order = value;
    again();
  }));
  if (F.n_classes > 10) bar.append(find);
  body.append(bar, box);
  const empty = head().classes.flatMap((row, i) => (row.support ? [] : [F.classes[i]]));
  if (empty.length) body.append(el("p", { class: "remark", text: `Without a picture in ${F.split}, and so not measured: ${empty.join(", ")}.` }));
  onHead(again);
}

function classesChart(width, order, wanted) {
  const rows = head()
    .classes.map((row, i) => ({ ...row, i, name: F.classes[i] }))
    .filter((row) => row.support && row.name.toLowerCase().includes(wanted));
  if (!rows.length) return el("p", { class: "empty", text: "No class has this name." });
  const by = {
    recall: (a, b) => a.recall - b.recall || b.support - a.support,
    precision: (a, b) => (a.precision ?? -1) - (b.precision ?? -1),
    support: (a, b) => b.support - a.support,
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
  }[order];
  rows.sort(by);
  const narrow = width < 560;
  const step = narrow ? 40 : 26;
  const letters = Math.max(...rows.map((row) => row.name.length));
  const left = narrow ? 8 : Math.min(240, 26 + 7.4 * Math.min(letters, 28));
  const right = narrow ? 56 : 128;
  const height = rows.length * step + 44;
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "recall and precision of each class" });
  const x = scale([0, 1], [left, width - right]);
  for (const v of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(
      svg("line", { class: "grid", x1: x(v), x2: x(v), y1: 4, y2: height - 36 }),
      svg("text", { class: "tick", x: x(v), y: height - 18, "text-anchor": "middle", text: percent(v, 0) }),
    );
  }
  rows.forEach((row, k) => {
    const top = 6 + k * step + (narrow ? 16 : 3);
    const tall = narrow ? 14 : step - 10;
    const words = `${row.name}: recall ${percent(row.recall)} of ${whole(row.support)}, precision ${percent(row.precision)}, F1 ${fixed(row.f1, 2)}`;
    const middle = top + tall / 2;
    const name = row.name.length > 28 ? `${row.name.slice(0, 26)}…` : row.name;
    picture.append(
      svg("text", { class: "name", x: narrow ? left : left - 10, y: narrow ? top - 4 : middle + 4, "text-anchor": narrow ? "start" : "end", text: name }),
      svg("rect", { class: "bar", x: x(0), y: top, width: Math.max(x(row.recall) - x(0), 1), height: tall, rx: 2 }, svg("title", { text: words })),
      svg("line", { class: "interval ink", x1: x(row.recall_ci95[0]), x2: x(row.recall_ci95[1]), y1: middle, y2: middle }),
      svg("text", { class: "value", x: width - right + 10, y: middle + 4, text: percent(row.recall, 0) }),
    );
    if (row.precision !== null) picture.append(svg("circle", { class: "ring", cx: x(row.precision), cy: middle, r: 5 }, svg("title", { text: words })));
    if (!narrow) picture.append(svg("text", { class: "tick", x: width - right + 56, y: middle + 4, text: `of ${whole(row.support)}` }));
  });
  return picture;
}

function curveSection() {
  if (!F.curve) return;
  const { head: name, on, points, forecasts, law, reason, notes } = F.curve;
  const draws = points[0].draws.length;
  const body = section("curve", "Learning curve", `${name} trained on growing parts, ${draws} times each, at the setting that was chosen; measured on ${on}. Dots are single draws, the band is the 95% interval of their mean.`, "More data");
  const holder = el("div", { class: "chart" });
  drawn(holder, (width) => curveChart(width, points, forecasts, law));
  body.append(holder);
  const words = forecasts.map((f) => `With ${whole(f.n)} pictures expect ${percent(f.accuracy)} [${percent(f.ci95[0])}, ${percent(f.ci95[1])}].`);
  if (reason) words.push(`${forecasts.length ? "Further it cannot be told" : "What more pictures would give cannot be told"}: ${reason}.`);
  for (const text of [...words, ...notes]) body.append(el("p", { class: "remark", text }));
}

function curveChart(width, points, forecasts, law) {
  const sizes = [...points, ...forecasts].map((p) => p.n);
  const values = [...points.flatMap((p) => [...p.draws, ...(p.ci95 || [])]), ...forecasts.flatMap((f) => f.ci95)];
  const x = { domain: [sizes[0] / 1.08, sizes.at(-1) * 1.08], log: true, ticks: sizes, format: whole, label: "training pictures" };
  const y = { domain: stretch(values, 0.06, [0, 1]), format: percents, label: "accuracy" };
  const chart = frame({ width, height: 320, left: 58, right: 22, x, y, label: "learning curve" });
  const known = points.filter((p) => p.ci95);
  if (known.length > 1) chart.inside.append(area(known.map((p) => [chart.x(p.n), chart.y(p.ci95[1])]), known.map((p) => [chart.x(p.n), chart.y(p.ci95[0])])));
  if (forecasts.length && law) {
    const [a, b, c] = law;
    const way = Array.from({ length: 60 }, (_, i) => sizes[0] * (sizes.at(-1) / sizes[0]) ** (i / 59));
    const path = way.map((n) => [n, 1 - a - b * n ** -c]).filter(([, v]) => v >= y.domain[0] && v <= y.domain[1]);
    chart.inside.append(line(path.map(([n, v]) => [chart.x(n), chart.y(v)]), { class: "line law" }));
  }
  for (const p of points) {
    for (const value of p.draws) chart.inside.append(svg("circle", { class: "faint dot", cx: chart.x(p.n), cy: chart.y(value), r: 3 }));
  }
  chart.inside.append(line(points.map((p) => [chart.x(p.n), chart.y(p.accuracy)])));
  for (const p of points) chart.inside.append(dot(chart.x(p.n), chart.y(p.accuracy), 5, `${many(p.n, "picture")}: ${percent(p.accuracy)}`));
  for (const f of forecasts) {
    const words = `${many(f.n, "picture")}: ${percent(f.accuracy)} expected [${percent(f.ci95[0])}, ${percent(f.ci95[1])}]`;
    chart.inside.append(
      interval(chart.x(f.n), chart.y(f.ci95[0]), chart.y(f.ci95[1]), { class: "interval orange" }),
      dot(chart.x(f.n), chart.y(f.accuracy), 6, words, { class: "dot hollow" }),
    );
  }
  return chart.picture;
}
