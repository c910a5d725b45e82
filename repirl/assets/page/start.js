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

function drawSuites() {
  const ofSuite = name => data.rows.filter(row => row.suite === name);
  data.suites.forEach((suite, place) => {
    const name = [el("b", {}, suite.name), suite.title ? ` ${suite.title}` : ""];
    if (suite.verdicts.length) {
      byId("verdicts").append(folded([name, el("span", {class: "small"}, ` ${plural(suite.verdicts.length, "contrast")}`)],
        () => el("ul", {class: "verdicts"}, suite.verdicts.map(one => el("li", {}, one.text))), place === 0));
    }
    if (suite.figures.length) {
      byId("curves").append(folded([name, el("span", {class: "small"}, ` ${plural(suite.figures.length, "figure")}`)], async () =>
        el("div", {}, await Promise.all(suite.figures.map(figure => figureView(suite, figure))))));
    }
    byId("budgets").append(folded(name, () => costTable(ofSuite(suite.name))));
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
  `${plural(Object.keys(data.runs).length, "run")}. Completions on this page: of ` +
  data.sets.map(set => `${set.shown} of ${set.problems} problems of ${set.benchmark}`).join(", ") + "; verdicts of all.";
drawSuites();
drawFilters();
drawTable();
drawPair();
drawPublished();
route();
