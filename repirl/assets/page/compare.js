// Two runs on the same problems: what the second fixed and broke, and both completions beside each other.

const CHANGES = {fixed: "fixed", broken: "broken", right: "both right", wrong: "both wrong", none: "not graded"};
const evaluated = Object.keys(data.runs).filter(key => data.runs[key].evaluations.length);
const pair = {...startingPair(), place: ""};

/** At first: a run of the first suite's baseline, and of the row that competes and stands highest. */
function startingPair() {
  const rows = data.suites.length ? data.rows.filter(row => suiteOf(row) === data.suites[0]) : [];
  const run = row => row ? row.runs.find(key => evaluated.includes(key)) || "" : "";
  const {baseline} = data.suites[0] || {};
  return {
    first: run(rows.find(row => row.name === baseline)),
    second: run(rows.find(row => row.name !== baseline && row.kind === "method")),
  };
}

/** [place in the first, place in the second, part] of what both were evaluated on. */
function shared(first, second) {
  const [own, others] = [data.runs[first].evaluations, data.runs[second].evaluations];
  return own.flatMap((one, i) => others.flatMap((other, j) => one.set !== other.set ? [] :
    Object.keys(one.counts).filter(part => one.counts[part].total && other.counts[part]?.total).map(part => [i, j, part])));
}

/** A select of runs in groups of their suites. */
function runSelect(keys, chosenKey, onchange) {
  const suites = [...new Set(keys.map(key => data.runs[key].suite))];
  const option = key => el("option", {value: key, selected: key === chosenKey}, runName(data.runs[key]));
  return el("select", {onchange: event => onchange(event.target.value)}, suites.map(suite =>
    el("optgroup", {label: suite}, keys.filter(key => data.runs[key].suite === suite).map(option))));
}

function choosePair(key) {
  pair.first = key;
  drawPair();
}

function drawPair() {
  if (evaluated.length < 2) {
    byId("pair").replaceChildren(el("p", {}, "There are no two runs with samples."));
    return;
  }
  pair.first = pair.first || evaluated[0];
  const own = data.runs[pair.first];
  const others = evaluated.filter(key => key !== pair.first && shared(pair.first, key).length);
  const alike = others.find(key => data.runs[key].seed === own.seed && data.runs[key].suite === own.suite);
  if (!others.includes(pair.second)) pair.second = alike || others[0] || "";
  const places = pair.second ? shared(pair.first, pair.second) : [];
  if (!places.some(place => place.join("/") === pair.place)) pair.place = places.length ? places[0].join("/") : "";
  const options = places.map(place => [place.join("/"), `${own.evaluations[place[0]].benchmark}, ${place[2]}`]);
  const active = document.activeElement && document.activeElement.dataset.pair;
  const controls = {
    first: runSelect(evaluated, pair.first, value => { pair.first = value; drawPair(); }),
    second: runSelect(others, pair.second, value => { pair.second = value; drawPair(); }),
    place: select(options, pair.place, value => { pair.place = value; }),
  };
  Object.entries(controls).forEach(([name, control]) => { control.dataset.pair = name; });
  byId("pair").replaceChildren(
    labelled("First run", controls.first), labelled("Second run", controls.second), labelled("On", controls.place),
    el("button", {type: "submit", disabled: !places.length}, "Compare"));
  if (active) byId("pair").querySelector(`[data-pair="${active}"]`).focus();
}

byId("pair").addEventListener("submit", event => {
  event.preventDefault();
  location.hash = link("compare", pair.first, pair.second, ...pair.place.split("/"));
});

/** Of one problem, by the share of its graded samples that are right in each run. */
function change(first, second) {
  const count = (letters, wanted) => [...letters].filter(letter => wanted.includes(letter)).length;
  const [a, b] = [first, second].map(letters => count(letters, "c") / count(letters, "cwt"));
  if (Number.isNaN(a) || Number.isNaN(b)) return "none";
  return a === b ? (a > 0 ? "right" : "wrong") : b > a ? "fixed" : "broken";
}

function alikeWarning(a, b) {
  const cards = a.evaluation.digests.card === b.evaluation.digests.card;
  if (cards && a.evaluation.sampling === b.evaluation.sampling) return null;
  return el("p", {class: "warning"}, "Not evaluated alike. ", cards ? "" : "Their task files differ. ",
    `First: ${a.evaluation.sampling}. Second: ${b.evaluation.sampling}.`);
}

async function compareView(first, second, i, j, part) {
  const [a, b] = await Promise.all([samplesOf(first, i, part), samplesOf(second, j, part)]);
  const single = [...a.verdicts, ...b.verdicts].every(letters => letters.length <= 1);
  const inSecond = new Set(b.samples.map(sample => sample.problem));
  const withTexts = new Set(a.samples.map(sample => sample.problem).filter(problem => inSecond.has(problem)));
  const items = a.problems.ids.map((id, problem) => ({
    id, level: a.problems.levels[problem], texts: withTexts.has(problem),
    first: a.verdicts[problem] || "", second: b.verdicts[problem] || "",
  })).filter(item => item.first && item.second);
  items.forEach(item => { item.change = change(item.first, item.second); });
  items.sort((x, y) => y.texts - x.texts);
  const count = kind => items.filter(item => item.change === kind).length;
  const said = letters => single ? verdictMark(letters)
    : `${[...letters].filter(letter => letter === "c").length} of ${letters.length} right`;
  const meaning = single ? "The second run fixes what the first got wrong, and breaks what it got right. "
    : "Fixed: more of the second run's samples are right; broken: fewer; both right: as many, some; both wrong: none. ";
  const kinds = Object.entries(CHANGES).filter(([kind]) => kind !== "none" || count(kind));
  return {
    title: `${a.evaluation.benchmark}, ${part}: ${runName(a.run)} against ${runName(b.run)}`,
    crumbs: [["#two-runs", "Two runs"]],
    body: [
      alikeWarning(a, b),
      el("p", {}, `${plural(items.length, "problem")} that both have. ${meaning}` +
        `Completions of ${withTexts.size} of them are on the page, listed first.`),
      el("dl", {class: "changes"}, kinds.map(([kind, name]) =>
        el("div", {class: kind}, el("dt", {}, name), el("dd", {}, whole(count(kind)))))),
      paged(items, [
        ["Problem", item => item.texts ? el("a", {href: link("both", first, second, i, j, part, item.id)}, item.id) : item.id],
        ["Level", item => item.level === null ? "" : String(item.level)],
        ["Change", item => el("span", {class: `change ${item.change}`}, CHANGES[item.change])],
        ["First run", item => said(item.first)],
        ["Second run", item => said(item.second)],
      ], [["", "all"], ...kinds], (item, words, kind) =>
        (!kind || item.change === kind) && (!words || item.id.includes(words))),
    ],
  };
}

async function bothView(first, second, i, j, part, id) {
  const [a, b] = await Promise.all([samplesOf(first, i, part), samplesOf(second, j, part)]);
  const problem = a.problems.ids.indexOf(id);
  if (problem < 0) return null;
  const side = (one, name) => el("section", {"aria-label": name}, el("h3", {}, name),
    one.samples.filter(sample => sample.problem === problem).map(sample =>
      el("article", {}, el("h4", {}, `Sample ${sample.sample}`), completionView(sample))));
  const shownIds = [...new Set(a.samples.map(sample => sample.id))];
  const at = shownIds.indexOf(id);
  const step = (to, text) => shownIds[to] && el("a", {href: link("both", first, second, i, j, part, shownIds[to])}, text);
  const kind = change(a.verdicts[problem] || "", b.verdicts[problem] || "");
  return {
    title: `${id}: ${runName(a.run)} against ${runName(b.run)}`,
    crumbs: [["#two-runs", "Two runs"], [link("compare", first, second, i, j, part), `${a.evaluation.benchmark}, ${part}`]],
    body: [
      el("p", {class: "links"}, step(at - 1, "Previous"), step(at + 1, "Next")),
      problemView(a.problems, problem),
      el("p", {}, el("b", {class: `change ${kind}`}, CHANGES[kind])),
      el("div", {class: "sides"}, side(a, `First: ${runName(a.run)}`), side(b, `Second: ${runName(b.run)}`)),
    ],
  };
}
