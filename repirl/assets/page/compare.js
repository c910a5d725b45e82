// Two runs on the same problems: what the second fixed and broke, and both completions beside each other.

const CHANGES = {fixed: "fixed", broken: "broken", right: "both right", wrong: "both wrong", none: "not graded"};
const evaluated = Object.keys(data.runs).filter(key => data.runs[key].evaluations.length);
const pair = {...startingPair(), place: ""};

/** At first: a run of the first suite's baseline, and of the row that competes and stands highest. */
function startingPair() {
  const rows = data.suites.length ? data.rows.filter(row => suiteOf(row) === data.suites[0]) : [];
  const run = row => row ? row.runs.find(key => evaluated.includes(key)) || "" : "";
  const {baseline} = data.suites[0] || {};
  return {first: run(rows.find(row => row.name === baseline)), second: run(rows.find(row => row.name !== baseline && row.kind === "method"))};
}

/** [place in the first, place in the second, part] of what both were evaluated on. */
function shared(first, second) {
  return data.runs[first].evaluations.flatMap((one, i) => data.runs[second].evaluations.flatMap((other, j) =>
    one.set !== other.set ? [] : Object.keys(one.counts).filter(part => part in other.counts && one.counts[part].total && other.counts[part].total)
      .map(part => [i, j, part])));
}

/** A select of runs in groups of their suites. */
function runSelect(keys, chosenKey, onchange) {
  const suites = Map.groupBy ? Map.groupBy(keys, key => data.runs[key].suite) : grouped(keys);
  return el("select", {onchange: event => onchange(event.target.value)}, [...suites].map(([suite, own]) =>
    el("optgroup", {label: suite}, own.map(key => el("option", {value: key, selected: key === chosenKey}, runName(data.runs[key]))))));
}

function grouped(keys) {
  const found = new Map();
  for (const key of keys) found.set(data.runs[key].suite, [...(found.get(data.runs[key].suite) || []), key]);
  return found;
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
  const others = evaluated.filter(key => key !== pair.first && shared(pair.first, key).length);
  const sameSeed = others.filter(key => data.runs[key].seed === data.runs[pair.first].seed && data.runs[key].suite === data.runs[pair.first].suite);
  if (!others.includes(pair.second)) pair.second = sameSeed[0] || others[0] || "";
  const places = pair.second ? shared(pair.first, pair.second) : [];
  const active = document.activeElement && document.activeElement.dataset.pair;
  const controls = {
    first: runSelect(evaluated, pair.first, value => { pair.first = value; drawPair(); }),
    second: runSelect(others, pair.second, value => { pair.second = value; drawPair(); }),
    place: select(places.map(([i, j, part]) => [`${i}/${j}/${part}`, `${data.runs[pair.first].evaluations[i].benchmark}, ${part}`]),
      pair.place, value => { pair.place = value; }),
  };
  if (!places.some(place => place.join("/") === pair.place)) pair.place = places.length ? places[0].join("/") : "";
  Object.entries(controls).forEach(([name, control]) => { control.dataset.pair = name; });
  byId("pair").replaceChildren(labelled("First run", controls.first), labelled("Second run", controls.second), labelled("On", controls.place),
    el("button", {type: "submit", disabled: !places.length}, "Compare"));
  if (active) byId("pair").querySelector(`[data-pair="${active}"]`).focus();
}

byId("pair").addEventListener("submit", event => {
  event.preventDefault();
  location.hash = link("compare", pair.first, pair.second, ...pair.place.split("/"));
});

/** Of one problem: how many of its samples are right in each run, and what that is. */
function change(first, second) {
  const right = letters => [...letters].filter(letter => letter === "c").length;
  const graded = letters => [...letters].filter(letter => letter !== "u").length;
  if (!graded(first) || !graded(second)) return "none";
  const [a, b] = [right(first) / graded(first), right(second) / graded(second)];
  return a === b ? (a > 0 ? "right" : "wrong") : b > a ? "fixed" : "broken";
}

async function compareView(first, second, i, j, part) {
  const [a, b] = await Promise.all([samplesOf(first, i, part), samplesOf(second, j, part)]);
  const one = a.verdicts.every(letters => letters.length <= 1) && b.verdicts.every(letters => letters.length <= 1);
  const withTexts = new Set(a.samples.map(sample => sample.problem).filter(problem => b.samples.some(other => other.problem === problem)));
  const items = a.problems.ids.map((id, problem) => ({
    id, problem, level: a.problems.levels[problem], first: a.verdicts[problem] || "", second: b.verdicts[problem] || "", texts: withTexts.has(problem),
  })).filter(item => item.first && item.second);
  items.forEach(item => { item.change = change(item.first, item.second); });
  items.sort((x, y) => y.texts - x.texts);
  const count = kind => items.filter(item => item.change === kind).length;
  const letters = said => one ? verdictMark(said) : `${[...said].filter(letter => letter === "c").length} of ${said.length} right`;
  const differ = a.evaluation.sampling !== b.evaluation.sampling || a.evaluation.digests.card !== b.evaluation.digests.card;
  return {
    title: `${a.evaluation.benchmark}, ${part}: ${runName(a.run)} against ${runName(b.run)}`,
    crumbs: [],
    body: [
      differ && el("p", {class: "warning"}, `Not evaluated alike. First: ${a.evaluation.sampling}. Second: ${b.evaluation.sampling}.` +
        (a.evaluation.digests.card !== b.evaluation.digests.card ? " Their task files differ." : "")),
      el("p", {}, `${plural(items.length, "problem")} that both have. ` + (one ? "The second run fixes what the first got wrong, and breaks what it got right. "
        : "Fixed: more of the second run's samples are right; broken: fewer; both right: as many, some; both wrong: none. ") +
        `Completions of ${withTexts.size} of them are on the page, listed first.`),
      el("dl", {class: "changes"}, Object.entries(CHANGES).filter(([kind]) => kind !== "none" || count(kind)).map(([kind, name]) =>
        el("div", {class: kind}, el("dt", {}, name), el("dd", {}, whole(count(kind)))))),
      paged(items, [
        ["Problem", item => item.texts ? el("a", {href: link("both", first, second, i, j, part, item.id)}, item.id) : item.id],
        ["Level", item => item.level === null ? "" : String(item.level)],
        ["Change", item => el("span", {class: `change ${item.change}`}, CHANGES[item.change])],
        ["First run", item => letters(item.first)],
        ["Second run", item => letters(item.second)],
      ], [["", "all"], ...Object.entries(CHANGES)], (item, words, kind) =>
        (!kind || item.change === kind) && (!words || item.id.includes(words))),
    ],
  };
}

async function bothView(first, second, i, j, part, id) {
  const [a, b] = await Promise.all([samplesOf(first, i, part), samplesOf(second, j, part)]);
  const problem = a.problems.ids.indexOf(id);
  const of = one => one.samples.filter(sample => sample.problem === problem);
  const side = (one, name) => el("section", {"aria-label": name}, el("h3", {}, name), of(one).map(sample =>
    el("article", {}, el("h4", {}, `Sample ${sample.sample}`), completionView(sample))));
  const shownIds = [...new Set(a.samples.map(sample => sample.id))];
  const at = shownIds.indexOf(id);
  const step = (to, text) => shownIds[to] && el("a", {href: link("both", first, second, i, j, part, shownIds[to])}, text);
  return {
    title: `${id}: ${runName(a.run)} against ${runName(b.run)}`,
    crumbs: [[link("compare", first, second, i, j, part), `${a.evaluation.benchmark}, ${part}`]],
    body: [
      el("p", {class: "links"}, step(at - 1, "Previous"), step(at + 1, "Next")),
      problem >= 0 && problemView(a.problems, problem),
      el("p", {}, el("b", {class: "change"}, CHANGES[change(a.verdicts[problem] || "", b.verdicts[problem] || "")])),
      el("div", {class: "sides"}, side(a, `First: ${runName(a.run)}`), side(b, `Second: ${runName(b.run)}`)),
    ],
  };
}
