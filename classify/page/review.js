// Pictures that a person should see: surest mistakes, suspect labels, copies, outliers; each list can be narrowed.

function reviewSection() {
  const body = section("review", "Pictures to look at", "Choose the right label below a picture, or drop it. What you choose is exported as a CSV that fit --relabel takes; copies of a picture move together.", "Pictures");
  const lists = [["mistakes", "Surest mistakes", mistakesList]];
  if (F.audit) {
    lists.push(["suspects", `Suspect labels (${whole(F.audit.n_suspects)})`, suspectsList]);
    lists.push(["copies", `Copies (${whole(F.audit.duplicates.n_groups)})`, copiesList]);
    lists.push(["outliers", "Least like any other", outliersList]);
  }
  const filter = { label: "", split: "", text: "" };
  const panel = el("div", { class: "panel", role: "tabpanel", id: "review-panel", "aria-labelledby": "tab-mistakes" });
  const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "lists of pictures" });
  let open = 0;
  const draw = () => panel.replaceChildren(...lists[open][2](matches));
  const buttons = lists.map(([id, title], i) => {
    const press = () => {
      choose(i);
    };
    return el("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": "review-panel", text: title, on: { click: press } });
  });
  function choose(i) {
    open = i;
    buttons.forEach((button, k) => {
      button.setAttribute("aria-selected", String(k === i));
      button.tabIndex = k === i ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[i].id);
    draw();
  }
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose((open + step + lists.length) % lists.length);
    buttons[open].focus();
  });
  function matches(picture) {
    if (filter.label && String(P.label[picture]) !== filter.label) return false;
    if (filter.split && String(P.split[picture]) !== filter.split) return false;
    return P.path[picture].toLowerCase().includes(filter.text);
  }
  const change = (key) => (value) => {
    filter[key] = value;
    draw();
  };
  const find = el("input", { type: "search", placeholder: "find a path", "aria-label": "find a path" });
  find.addEventListener("input", () => change("text")(find.value.toLowerCase()));
  tabs.append(...buttons);
  body.append(
    tabs,
    el(
      "div",
      { class: "controls" },
      control("label", [["", "all classes"], ...F.classes.map((name, i) => [String(i), name])], "", change("label")),
      control("split", [["", "all splits"], ...F.splits.map((_, i) => [String(i), splitOf(i)])], "", change("split")),
      find,
    ),
    panel,
  );
  choose(0);
  onHead(draw);
  openers.set("suspects", () => choose(1));
  openers.set("copies", () => choose(2));
}

// Sections that are a tab of another one, and how to open it.
const openers = new Map();

function mistakesList(matches) {
  const wrong = F.answers.pictures.filter((picture) => !answerOf(picture).right && matches(picture));
  wrong.sort((a, b) => answerOf(b).confidence - answerOf(a).confidence);
  const n = F.n - head().right;
  const said = `${head().name} is wrong about ${many(n, "picture")} of ${F.split}; the surest first.`;
  return [el("p", { class: "remark", text: said }), cards(wrong, (picture) => card(picture, ...verdictOf(picture)), "None here.")];
}

function suspectsList(matches) {
  const { head: kind, folds, n_suspects: n, n_hard: hard, suspects } = F.audit;
  const kept = suspects.filter((suspect) => matches(suspect.picture)).map((suspect) => suspect.picture);
  const more = n > suspects.length ? ` The ${whole(suspects.length)} surest are here; audit --csv lists all.` : "";
  const said = `${many(n, "label looks", "labels look")} wrong to a ${kind} that had not seen the picture (${folds} folds, confident learning); ${whole(hard)} more are hard and perhaps right.${more}`;
  const make = (picture) => {
    const suspect = suspectOf.get(picture);
    return card(
      picture,
      el("p", { class: "fact" }, el("span", { class: "quiet", text: "label " }), el("b", { text: nameOf(P.label[picture]) }), el("span", { class: "quiet", text: ` ${percent(suspect.probability, 0)}` })),
      el("p", { class: "fact" }, el("span", { class: "quiet", text: "looks like " }), el("b", { class: "bad", text: nameOf(suspect.suggested) }), el("span", { class: "quiet", text: ` ${percent(suspect.probability - suspect.score, 0)}` })),
      el("p", { class: "quiet", text: splitOf(P.split[picture]) }),
    );
  };
  return [el("p", { class: "remark", text: said }), cards(kept, make, "None here.")];
}

function copiesList(matches) {
  const { groups, n_groups: n, across_splits: across, under_two_labels: two } = F.audit.duplicates;
  const kept = groups.filter((group) => group.pictures.some(matches));
  const said = `${many(n, "group")} of copies: ${whole(across)} across splits, ${whole(two)} under two labels. Near ones are found by their features.`;
  const make = (group) => {
    const kind = group.exact ? "the same file" : `similar, cosine ${fixed(group.similarity, 2)}`;
    const badges = [
      group.splits.length > 1 ? el("span", { class: "badge bad", text: group.splits.map((s) => s || "(no split)").join(" and ") }) : null,
      group.labels.length > 1 ? el("span", { class: "badge bad", text: group.labels.join(" and ") }) : null,
    ];
    const left = group.n > group.pictures.length ? `, ${whole(group.pictures.length)} of ${whole(group.n)} shown` : "";
    return el(
      "div",
      { class: "group" },
      el("p", {}, el("span", { class: "quiet", text: `${kind}${left} ` }), ...badges),
      el("div", { class: "cards" }, ...group.pictures.map((picture) => card(picture, el("p", { class: "fact" }, el("b", { text: nameOf(P.label[picture]) }), el("span", { class: "quiet", text: `, ${splitOf(P.split[picture])}` }))))),
    );
  };
  const holder = cards(kept, make, "None here.");
  holder.firstElementChild?.classList.replace("cards", "groups");
  return [el("p", { class: "remark", text: said }), holder];
}

function outliersList(matches) {
  const kept = F.audit.outliers.map((row) => row.picture).filter(matches);
  const make = (picture) => card(picture, el("p", { class: "fact" }, el("b", { text: nameOf(P.label[picture]) }), el("span", { class: "quiet", text: `, ${splitOf(P.split[picture])}` })));
  const said = "Pictures whose nearest others are far away: damaged, of something else, or rare.";
  return [el("p", { class: "remark", text: said }), cards(kept, make, "None here.")];
}
