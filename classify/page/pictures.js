// Pictures: what is known of each, its thumbnail, and cards of many with what a person may say of them.

const P = F.pictures;
const measuredAt = new Map(F.answers.pictures.map((picture, i) => [picture, i]));
const suspectOf = new Map((F.audit ? F.audit.suspects : []).map((suspect) => [suspect.picture, suspect]));

// What the chosen head says of a picture; null where it was not asked.
function answerOf(picture) {
  const i = measuredAt.get(picture);
  if (i === undefined) return null;
  const said = F.answers.heads[state.head];
  const truth = F.answers.truth[i];
  return { truth, answer: said.answer[i], confidence: said.confidence[i], own: said.own[i], right: said.answer[i] === truth };
}

function thumbnail(picture) {
  const source = F.thumbs[picture];
  if (!source) return el("div", { class: "missing", text: "no thumbnail" });
  const image = el("img", { src: source, alt: P.path[picture], decoding: "async" });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 40 && image.naturalHeight <= 40));
  return el("div", { class: "thumb" }, image);
}

// One picture with its path, what is said of it, and the choice of another label.
function card(picture, ...facts) {
  const made = el(
    "article",
    { class: "card", "data-digest": P.digest[picture] },
    thumbnail(picture),
    el("p", { class: "path", title: P.path[picture], text: P.path[picture] }),
    ...facts,
    labelChoice(picture),
  );
  return made;
}

// Facts of a measured picture: its label, and what the chosen head takes it for.
function verdictOf(picture) {
  const said = answerOf(picture);
  const label = nameOf(said ? said.truth : P.label[picture]);
  const facts = [el("p", { class: "fact" }, el("span", { class: "quiet", text: "label " }), el("b", { text: label }))];
  if (said) {
    facts.push(
      el(
        "p",
        { class: "fact" },
        el("span", { class: "quiet", text: `${head().name} ` }),
        el("b", { class: said.right ? "good" : "bad", text: nameOf(said.answer) }),
        el("span", { class: "quiet", text: ` ${percent(said.confidence, 0)}` }),
      ),
    );
  }
  return facts;
}

// Cards a page at a time.
function cards(pictures, make, empty) {
  const step = innerWidth < 600 ? 12 : 24;
  const holder = el("div", { class: "cards" });
  if (!pictures.length) return el("p", { class: "empty", text: empty });
  const more = el("button", { type: "button", class: "more", on: { click: () => show() } });
  let shown = 0;
  function show() {
    for (const picture of pictures.slice(shown, shown + step)) holder.append(make(picture));
    shown = Math.min(shown + step, pictures.length);
    more.textContent = `Show more (${whole(pictures.length - shown)} left)`;
    more.hidden = shown === pictures.length;
  }
  show();
  return el("div", {}, holder, more);
}
