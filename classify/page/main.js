// The page: header, summary, navigation and the sections in the order in which a reader wants them.

function header() {
  const names = { light: "Light", dark: "Dark" };
  const toggle = el("button", { type: "button", class: "theme", on: { click: () => changeTheme(isDark() ? "light" : "dark") } });
  const label = () => {
    toggle.textContent = names[isDark() ? "light" : "dark"];
    toggle.setAttribute("aria-label", `${names[isDark() ? "light" : "dark"]} theme`);
  };
  onTheme(label);
  label();
  return el("header", { class: "top" }, el("div", {}, el("p", { class: "brand", text: "Penult report" }), el("h1", { text: F.title })), toggle);
}

function summary() {
  const best = F.heads[0];
  const [accuracy, low, high] = best.accuracy;
  const steps = F.steps.map((step) => el("li", {}, el("a", { href: `#${sectionOf(step.section)}`, "data-section": step.section, text: step.text })));
  const made = el(
    "section",
    { class: "summary", "aria-label": "summary" },
    el(
      "div",
      { class: "result" },
      el("p", { class: "figure" }, el("b", { text: percent(accuracy) }), el("span", { text: `${best.name}, ${F.split}` })),
      el("p", { class: "quiet", text: `95% interval ${percent(low)} – ${percent(high)}` }),
    ),
    el("div", { class: "words" }, ...F.headline.map((text, i) => el("p", { class: i ? null : "lead", text }))),
    steps.length ? el("div", { class: "next" }, el("h2", { text: "What to look at next" }), el("ol", {}, ...steps)) : null,
  );
  made.addEventListener("click", (event) => openers.get(event.target.dataset?.section)?.());
  return made;
}

const sectionOf = (name) => (openers.has(name) ? "review" : name);

function navigation() {
  const links = sections.map(({ id, short }) => el("a", { href: `#${id}`, text: short }));
  const nav = el("nav", { "aria-label": "sections" }, el("div", { class: "links" }, ...links));
  if (F.heads.length > 1) {
    nav.append(control("head", F.heads.map((h, i) => [String(i), h.name]), "0", (i) => chooseHead(Number(i))));
  }
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const link = links[sections.findIndex(({ made }) => made === entry.target)];
        if (entry.isIntersecting) {
          links.forEach((other) => other.removeAttribute("aria-current"));
          link.setAttribute("aria-current", "true");
        }
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  sections.forEach(({ made }) => seen.observe(made));
  return nav;
}

rankingSection();
confusionSection();
reviewSection();
mapSection();
classesSection();
calibrationSection();
curveSection();
pathSection();
dataSection();
adviceSection();
originSection();

const main = el("main", {}, summary(), ...sections.map(({ made }) => made));
document.body.append(header(), navigation(), main, tray, tip);
showTray();
