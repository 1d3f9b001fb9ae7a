// The data set, the advice, and where everything comes from.

function tiles(facts) {
  return el("dl", { class: "tiles" }, ...facts.filter(Boolean).map(([name, value, more]) => el("div", {}, el("dt", { text: name }), el("dd", {}, el("b", { text: value }), more ? el("span", { class: "quiet", text: ` ${more}` }) : null))));
}

function dataSection() {
  const d = F.dataset;
  const body = section("data", "Data set", d.root, "Data");
  const size = d.size ? bytes(d.size[1]) : null;
  body.append(
    tiles([
      ["pictures", whole(d.pictures), d.unlabelled ? `${whole(d.unlabelled)} without a label` : ""],
      ["classes", whole(F.choices.classes.length), d.imbalance ? `largest : smallest ${d.imbalance.toFixed(1)} : 1` : ""],
      ["contents", whole(d.contents), d.pictures > d.contents ? `${many(d.pictures - d.contents, "exact copy", "exact copies")}` : "no exact copy"],
      size ? ["bytes", bytes(d.bytes), `a file ${size}, from ${bytes(d.size[0])} to ${bytes(d.size[2])}`] : null,
      ["splits", whole(F.splits.length), d.split_rule ? `made by seed ${d.split_rule.seed}` : "its own"],
      d.skipped.length ? ["skipped", whole(d.skipped.length)] : null,
    ]),
    splitBars(d),
  );
  if (d.info) body.append(el("p", { class: "remark" }, "Widths, heights, formats and colours of the pictures: ", el("code", { text: d.info })));
  body.append(...auditRemarks());
  if (d.skipped.length) {
    const rows = d.skipped.slice(0, 200).map((s) => [s.path, s.reason]);
    body.append(el("details", {}, el("summary", { text: many(d.skipped.length, "skipped picture") }), table([{ name: "path", left: true }, { name: "reason", left: true }], rows, { tall: true })));
  }
  if (F.thumbnails) body.append(el("p", { class: "remark", text: F.thumbnails }));
}

function splitBars(d) {
  const rows = F.choices.classes.map((i, k) => ({ name: F.classes[i], counts: d.counts[k], n: d.counts[k].reduce((a, b) => a + b, 0) }));
  rows.sort((a, b) => b.n - a.n);
  const most = rows[0]?.n || 1;
  const key = el("p", { class: "key" }, ...F.splits.map((_, i) => el("span", {}, el("span", { class: `swatch split${i % 4}` }), ` ${splitOf(i)} ${whole(d.counts.reduce((sum, row) => sum + row[i], 0))} `)));
  const bars = rows.map((row) =>
    el(
      "li",
      {},
      el("span", { class: "who", title: row.name, text: row.name }),
      el("span", { class: "bar-holder" }, ...row.counts.map((n, i) => el("span", { class: `bar split${i % 4}`, title: `${splitOf(i)}: ${whole(n)}`, style: { width: `${(100 * n) / most}%` } }))),
      el("span", { class: "number", text: whole(row.n) }),
    ),
  );
  return el("div", {}, key, el("div", { class: rows.length > 24 ? "tall" : null, tabindex: rows.length > 24 ? 0 : null }, el("ol", { class: "bars classes" }, ...bars)));
}

function auditRemarks() {
  if (!F.audit) return [];
  const { leak, lookalikes, folders, notes } = F.audit;
  const lines = [];
  if (leak && leak.copied && leak.accuracy_without !== null) {
    lines.push(`${many(leak.copied, `picture of ${leak.test} has`, `pictures of ${leak.test} have`)} a copy in ${leak.train}: accuracy ${percent(leak.accuracy)} with, ${percent(leak.accuracy_without)} without them.`);
  } else if (leak) lines.push(`No picture of ${leak.test} has a copy in ${leak.train}.`);
  for (const pair of lookalikes.slice(0, 5)) lines.push(`${pair.a} and ${pair.b} cannot be told apart (AUC ${fixed(pair.auc, 2)}): are they one class?`);
  for (const folder of folders.slice(0, 5)) lines.push(`The folder ${folder.folder} is odd: ${whole(folder.wrong)} of ${whole(folder.n)} are not taken for ${folder.label}, mostly for ${folder.suggested}.`);
  lines.push(...notes);
  return lines.length ? [el("h3", { text: "What the audit says" }), el("ul", { class: "lines" }, ...lines.map((text) => el("li", { text })))] : [];
}

function adviceSection() {
  const a = F.advice;
  if (!a) return;
  const body = section("advice", "Advice", "By what the training split shows; no network was trained for it.");
  const points = (v) => `${v >= 0 ? "+" : "−"}${Math.abs(v).toFixed(1)}`;
  const rows = a.evidence.map((e) => [e.what, e.value === null ? "–" : fixed(e.value, 2), e.value === null ? "" : e.says === "unclear" ? "nothing" : e.says, e.rule]);
  body.append(
    el("p", { class: "lead" }, ...codes(a.sentence)),
    el("p", { text: `Because ${a.why}.` }),
    el("p", { text: `Fine-tuning may add ${points(a.gain.points)} points, in four cases of five between ${points(a.gain.interval[0])} and ${points(a.gain.interval[1])}: from ${a.gain.basis}.` }),
    el("details", {}, el("summary", { text: `How near to the pretraining data: ${a.similarity}` }), table([{ name: "measured", left: true }, { name: "value" }, { name: "says", left: true }, { name: "rule", left: true }], rows)),
    el("details", {}, el("summary", { text: "What this does not know" }), el("ul", { class: "lines" }, ...a.unknown.map((text) => el("li", {}, ...codes(text))))),
  );
}

// Text with `commands` in it.
const codes = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", { text: part }) : part));

function originSection() {
  const o = F.origin;
  const body = section("origin", "Where it comes from", `Made on ${F.made} by Penult ${F.version}. Nothing on this page was loaded from a network.`, "Origin");
  body.append(el("h3", { text: "Commands" }), ...o.commands.map(commandLine));
  for (const f of o.features) {
    const run = f.runs[0];
    const rows = [
      ["features", f.title],
      ["fingerprint", f.fingerprint],
      ["weights", f.weights],
      ["licence of the weights", f.licence || "not known here"],
      ["pixels", f.pixels],
      ["vectors", `${whole(f.rows)} x ${whole(f.dim)} ${f.dtype}`],
      run ? ["computed", [run.date, run.engine, run.precision, Object.entries(run.versions).map((v) => v.join(" ")).join(", ")].filter(Boolean).join("; ")] : null,
    ];
    body.append(el("h3", { text: "Features" }), facts(rows));
  }
  body.append(el("h3", { text: "Heads" }));
  const columns = [{ name: "file", left: true }, { name: "kind", left: true }, { name: "trained on", left: true }, { name: "pictures" }, { name: "settings", left: true }, { name: "corrected labels" }, { name: "learnt from (SHA-256)", left: true }];
  const settings = (h) => Object.entries(h.params).map(([k, v]) => `${k} = ${setting4(v)}`).join(", ");
  const corrected = (c) => (c ? `${whole(c.relabelled)}, ${whole(c.dropped)} dropped` : "none");
  body.append(
    table(columns, o.heads.map((h) => [h.file, h.kind, h.trained_on, h.n === null ? "–" : whole(h.n), settings(h), corrected(h.corrections), el("span", { class: "hex", text: h.identity.slice(0, 16) })])),
    el("p", { class: "remark", text: Object.entries(o.versions).map((v) => v.join(" ")).join(", ") }),
  );
}

const facts = (rows) => el("dl", { class: "facts" }, ...rows.filter(Boolean).flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));

function commandLine(text) {
  const code = el("code", { text });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
    }
  };
  const button = el("button", { type: "button", text: "Copy", on: { click: copy } });
  return el("div", { class: "command" }, code, button);
}
