// The sections of the page, and what an address within it (`#row/...`) shows.

const VIEWS = {
  row: (...parts) => { const row = rowsById.get(parts.map(encodeURIComponent).join("/")); return row && rowView(row); },
  samples: (key, place, part) => has(key, place, part) && samplesView(key, Number(place), part),
  sample: (key, place, part, id, index) => has(key, place, part) && sampleView(key, Number(place), part, id, index),
  scores: (key, place) => Object.hasOwn(data.runs, key) && data.runs[key].scored[place] && scoresView(key, Number(place)),
  compare: (first, second, i, j, part) => haveBoth(first, second, i, j, part) &&
    compareView(first, second, Number(i), Number(j), part),
  both: (first, second, i, j, part, id) => haveBoth(first, second, i, j, part) &&
    bothView(first, second, Number(i), Number(j), part, id),
};
const panel = byId("panel");

function has(key, place, part) {
  const evaluation = Object.hasOwn(data.runs, key) && data.runs[key].evaluations[place];
  return Boolean(evaluation) && Object.hasOwn(evaluation.counts, part);
}

const haveBoth = (first, second, i, j, part) => has(first, i, part) && has(second, j, part) &&
  data.runs[first].evaluations[i].set === data.runs[second].evaluations[j].set;

/** The parts of the address after `#`; none where it is malformed. */
function asked() {
  try {
    return location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch (fault) {
    if (fault instanceof URIError) return [""];
    throw fault;
  }
}

/** Opens what the address names in the panel; an address of the page itself closes it. */
async function route() {
  const address = location.hash;
  const [name, ...parts] = asked();
  if (!Object.hasOwn(VIEWS, name)) {
    if (panel.open) leave(name);
    return;
  }
  const found = await VIEWS[name](...parts);
  if (location.hash !== address) return;  // another was asked for meanwhile
  const nothing = "The address names no row, run or sample of this page.";
  const {title, crumbs, body} = found || {title: "Not on this page", crumbs: [], body: [el("p", {}, nothing)]};
  const heading = el("h2", {id: "panel-title", tabindex: "-1"}, title);
  byId("crumbs").replaceChildren(...crumbs.map(([where, text]) => el("a", {href: where}, text)));
  byId("view").replaceChildren(heading, ...[body].flat(3).filter(Boolean));
  document.title = `${heading.textContent} - repirl leaderboard`;
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  heading.focus();
}

/** Closes the panel; focus goes to the section that was asked for, else to where it was. */
function leave(name) {
  panel.close();
  const section = name && byId(name);
  if (!section) return;
  section.tabIndex = -1;
  section.focus();
}

panel.addEventListener("close", () => {
  document.title = "repirl leaderboard";
  if (Object.hasOwn(VIEWS, asked()[0])) history.pushState(null, "", "#");
});
byId("close").addEventListener("click", () => panel.close());
byId("more").addEventListener("click", () => { shownLines += 500; drawTable(); });
byId("filters").addEventListener("submit", event => event.preventDefault());
window.addEventListener("hashchange", route);
window.addEventListener("popstate", route);

async function figureView(suite, {file, name}) {
  return el("figure", {}, el("figcaption", {}, name),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": name},
    await picture(`figure/${file}`, `${name}, ${suite.name}; its numbers are in the suite's tables`)));
}

/** How many of a suite's differences are clear. */
function tally(suite) {
  const count = sign => suite.verdicts.filter(one => one.sign === sign).length;
  const words = [[1, "ahead"], [-1, "behind"], [0, "not told apart"]].filter(([sign]) => count(sign));
  return el("span", {class: "small"}, ` ${words.map(([sign, word]) => `${count(sign)} ${word}`).join(", ")}`);
}

async function verdictsView(suite, forests) {
  const sentences = kept => el("ul", {class: "verdicts"}, suite.verdicts.filter(one => one.main === kept).map(one =>
    el("li", {class: {1: "ahead", 0: "tied", "-1": "behind"}[one.sign]},
      el("b", {}, one.finding), " ", el("span", {class: "small"}, one.evidence))));
  return el("div", {class: "found"},
    el("div", {},
      sentences(true),
      suite.verdicts.some(one => !one.main) && folded(el("span", {class: "small"}, "By other metrics"), () => sentences(false)),
      suite.verdicts.length > 0 && el("p", {class: "note"},
        `p-values are corrected for all ${suite.verdicts.length} of the suite (Holm); ahead or behind takes both an interval ` +
        "without 0 and p < 0.05. Intervals, and the places in the table, are not corrected.")),
    el("div", {}, await Promise.all(forests.map(one => figureView(suite, one)))));
}

function drawSuites() {
  data.suites.forEach((suite, place) => {
    const name = () => [el("b", {}, suite.name), suite.title ? ` ${suite.title}` : ""];
    const forests = suite.figures.filter(figure => figure.name.startsWith("forest"));
    const curves = suite.figures.filter(figure => !forests.includes(figure));
    if (suite.verdicts.length || forests.length) {
      byId("verdicts").append(folded([name(), tally(suite)], () => verdictsView(suite, forests), place === 0));
    }
    if (curves.length) {
      byId("curves").append(folded(name(), async () =>
        el("div", {}, await Promise.all(curves.map(one => figureView(suite, one))))));
    }
    byId("budgets").append(folded(name(), () => costTable(data.rows.filter(row => suiteOf(row) === suite))));
  });
}

function drawPublished() {
  const {source, decoding, footnote, table: tables} = data.published;
  const mark = notes => notes.map(note => el("sup", {}, String(footnote.findIndex(one => one.id === note) + 1)));
  byId("published").append(
    el("p", {class: "note"}, `From ${source}; ${decoding}. Other models, data and budgets than our rows: not comparable.`),
    ...tables.map(one => folded([one.title, mark(one.footnotes)], () => table(["published", ...one.columns],
      one.rows.map(row => [[row.name, mark(row.footnotes)], ...row.values.map(value => value.toFixed(1))]), one.title))),
    el("ol", {class: "small"}, footnote.map(note => el("li", {}, note.text))));
}

byId("told").textContent = `${plural(data.suites.length, "suite")}, ${plural(data.rows.length, "row")}, ` +
  `${plural(Object.keys(data.runs).length, "run")}, each with its record. Every verdict is on this page, and completions of ` +
  data.sets.map(set => `${set.shown} of ${set.problems} problems of ${set.benchmark}`).join(", ") + ".";
drawSuites();
drawFilters();
drawTable();
drawPair();
drawPublished();
route();
