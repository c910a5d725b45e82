// The sections of the page, and what an address within it (`#row/...`) shows.

const VIEWS = {
  row: (...parts) => { const row = rowsById.get(parts.map(encodeURIComponent).join("/")); return row && rowView(row); },
  samples: (key, place, part) => known(key, place) && samplesView(key, Number(place), part),
  sample: (key, place, part, id, index) => known(key, place) && sampleView(key, Number(place), part, id, index),
  scores: (key, place) => data.runs[key] && data.runs[key].scored[place] && scoresView(key, Number(place)),
  compare: (first, second, i, j, part) => known(first, i) && known(second, j) && compareView(first, second, Number(i), Number(j), part),
  both: (first, second, i, j, part, id) => known(first, i) && known(second, j) && bothView(first, second, Number(i), Number(j), part, id),
};
const panel = byId("panel");

function known(key, place) {
  return key in data.runs && data.runs[key].evaluations[place];
}

/** Opens what the address names in the panel; an address of the page itself closes it. */
async function route() {
  const asked = location.hash;
  const [name, ...parts] = asked.slice(1).split("/").map(decodeURIComponent);
  if (!(name in VIEWS)) {
    if (panel.open) panel.close();
    return;
  }
  const found = await VIEWS[name](...parts);
  if (location.hash !== asked) return;  // another was asked for meanwhile
  const {title, crumbs, body} = found || {title: "Not on this page", crumbs: [], body: [el("p", {}, "The address names no row, run or sample of this page.")]};
  const heading = el("h2", {id: "panel-title", tabindex: "-1"}, title);
  byId("crumbs").replaceChildren(...crumbs.map(([address, text]) => el("a", {href: address}, text)));
  byId("view").replaceChildren(heading, ...[body].flat(3).filter(Boolean));
  document.title = `${heading.textContent} - repirl leaderboard`;
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  heading.focus();
}

panel.addEventListener("close", () => {
  document.title = "repirl leaderboard";
  if (location.hash.slice(1).split("/")[0] in VIEWS) history.pushState(null, "", "#");
});
byId("close").addEventListener("click", () => panel.close());
byId("more").addEventListener("click", () => { shownLines += 500; drawTable(); });
byId("filters").addEventListener("submit", event => event.preventDefault());
window.addEventListener("hashchange", route);
window.addEventListener("popstate", route);

async function figureView(suite, figure) {
  const name = figure.slice(suite.name.length + 1, -".svg".length).replaceAll("-", " ");
  return el("figure", {}, el("figcaption", {}, name), el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": name},
    await picture(`figure/${figure}`, `${name}, ${suite.name}; its numbers are in the suite's tables`)));
}

/** How many of a suite's differences are clear. */
function tally(suite) {
  const count = sign => suite.verdicts.filter(one => one.sign === sign).length;
  const said = [[1, "ahead"], [-1, "behind"], [0, "not told apart"]].filter(([sign]) => count(sign)).map(([sign, word]) => `${count(sign)} ${word}`);
  return el("span", {class: "small"}, ` ${said.join(", ")}`);
}

async function verdictsView(suite, forests) {
  const sentences = kept => el("ul", {class: "verdicts"}, suite.verdicts.filter(one => one.main === kept).map(one =>
    el("li", {class: {1: "ahead", 0: "tied", "-1": "behind"}[one.sign]}, el("b", {}, one.finding), " ", el("span", {class: "small"}, one.evidence))));
  return el("div", {class: "found"},
    el("div", {},
      sentences(true),
      suite.verdicts.some(one => !one.main) && folded(el("span", {class: "small"}, "By other metrics"), () => sentences(false)),
      suite.verdicts.length > 0 && el("p", {class: "note"}, `p-values are corrected for all ${suite.verdicts.length} of the suite (Holm); ahead or ` +
        "behind takes both an interval without 0 and p < 0.05. Intervals, and the ranks in the table, are not corrected.")),
    el("div", {}, await Promise.all(forests.map(one => figureView(suite, one)))));
}

function drawSuites() {
  data.suites.forEach((suite, place) => {
    const name = () => [el("b", {}, suite.name), suite.title ? ` ${suite.title}` : ""];
    const forests = suite.figures.filter(figure => figure.startsWith(`${suite.name}-forest`));
    const curves = suite.figures.filter(figure => !forests.includes(figure));
    if (suite.verdicts.length || forests.length) byId("verdicts").append(folded([name(), tally(suite)], () => verdictsView(suite, forests), place === 0));
    if (curves.length) byId("curves").append(folded(name(), async () => el("div", {}, await Promise.all(curves.map(one => figureView(suite, one))))));
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
