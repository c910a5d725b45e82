// The table: a line for each row and number, sorted and filtered.

const lines = data.rows.flatMap(row => Object.entries(row.cells).map(([place, cell]) => {
  const column = suiteOf(row).columns[place];
  const main = suiteOf(row).main[row.stage].includes(Number(place));
  return {row, cell, column, main, text: `${row.name} ${row.method} ${row.recipe}`.toLowerCase()};
}));
const span = new Map();  // the widest bounds in each kind of number, for the bars
for (const {cell, column} of lines) {
  const [low, high] = span.get(column.kind) || [0, 0];
  span.set(column.kind, [Math.min(low, cell.interval[1] ?? 0), Math.max(high, cell.interval[2] ?? cell.interval[0])]);
}

const COLUMNS = [
  {name: "Run", key: line => line.row.name, cell: runCell},
  {name: "Suite", key: line => line.row.suite, wide: true, cell: line => line.row.suite},
  {name: "Trained on", key: line => line.row.stage, wide: true, cell: line => line.row.stage},
  {name: "Benchmark", key: line => line.column.benchmark, wide: true, cell: line => line.column.benchmark},
  {name: "Metric", key: line => line.column.metric, wide: true, cell: line => line.column.metric},
  {name: "Value", key: line => line.cell.interval[0] / (line.column.kind === "judge" ? 100 : 1), down: true, numeric: true,
    cell: valueCell},
  {name: "Place", key: line => line.cell.rank ? line.cell.rank[0] : Infinity, wide: true, numeric: true, cell: placeCell},
  {name: "Over the baseline", key: line => line.cell.gap ? line.cell.gap.interval[0] : -Infinity, down: true, numeric: true,
    cell: gapCell},
  {name: "Seeds", key: line => line.cell.seeds.length, down: true, wide: true, numeric: true,
    cell: line => el("span", {title: line.cell.seeds.join(", ")}, String(line.cell.seeds.length))},
  {name: "Generated tokens", key: tokens, wide: true, numeric: true, cell: line => whole(tokens(line))},
];
const MAIN = "the main one";
const FILTERS = [
  {name: "Suite", key: "suite", of: line => line.row.suite},
  {name: "Trained on", key: "stage", of: line => line.row.stage},
  {name: "Benchmark", key: "benchmark", of: line => line.column.benchmark},
  {name: "Metric", key: "metric", of: line => line.column.metric, first: MAIN,
    fits: (own, asked, line) => asked === MAIN ? line.main : own === asked},
  {name: "Protocol", key: "protocol", of: line => line.column.protocol,
    text: digest => `${data.protocols[digest]} (${digest.slice(0, 6)})`},
  {name: "Method", key: "method", of: line => line.row.method},
  {name: "Seeds, at least", key: "seeds", of: line => String(line.cell.seeds.length), least: true,
    fits: (own, asked) => Number(own) >= Number(asked)},
];
const unfiltered = Object.fromEntries(["words", ...FILTERS.map(filter => filter.key)].map(key => [key, ""]));
const chosen = {...unfiltered, ...start()};
const order = {column: 5, down: true};
let shownLines = PAGE_SIZE;

function tokens({row}) {
  return row.cost.training[data.counters.indexOf("generated_tokens")];
}

/** What the table shows at first: the main number of the first suite's first finding, or of its first benchmark. */
function start() {
  const [suite] = data.suites;
  const place = suite?.leading ?? (suite && Object.values(suite.main)[0][0]);
  return place === undefined ? {} : {suite: suite.name, benchmark: suite.columns[place].benchmark, metric: MAIN};
}

function runCell({row, cell, column}) {
  return [el("a", {href: rowLink(row)}, row.name), kindWord(row),
    row.kept_the_start && el("span", {class: "small"}, " kept the start"),
    el("span", {class: "narrow small"}, `${row.suite}, ${row.stage}: ${column.label}, ${plural(cell.seeds.length, "seed")}`)];
}

function valueCell({cell, column}) {
  return [el("b", {}, number(cell.interval[0], column.kind)), el("span", {class: "small"}, bounds(cell.interval, column.kind)),
    bar(cell.interval, span.get(column.kind))];
}

/** An interval on a scale, for the eye alone: the numbers are beside it. */
function bar([value, low, high], [from, to]) {
  const at = x => 100 * (x - from) / (to - from || 1);
  const made = el("span", {class: "interval", "aria-hidden": "true"}, el("i"), el("b"));
  made.firstChild.style.left = `${at(low ?? value)}%`;
  made.firstChild.style.width = `${at(high ?? value) - at(low ?? value)}%`;
  made.lastChild.style.left = `${at(value)}%`;
  return made;
}

/** After all that are ahead of it, before all that are behind. */
function placeCell({row, cell}) {
  if (!cell.rank) return el("span", {class: "small"}, row.kind === "reference" ? "reference" : "");
  const [place, last, of] = cell.rank;
  return [place === last ? String(place) : `${place}\u2013${last}`, el("span", {class: "small"}, ` of ${of}`)];
}

function gapCell({row, cell, column}) {
  if (!cell.gap) return el("span", {class: "small"}, row.name === suiteOf(row).baseline ? "is the baseline" : "");
  const {interval} = cell.gap;
  return [number(interval[0], column.kind, true), el("span", {class: "small"}, bounds(interval, column.kind, true))];
}

const fitting = without => lines.filter(line => FILTERS.every(filter => {
  const asked = chosen[filter.key];
  return !asked || filter.key === without || (filter.fits || Object.is)(filter.of(line), asked, line);
}) && (!chosen.words || line.text.includes(chosen.words)));

/** The filters; each offers what the others leave. */
function drawFilters() {
  const form = byId("filters");
  const active = document.activeElement && document.activeElement.dataset.filter;
  form.replaceChildren(...FILTERS.map(filter => {
    const values = [...new Set(fitting(filter.key).map(filter.of))].sort((a, b) => a.localeCompare(b, "en", {numeric: true}));
    const options = [["", filter.least ? "1" : "all"], ...(filter.first ? [[filter.first, filter.first]] : []),
      ...values.filter(value => !filter.least || value !== "1").map(value => [value, filter.text?.(value) ?? value])];
    const control = select(options, chosen[filter.key], value => {
      chosen[filter.key] = value;
      shownLines = PAGE_SIZE;
      drawFilters();
      drawTable();
    });
    control.dataset.filter = filter.key;
    return labelled(filter.name, control);
  }), labelled("Name contains", el("input", {type: "search", value: chosen.words, "data-filter": "words", oninput: event => {
    chosen.words = event.target.value.toLowerCase();
    shownLines = PAGE_SIZE;
    drawTable();
  }})), el("button", {type: "button", onclick: () => {
    Object.assign(chosen, unfiltered);
    drawFilters();
    drawTable();
  }}, "All rows"));
  if (active) form.querySelector(`[data-filter="${active}"]`).focus();
}

function drawTable() {
  const {column, down} = order;
  const key = COLUMNS[column].key;
  const found = fitting().map((line, i) => [key(line), i, line]).sort(([a, i], [b, j]) => {
    const way = typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a === b ? 0 : a < b ? -1 : 1;
    return (down ? -way : way) || i - j;
  }).map(([, , line]) => line);
  const shown = found.slice(0, shownLines);
  const rows = new Set(found.map(line => line.row));
  byId("count").textContent = `${plural(found.length, "number")} of ${plural(rows.size, "row")}` +
    (shown.length < found.length ? `; the first ${shown.length} are shown` : "");
  const headers = COLUMNS.map((one, i) => el("th", {
    scope: "col", class: [one.wide && "wide", one.numeric && "numeric"].filter(Boolean).join(" "),
    "aria-sort": i === column ? (down ? "descending" : "ascending") : null,
  }, el("button", {type: "button", onclick: () => {
    Object.assign(order, {column: i, down: i === order.column ? !order.down : Boolean(one.down)});
    drawTable();
    byId("table").querySelectorAll("th button")[i].focus();
  }}, one.name, el("span", {"aria-hidden": "true", class: "arrow"}, i === column ? (down ? "▼" : "▲") : ""))));
  byId("table").replaceChildren(el("thead", {}, el("tr", {}, headers)), el("tbody", {}, shown.map(line =>
    el("tr", {class: line.row.kind}, COLUMNS.map((one, i) => el(i ? "td" : "th", {
      scope: i ? null : "row", class: [one.wide && "wide", one.numeric && "numeric"].filter(Boolean).join(" "),
    }, one.cell(line)))))));
  byId("more").hidden = shown.length >= found.length;
  byId("more").textContent = `Show ${found.length - shown.length} more`;
}
