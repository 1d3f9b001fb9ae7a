// Corrections: another label for a picture, or that it be dropped, by content; and the CSV that `fit --relabel` takes,
// of those that the page was made with and those that are made on it. Each is a row of that CSV.

const COLUMNS = ["path", "digest", "label", "corrected"];
const DROP = F.choices.drop;
const KEY = `corrections of ${F.identity}`; // of the same pictures and labels, on another page too
const byDigest = (rows) => new Map(rows.map((row) => [row[1], row]));
const before = byDigest(F.corrections);
const corrections = byDigest(restored()); // some may be of pictures that this page does not show
const correctedTo = (digest) => corrections.get(digest)?.[3];
const labelsOf = new Map(); // of all pictures with one content
P.digest.forEach((digest, picture) => labelsOf.set(digest, (labelsOf.get(digest) ?? new Set()).add(P.label[picture])));

function restored() {
  try {
    return JSON.parse(stored(KEY) || "[]").filter((row) => row.length === COLUMNS.length && row.every((cell) => typeof cell === "string"));
  } catch {
    return [];
  }
}

const ofTwoLabels = (digest) => labelsOf.get(digest).size > 1;

// Set or take back the correction of a picture, and with it of all its copies; where these bear two labels, its own is
// a correction too.
function correct(picture, name) {
  const digest = P.digest[picture];
  if (name === null || (name === nameOf(P.label[picture]) && !ofTwoLabels(digest))) corrections.delete(digest);
  else {
    const [path, , label] = before.get(digest) ?? [P.path[picture], digest, P.label[picture] < 0 ? "" : nameOf(P.label[picture])];
    corrections.set(digest, [path, digest, label, name]);
  }
  keep(KEY, corrections.size ? JSON.stringify([...corrections.values()]) : null);
  showCorrections(digest);
}

function showCorrections(digest) {
  for (const made of document.querySelectorAll(`[data-digest="${digest}"]`)) {
    made.classList.toggle("corrected", corrections.has(digest));
    const select = made.querySelector("select");
    if (select) setChoice(select, correctedTo(digest) ?? "");
  }
  showTray();
}

// The options are made when somebody turns to them: a hundred cards of a hundred classes would be ten thousand.
function labelChoice(picture) {
  const digest = P.digest[picture];
  const select = el("select", { class: "relabel", "aria-label": `label of ${P.path[picture]}`, "data-kept": P.label[picture] < 0 ? "give it a label" : "label is right" });
  const suspect = suspectOf.get(picture);
  setChoice(select, correctedTo(digest) ?? "");
  const complete = () => {
    if (select.options.length > 1 && select.dataset.complete) return;
    const value = select.value;
    select.replaceChildren(option("", select.dataset.kept), option(DROP, "drop this picture"));
    for (const i of F.choices.classes) if (i !== P.label[picture] || ofTwoLabels(digest)) select.append(option(F.classes[i], F.classes[i]));
    select.value = value;
    select.dataset.complete = "yes";
  };
  for (const event of ["focus", "pointerdown", "mouseenter", "keydown"]) select.addEventListener(event, complete);
  select.addEventListener("change", () => correct(picture, select.value || null));
  const row = el("div", { class: "choice" }, select);
  if (suspect) {
    const name = nameOf(suspect.suggested);
    row.append(el("button", { type: "button", class: "apply", title: `correct to ${name}`, text: "apply", on: { click: () => correct(picture, name) } }));
  }
  requestAnimationFrame(() => row.closest("[data-digest]")?.classList.toggle("corrected", corrections.has(digest)));
  return row;
}

const option = (value, text) => el("option", { value, text });

function setChoice(select, value) {
  if (![...select.options].some((o) => o.value === value)) {
    select.append(option(value, value === "" ? select.dataset.kept : value === DROP ? "drop this picture" : value));
  }
  select.value = value;
}

const tray = el("aside", { class: "tray", "aria-label": "corrections", "aria-live": "polite", hidden: true });

function showTray() {
  const n = corrections.size;
  const dropped = [...corrections.values()].filter((row) => row[3] === DROP).length;
  tray.hidden = !n;
  if (!n) return;
  const what = [n - dropped ? many(n - dropped, "new label") : "", dropped ? `${whole(dropped)} to drop` : ""].filter(Boolean).join(", ");
  const beside = before.size ? `, beside ${whole(before.size)} from before` : "";
  tray.replaceChildren(
    el("div", { class: "said" }, el("b", { text: many(n, "correction") }), el("span", { class: "quiet", text: ` ${what}${beside}` })),
    el("code", { class: "wide", text: "penult fit STORE --head lr -o new.head --relabel corrections.csv" }),
    el("button", { type: "button", class: "primary", id: "export", text: "Export CSV", on: { click: exportCorrections } }),
    el("button", { type: "button", text: "Clear", on: { click: clearCorrections } }),
  );
}

function exportCorrections() {
  const rows = new Map([...before, ...corrections]);
  download("corrections.csv", csv([COLUMNS, ...rows.values()]));
}

function clearCorrections() {
  const digests = [...corrections.keys()];
  corrections.clear();
  keep(KEY, null);
  digests.forEach(showCorrections);
  showTray();
}
