// The map of features: thousands of points on a canvas, what they are on hover, and a lasso that lists and exports.

const COLOURINGS = { class: "class", answer: "answer", confidence: "confidence", split: "split" };
const REACH = 14; // pixels from a point within which it is meant

function mapSection() {
  if (!F.maps.length) return;
  const body = section("map", "Map of the features", "Every point is a picture. Draw around some to list them, to export them, or to give all of them another label.", "Map");
  const map = makeMap();
  const kinds = F.maps.map((drawn, i) => [String(i), drawn.title]);
  const tools = el("div", { class: "controls" });
  if (kinds.length > 1) tools.append(switcher("map", kinds, "0", (i) => map.show(Number(i))));
  tools.append(
    control("colour by", Object.entries(COLOURINGS), "class", map.colour),
    switcher("mouse", [["lasso", "Lasso"], ["move", "Move"]], "lasso", map.mode),
    el(
      "div",
      { class: "switcher", role: "group", "aria-label": "zoom" },
      el("button", { type: "button", "aria-label": "zoom in", text: "+", on: { click: () => map.zoom(1.5) } }),
      el("button", { type: "button", "aria-label": "zoom out", text: "−", on: { click: () => map.zoom(1 / 1.5) } }),
      el("button", { type: "button", text: "Reset", on: { click: () => map.zoom(0) } }),
    ),
  );
  body.append(tools, el("div", { class: "beside map" }, map.holder, map.legend), map.note, map.panel);
  onHead(map.draw);
  onTheme(map.draw);
}

function makeMap() {
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": "map of the features: arrows go from picture to picture, Enter selects, Escape clears, plus and minus zoom" });
  const holder = el("div", { class: "canvas" }, canvas);
  const legend = el("div", { class: "legend" });
  const note = el("p", { class: "remark" });
  const panel = el("div", { class: "panel", id: "selection", "aria-live": "polite" });
  const context = canvas.getContext("2d");
  const view = { i: 0, by: "class", mode: "lasso", zoom: 1, x: 0, y: 0, size: 0, on: -1, only: null, lasso: null, drag: null };
  let chosen = new Set();
  let places = [];
  const drawing = () => F.maps[view.i];

  function layout() {
    const { x, y } = drawing();
    const side = view.size - 32;
    places = x.map((value, i) => [16 + view.x + view.zoom * side * value, 16 + view.y + view.zoom * side * (1 - y[i])]);
  }

  function groupOf(picture) {
    if (view.by === "class") return P.label[picture];
    if (view.by === "split") return P.split[picture];
    const said = answerOf(picture);
    if (!said) return -1;
    if (view.by === "answer") return said.right ? 0 : 1;
    const level = Math.floor((said.confidence - 1 / K) / (1 - 1 / K) / 0.2);
    return Math.min(Math.max(level, 0), 4); // a confidence of 1 / K, rounded, may be less than that
  }

  function colourOfGroup(group) {
    if (group < 0) return colourOf(-1);
    if (view.by === "confidence") return `color-mix(in oklab, ${token("orange")} ${100 - 25 * group}%, ${token("blue")})`;
    return colourOf(group);
  }

  function groupNames() {
    if (view.by === "class") return F.classes;
    if (view.by === "split") return F.splits.map((_, i) => splitOf(i));
    if (view.by === "answer") return [`${head().name} is right`, `${head().name} is wrong`];
    return [0, 1, 2, 3, 4].map((i) => `${percent(1 / K + 0.2 * i * (1 - 1 / K), 0)} sure or more`);
  }

  function draw() {
    if (!view.size) return;
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(view.size * ratio)) {
      canvas.width = canvas.height = Math.round(view.size * ratio);
      canvas.style.width = canvas.style.height = `${view.size}px`;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, view.size, view.size);
    layout();
    const { pictures } = drawing();
    const r = (pictures.length > 2500 ? 2.4 : pictures.length > 800 ? 3.2 : 4.6) * Math.min(view.zoom ** 0.4, 2);
    const of = new Map();
    pictures.forEach((picture, i) => {
      const group = groupOf(picture);
      const key = view.only !== null && group !== view.only ? "others" : group;
      if (!of.has(key)) of.set(key, []);
      of.get(key).push(i);
    });
    const order = [...of.keys()].sort((a, b) => (a === "others" ? -2 : a) - (b === "others" ? -2 : b));
    for (const group of order) {
      context.globalAlpha = group === "others" ? 0.16 : group < 0 ? 0.4 : 0.85;
      context.fillStyle = group === "others" ? colourOf(-1) : colourOfGroup(group);
      context.beginPath();
      for (const i of of.get(group)) circle(places[i], r);
      context.fill();
    }
    context.globalAlpha = 1;
    ring(pictures.map((picture, i) => i).filter((i) => view.by === "class" && answerOf(pictures[i])?.right === false), r + 1.5, token("ink"), 1.4);
    ring(pictures.map((picture, i) => i).filter((i) => chosen.has(pictures[i])), r + 3, token("orange"), 2);
    if (view.on >= 0) ring([view.on], r + 4, token("ink"), 2.4);
    if (view.lasso) drawLasso();
    showLegend();
    note.textContent = `${drawing().note}${view.by === "class" && F.answers.pictures.length ? ` Ringed: ${head().name} is wrong.` : ""}`;
  }

  function circle([x, y], r) {
    context.moveTo(x + r, y);
    context.arc(x, y, r, 0, 2 * Math.PI);
  }

  function ring(which, r, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const i of which) circle(places[i], r);
    context.stroke();
  }

  function drawLasso() {
    context.beginPath();
    view.lasso.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.fillStyle = context.strokeStyle = token("orange");
    context.globalAlpha = 0.14;
    context.fill();
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.stroke();
  }

  function showLegend() {
    const { pictures } = drawing();
    const sizes = new Map();
    for (const picture of pictures) sizes.set(groupOf(picture), (sizes.get(groupOf(picture)) || 0) + 1);
    const names = groupNames();
    const none = view.by === "class" ? "no label" : "not measured";
    const key = [view.by, view.only, state.head, isDark(), view.i].join();
    if (legend.dataset.key === key) return;
    legend.dataset.key = key;
    legend.replaceChildren(
      ...[...sizes.keys()]
        .sort((a, b) => (a < 0 ? 1e9 : a) - (b < 0 ? 1e9 : b))
        .map((group) => {
          const swatch = el("span", { class: "swatch", style: { background: colourOfGroup(group) } });
          const pressed = String(view.only === group);
          const press = () => {
            view.only = view.only === group ? null : group;
            draw();
          };
          return el("button", { type: "button", "aria-pressed": pressed, on: { click: press } }, swatch, el("span", { class: "who", text: group < 0 ? none : names[group] }), el("span", { class: "number", text: whole(sizes.get(group)) }));
        }),
    );
  }

  function nearest(x, y) {
    let best = -1;
    let least = REACH ** 2;
    places.forEach(([a, b], i) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least) [best, least] = [i, far];
    });
    return best;
  }

  function point(i, x, y) {
    if (i !== view.on) {
      view.on = i;
      draw();
    }
    if (i < 0) return hideTip();
    const picture = drawing().pictures[i];
    showTip(x, y, thumbnail(picture), el("p", { class: "path", text: P.path[picture] }), ...verdictOf(picture), el("p", { class: "quiet", text: splitOf(P.split[picture]) }));
  }

  const inside = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    const at = inside(event);
    if (view.mode === "lasso") view.lasso = [at];
    else view.drag = [at[0] - view.x, at[1] - view.y];
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = inside(event);
    if (view.lasso) {
      const [a, b] = view.lasso.at(-1);
      if (Math.hypot(x - a, y - b) > 3) view.lasso.push([x, y]);
      draw();
    } else if (view.drag) {
      [view.x, view.y] = [x - view.drag[0], y - view.drag[1]];
      draw();
    } else point(nearest(x, y), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerup", (event) => {
    const around = view.lasso;
    view.lasso = view.drag = null;
    if (around && around.length > 2) select(withinLasso(around));
    else if (around) {
      const i = nearest(...inside(event));
      select(i < 0 ? [] : [drawing().pictures[i]], event.shiftKey);
    }
    draw();
  });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("pointercancel", () => {
    view.lasso = view.drag = null;
    draw();
  });
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && view.zoom === 1 && event.deltaY > 0) return; // the page scrolls
      if (!event.ctrlKey && !canvas.matches(":focus")) return;
      event.preventDefault();
      zoom(1.0015 ** -event.deltaY, ...inside(event));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) walkTo(step);
    else if (event.key === "Enter" || event.key === " ") {
      if (view.on >= 0) select([drawing().pictures[view.on]], true);
    } else if (event.key === "Escape") select([]);
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else return;
    event.preventDefault();
    draw();
  });
  canvas.addEventListener("blur", () => point(-1));

  // The nearest point in a direction: what lies aside counts three times.
  function walkTo([down, right]) {
    const [x, y] = view.on < 0 ? [view.size / 2, view.size / 2] : places[view.on];
    let best = -1;
    let least = Infinity;
    places.forEach(([a, b], i) => {
      const along = (a - x) * right + (b - y) * down;
      const aside = Math.abs((a - x) * down) + Math.abs((b - y) * right);
      if (i === view.on || along <= 0 || along + 3 * aside >= least) return;
      [best, least] = [i, along + 3 * aside];
    });
    if (best < 0) return;
    const box = canvas.getBoundingClientRect();
    point(best, box.left + places[best][0], box.top + places[best][1]);
  }

  function withinLasso(around) {
    const { pictures } = drawing();
    return pictures.filter((picture, i) => {
      if (view.only !== null && groupOf(picture) !== view.only) return false;
      const [x, y] = places[i];
      let odd = false;
      for (let k = 0, last = around.length - 1; k < around.length; last = k, k += 1) {
        const [[ax, ay], [bx, by]] = [around[k], around[last]];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
      }
      return odd;
    });
  }

  function select(pictures, add = false) {
    if (!add) chosen = new Set();
    for (const picture of pictures) {
      if (add && chosen.has(picture)) chosen.delete(picture);
      else chosen.add(picture);
    }
    showSelection(panel, [...chosen], () => {
      select([]);
      draw();
    });
  }

  function zoom(factor, x = view.size / 2, y = view.size / 2) {
    const next = factor ? Math.min(Math.max(view.zoom * factor, 1), 40) : 1;
    view.x = next === 1 ? 0 : x - 16 - ((x - 16 - view.x) * next) / view.zoom;
    view.y = next === 1 ? 0 : y - 16 - ((y - 16 - view.y) * next) / view.zoom;
    view.zoom = next;
    draw();
  }

  new ResizeObserver(() => {
    const size = Math.floor(Math.min(holder.clientWidth, Math.max(innerHeight * 0.8, 320), 760));
    if (size === view.size) return;
    view.size = size;
    draw();
  }).observe(holder);

  return {
    holder,
    legend,
    note,
    panel,
    draw,
    zoom,
    show: (i) => {
      Object.assign(view, { i, on: -1, zoom: 1, x: 0, y: 0 });
      draw();
    },
    colour: (by) => {
      Object.assign(view, { by, only: null });
      draw();
    },
    mode: (mode) => {
      view.mode = mode;
      canvas.classList.toggle("moving", mode === "move");
    },
  };
}

function showSelection(panel, pictures, clear) {
  if (!pictures.length) {
    panel.replaceChildren();
    return;
  }
  const counts = new Map();
  for (const picture of pictures) counts.set(P.label[picture], (counts.get(P.label[picture]) || 0) + 1);
  const of = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 6).map(([label, n]) => `${nameOf(label)} ${whole(n)}`);
  const all = el("select", { "aria-label": "label of all of these" }, option("", "give all another label"), option(DROP, "drop all"), ...F.choices.classes.map((i) => option(F.classes[i], F.classes[i])));
  all.addEventListener("change", () => {
    if (!all.value) return;
    pictures.forEach((picture) => correct(picture, all.value));
    all.value = "";
  });
  panel.replaceChildren(
    el("h3", { text: `${many(pictures.length, "picture")} selected` }),
    el("p", { class: "quiet", text: of.join(", ") }),
    el(
      "div",
      { class: "controls" },
      el("button", { type: "button", class: "primary", id: "export-selection", text: "Export CSV", on: { click: () => exportSelection(pictures) } }),
      all,
      el("button", { type: "button", text: "Clear", on: { click: clear } }),
    ),
    cards(pictures, (picture) => card(picture, ...verdictOf(picture)), ""),
  );
}

function exportSelection(pictures) {
  const rows = pictures.map((picture) => {
    const said = answerOf(picture);
    const label = P.label[picture];
    return [P.path[picture], P.digest[picture], label < 0 ? "" : nameOf(label), F.splits[P.split[picture]], said ? nameOf(said.answer) : "", said ? said.confidence : ""];
  });
  download("selection.csv", csv([["path", "digest", "label", "split", "answer", "confidence"], ...rows]));
}
