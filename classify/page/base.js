// What every part of the page uses: the findings, elements, numbers in words, colours, the theme, the chosen head.

const F = JSON.parse(document.getElementById("findings").textContent);

// Make an element. Text from the findings only ever enters as text, never as markup.
function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  fill(made, options);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, options = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(made, options);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function fill(made, options) {
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (key === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else if (key === "style") for (const [name, set] of Object.entries(value)) made.style.setProperty(name, set);
    else made.setAttribute(key, value === true ? "" : value);
  }
}

const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}%`);
const whole = (number) => Math.round(number).toLocaleString("en-US");
const fixed = (number, digits = 3) => (number === null || number === undefined ? "–" : number.toFixed(digits));
const many = (n, word, words) => `${whole(n)} ${n === 1 ? word : words || `${word}s`}`;
const pValue = (p) => (p < 0.001 ? "p < 0.001" : `p = ${p < 0.1 ? p.toPrecision(2) : p.toFixed(2)}`);

function bytes(n) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (n >= scale) return `${(n / scale).toFixed(1)} ${unit}`;
  }
  return `${n} bytes`;
}

const nameOf = (label) => (label < 0 ? "(no label)" : F.classes[label]);
const splitOf = (split) => F.splits[split] || "(no split)";

// Theme: the system's, until somebody chooses.
const dark = matchMedia("(prefers-color-scheme: dark)");
const themes = [];
const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
function onTheme(run) {
  themes.push(run);
}
function changeTheme(name) {
  document.documentElement.dataset.theme = name;
  keep("theme", name);
  themes.forEach((run) => run());
}
dark.addEventListener("change", () => themes.forEach((run) => run()));

// A page that was opened from a disk may have no storage; then nothing is remembered.
const stored = (key) => {
  try {
    return localStorage.getItem(`penult ${key}`);
  } catch {
    return null;
  }
};
const keep = (key, value) => {
  try {
    if (value === null) localStorage.removeItem(`penult ${key}`);
    else localStorage.setItem(`penult ${key}`, value);
  } catch {
    // it is a convenience
  }
};
if (["light", "dark"].includes(stored("theme"))) document.documentElement.dataset.theme = stored("theme");

// Okabe and Ito's colours first, which colour-blind people can tell apart; lighter ones on a dark ground.
const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A4C93", "#8C6D31", "#3B3B3B", "#A3B18A"];
const DARK = ["#4BA6E0", "#F2803F", "#2CC295", "#E59AC5", "#F2B84B", "#9AD6FA", "#B08FE0", "#CBA862", "#D9D9D9", "#C5D3AC"];
function colourOf(i) {
  if (i < 0) return isDark() ? "#6d7073" : "#a9a9a4";
  const own = isDark() ? DARK : LIGHT;
  if (i < own.length) return own[i];
  const turn = (137.508 * i + 20) % 360;
  const level = [0, 12, -10][i % 3];
  return `hsl(${turn.toFixed(0)} 58% ${(isDark() ? 66 : 44) + level}%)`;
}
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// The head that the sections below the ranking are about.
const state = { head: 0 };
const headRuns = [];
function onHead(run) {
  headRuns.push(run);
  run();
}
function chooseHead(i) {
  state.head = i;
  headRuns.forEach((run) => run());
}
const head = () => F.heads[state.head];

// Sections, in the order in which they are made; the navigation is made of them.
const sections = [];
function section(id, title, note = "", short = title) {
  const body = el("div", { class: "body" });
  const made = el(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title`, text: title }),
    note ? el("p", { class: "note", text: note }) : null,
    body,
  );
  sections.push({ id, short, made });
  return body;
}

// One line that says what a mouse or the keyboard is on.
const tip = el("div", { class: "tip", role: "status", hidden: true });
function showTip(x, y, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(x + 14, 8), innerWidth - box.width - 8);
  const top = y + box.height + 22 > innerHeight ? y - box.height - 12 : y + 16;
  tip.style.left = `${Math.max(left, 8)}px`;
  tip.style.top = `${Math.max(top, 8)}px`;
}
const hideTip = () => {
  tip.hidden = true;
};

function control(name, choices, chosen, run) {
  const select = el("select", { "aria-label": name });
  for (const [value, text] of choices) select.append(el("option", { value, text, selected: value === chosen }));
  select.addEventListener("change", () => run(select.value));
  return el("label", { class: "control" }, el("span", { text: name }), select);
}

// A row of buttons of which one is pressed.
function switcher(name, choices, chosen, run) {
  const buttons = choices.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), text, on: { click: () => press(value) } }),
  );
  function press(value) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(choices[i][0] === value)));
    run(value);
  }
  return el("div", { class: "switcher", role: "group", "aria-label": name }, ...buttons);
}

function download(name, text) {
  const link = el("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function csv(rows) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function table(columns, rows, options = {}) {
  const line = (cells, tag) =>
    el("tr", {}, ...cells.map((cell, i) => el(i || tag === "th" ? tag : "th", { class: columns[i].left ? "left" : null }, cell)));
  return el(
    "div",
    { class: "scroll", tabindex: options.tall ? 0 : null },
    el(
      "table",
      { class: options.class },
      el("thead", {}, line(columns.map((column) => column.name), "th")),
      el("tbody", {}, ...rows.map((row) => line(row, "td"))),
    ),
  );
}
