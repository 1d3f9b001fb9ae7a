// The confusion matrix: every cell opens the pictures in it. Few classes are a table of buttons, many one canvas.

const FEW = 26;
const K = F.n_classes;

function confusionSection() {
  const body = section("confusion", "Confusion matrix", "Rows are true classes, columns answers. Choose a cell to see its pictures.", "Confusion");
  const holder = el("div", { class: "matrix-holder" });
  const panel = el("div", { class: "panel", id: "cell", "aria-live": "polite" });
  const worst = el("div", { class: "worst" });
  let open = null;
  const draw = () => {
    const matrix = K <= FEW ? matrixTable(choose) : matrixCanvas(choose);
    holder.replaceChildren(matrix);
    worst.replaceChildren(...confusedPairs(choose));
    if (open) choose(...open, false);
  };
  function choose(i, j, scroll = true) {
    open = [i, j];
    for (const cell of holder.querySelectorAll("[aria-pressed]")) {
      cell.setAttribute("aria-pressed", String(cell.dataset.row === String(i) && cell.dataset.column === String(j)));
    }
    panel.replaceChildren(...cellPictures(i, j));
    if (scroll) panel.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
  body.append(el("div", { class: "beside" }, holder, worst), panel);
  onHead(draw);
  onTheme(draw);
}

function counts() {
  const matrix = Array.from({ length: K }, () => new Float64Array(K));
  for (const [i, j, n] of head().confusion) matrix[i][j] = n;
  return matrix;
}

// Colour of a cell by its share of the row: right answers blue, wrong ones orange, few of them already visible.
function cellColour(i, j, share) {
  if (!share) return "transparent";
  const level = i === j ? 0.12 + 0.75 * share : 0.16 + 0.84 * Math.sqrt(share);
  return `color-mix(in srgb, var(${i === j ? "--blue" : "--orange"}) ${Math.round(100 * Math.min(level, 1))}%, var(--surface))`;
}

function matrixTable(choose) {
  const matrix = counts();
  const buttons = [];
  const letters = K > 12 ? 9 : 14;
  const cut = (name) => (name.length > letters ? `${name.slice(0, letters - 1)}…` : name);
  const rows = matrix.map((row, i) => {
    const total = row.reduce((a, b) => a + b, 0);
    const cells = [...row].map((n, j) => {
      const share = total ? n / total : 0;
      const words = i === j ? `${F.classes[i]}: ${whole(n)} of ${whole(total)} right` : `${F.classes[i]} taken for ${F.classes[j]}: ${whole(n)} of ${whole(total)}`;
      const button = el("button", {
        type: "button",
        class: share > 0.45 ? "cell strong" : "cell",
        "aria-label": words,
        title: words,
        "aria-pressed": "false",
        tabindex: i || j ? -1 : 0,
        "data-row": i,
        "data-column": j,
        text: n ? whole(n) : "·",
        style: { "background-color": cellColour(i, j, share) },
        on: { click: () => choose(i, j) },
      });
      buttons.push(button);
      return el("td", {}, button);
    });
    return el("tr", {}, el("th", { scope: "row", title: F.classes[i], text: cut(F.classes[i]) }), ...cells);
  });
  const top = el("tr", {}, el("td"), ...F.classes.slice(0, K).map((name) => el("th", { scope: "col", title: name }, el("span", { text: cut(name) }))));
  const made = el("table", { class: K > 12 ? "matrix dense" : "matrix" }, el("thead", {}, top), el("tbody", {}, ...rows));
  made.addEventListener("keydown", (event) => walk(event, buttons));
  return el("div", { class: "scroll" }, made);
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function walk(event, buttons) {
  const step = STEPS[event.key];
  const at = buttons.indexOf(event.target);
  if (!step || at < 0) return;
  event.preventDefault();
  const i = Math.min(Math.max(Math.floor(at / K) + step[0], 0), K - 1);
  const j = Math.min(Math.max((at % K) + step[1], 0), K - 1);
  buttons[at].tabIndex = -1;
  buttons[i * K + j].tabIndex = 0;
  buttons[i * K + j].focus();
}

function matrixCanvas(choose) {
  const matrix = counts();
  const size = Math.max(5, Math.floor(620 / K));
  const side = size * K;
  const ratio = devicePixelRatio || 1;
  const canvas = el("canvas", { width: side * ratio, height: side * ratio, tabindex: 0, role: "application", "aria-label": "confusion matrix: arrows move, Enter opens the pictures of a cell", style: { width: `${side}px`, height: `${side}px` } });
  const context = canvas.getContext("2d");
  const cursor = { i: 0, j: 0, on: false };
  const mix = (i, j, share) => {
    context.globalAlpha = i === j ? 0.12 + 0.75 * share : 0.25 + 0.75 * Math.sqrt(share);
    context.fillStyle = token(i === j ? "blue" : "orange");
  };
  function draw() {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, side, side);
    matrix.forEach((row, i) => {
      const total = row.reduce((a, b) => a + b, 0);
      row.forEach((n, j) => {
        if (!n) return;
        mix(i, j, n / total);
        context.fillRect(j * size, i * size, size - 1, size - 1);
      });
    });
    context.globalAlpha = 1;
    if (cursor.on) {
      context.strokeStyle = token("ink");
      context.lineWidth = 2;
      context.strokeRect(cursor.j * size - 0.5, cursor.i * size - 0.5, size, size);
    }
  }
  const words = (i, j) => `${F.classes[i]} ${i === j ? "right" : `taken for ${F.classes[j]}`}: ${whole(matrix[i][j])}`;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const cell = (value) => Math.min(Math.max(Math.floor(value / size), 0), K - 1);
    return [cell(event.clientY - box.top), cell(event.clientX - box.left)];
  };
  function move(i, j, x, y) {
    Object.assign(cursor, { i, j, on: true });
    draw();
    showTip(x, y, el("span", { text: words(i, j) }));
  }
  canvas.addEventListener("mousemove", (event) => move(...at(event), event.clientX, event.clientY));
  canvas.addEventListener("mouseleave", () => {
    cursor.on = false;
    hideTip();
    draw();
  });
  canvas.addEventListener("blur", hideTip);
  canvas.addEventListener("click", (event) => choose(...at(event)));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") choose(cursor.i, cursor.j);
    const step = STEPS[event.key];
    if (!step && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (!step) return;
    const clamp = (v) => Math.min(Math.max(v, 0), K - 1);
    const box = canvas.getBoundingClientRect();
    const [i, j] = [clamp(cursor.i + step[0]), clamp(cursor.j + step[1])];
    move(i, j, box.left + j * size, box.top + i * size);
  });
  draw();
  return el("div", { class: "scroll tall many" }, canvas);
}

// The pairs of classes that are mixed up most, both ways together.
function confusedPairs(choose) {
  const found = head()
    .confusion.filter(([i, j]) => i !== j)
    .sort((a, b) => b[2] - a[2])
    .slice(0, 12);
  if (!found.length) return [el("p", { class: "empty", text: `${head().name} makes no mistake here.` })];
  const rows = found.map(([i, j, n]) =>
    el(
      "li",
      {},
      el("button", { type: "button", class: "link", on: { click: () => choose(i, j) } }, el("b", { text: F.classes[i] }), " taken for ", el("b", { text: F.classes[j] })),
      el("span", { class: "bar-holder" }, el("span", { class: "bar", style: { width: `${(100 * n) / found[0][2]}%` } })),
      el("span", { class: "number", text: whole(n) }),
    ),
  );
  return [el("h3", { text: "Most frequent mistakes" }), el("ol", { class: "bars" }, ...rows)];
}

function cellPictures(i, j) {
  const n = counts()[i][j];
  const title = i === j ? `${F.classes[i]}, answered rightly` : `${F.classes[i]}, taken for ${F.classes[j]}`;
  const pictures = F.answers.pictures.filter((picture) => {
    const said = answerOf(picture);
    return said.truth === i && said.answer === j;
  });
  pictures.sort((a, b) => answerOf(b).confidence - answerOf(a).confidence);
  const some = pictures.length < n ? `, ${whole(pictures.length)} of them on this page` : "";
  return [
    el("h3", { text: `${title}: ${many(n, "picture")}${some}` }),
    cards(pictures, (picture) => card(picture, ...verdictOf(picture)), "No picture of this cell."),
  ];
}
