// Views of a row, of a run's samples, of one sample, and of step scores.

/** A row: its numbers, its cost, and each of its runs with record and samples. */
function rowView(row) {
  const numbers = Object.entries(row.cells).map(([place, cell]) => {
    const {label, kind} = suiteOf(row).columns[place];
    const gap = cell.gap && `${number(cell.gap.interval[0], kind, true)}${bounds(cell.gap.interval, kind, true)}`;
    return [
      label, number(cell.interval[0], kind) + bounds(cell.interval, kind), gap ? `${gap}, p=${cell.gap.p.toFixed(3)}` : "",
      placeCell({row, cell}), String(cell.seeds.length), cell.ungraded ? `${cell.ungraded} of ${cell.total}` : "",
    ];
  });
  const header = ["number", "value", `over ${suiteOf(row).baseline || "a baseline"}`, "place", "seeds", "not graded"];
  return {title: [row.name, kindWord(row)], crumbs: [["#results", "Results"]], body: [
    el("p", {}, `${row.suite}; trained on ${row.stage}; method ${row.method}, recipe ${row.recipe}; from ${row.base_policy}` +
      (row.runtime ? `; ${row.runtime}` : "")),
    row.chosen && el("p", {}, keptSteps(row)),
    numbers.length > 0 && table(header, numbers, "Numbers, means over seeds; p-values are not corrected"),
    costTable([row]),
    el("h3", {}, "Runs"),
    row.runs.map(runView),
    facts([["Configuration", short(row.config_digest)], ["Base policy", short(row.base_digest)]]),
  ]};
}

function keptSteps(row) {
  const [start, kept, end] = row.accuracies.map(value => value === null ? "?" : value.toFixed(3));
  return `Kept step of each run: ${row.chosen.map(step => step ?? "?").join(", ")}. ` +
    `Validation accuracy at the start ${start}, there ${kept}, at the end ${end}.` +
    (row.kept_the_start ? " No checkpoint beat the start: the row is the policy that it started from." : "");
}

function runView(key) {
  const run = data.runs[key];
  const said = (values, kind) => Object.entries(values).map(([name, interval]) =>
    `${name} ${number(interval[0], kind)}${bounds(interval, kind)}`).join("; ");
  const digests = (name, found) => Object.entries(found).filter(([, digest]) => digest).map(([what, digest]) =>
    el("span", {}, `${name}${what} `, short(digest)));
  return el("section", {class: "run"},
    el("h4", {}, `Seed ${run.seed}`),
    el("p", {class: "links"}, el("a", {href: run.file}, "record.json"),
      run.evaluations.map((one, i) => Object.keys(one.counts).map(part =>
        el("a", {href: link("samples", key, i, part)}, `samples: ${one.benchmark}, ${part}`))),
      run.scored.map((one, i) => el("a", {href: link("scores", key, i)}, `step scores: ${one.title}`)),
      run.evaluations.length > 0 && el("a", {href: "#two-runs", onclick: () => choosePair(key)}, "compare with another run")),
    facts([
      ["Command", el("code", {}, run.command)],
      ["Commit", run.commit ? [short(run.commit), run.dirty ? " with changed code" : ""] : "unknown"],
      ["Made", `${run.created}, on ${run.hardware}`],
      ...run.evaluations.map(one => [one.benchmark, said(one.metrics, "policy")]),
      ...[...run.scored, ...run.attacked].map(one => [one.title, said(one.metrics, one.kind)]),
      ["Sampled with", [...new Set(run.evaluations.map(one => one.sampling))].join(" | ")],
      ["Versions", run.versions],
      ["Digests", el("span", {class: "digests"}, digests("", run.digests),
        [...run.evaluations, ...run.scored, ...run.attacked].map(one => digests(`${one.benchmark || one.title} `, one.digests)))],
    ]));
}

/** What rows cost, a line for each part that cost something; `?` where that is not known. */
function costTable(rows) {
  const stages = new Set(rows.map(row => row.stage)).size > 1;
  const body = rows.flatMap(row => Object.entries(row.cost).filter(([, spent]) => spent === null || spent.some(Boolean))
    .map(([part, spent]) => [[row.name, kindWord(row)], ...(stages ? [row.stage] : []), part,
      ...data.counters.map((_, i) => spent === null ? "?" : whole(spent[i]))]));
  if (!body.length) return el("p", {}, "Cost: nothing.");
  const head = ["run", ...(stages ? ["trained on"] : []), "part", ...data.counters.map(name => name.replace("_", " "))];
  return table(head, body, "Cost, mean of the row's runs");
}

// --------------------------------------------------------------------------------------------------------- samples

/** The samples of one part of an evaluation that are on the page, and the verdicts of all. */
async function samplesOf(key, place, part) {
  const evaluation = data.runs[key].evaluations[place];
  const [contents, problems] = await Promise.all([unpacked(`run/${key}`), unpacked(`set/${evaluation.set}`)]);
  const found = contents.evaluations[place][part];
  const samples = found.problem.map((problem, i) => ({
    problem, id: problems.ids[problem], level: problems.levels[problem], sample: found.sample[i], verdict: found.outcome[i],
    reason: found.reason[i], extracted: found.extracted[i], tokens: found.tokens[i], sound: found.sound[i], text: found.text[i],
  }));
  return {run: data.runs[key], evaluation, problems, samples, verdicts: found.verdicts};
}

function runCrumbs(key) {
  const rows = data.rows.filter(row => row.runs.includes(key));
  const own = rows.filter(row => row.suite === data.runs[key].suite);  // other suites may share the run
  return (own.length ? own : rows).slice(0, 1).map(row => [rowLink(row), `${row.name} (${row.suite})`]);
}

/** A list in pages: `columns` of [name, cell(item)]; `choices` of what to show; `fits(item, words, choice)`. */
function paged(items, columns, choices, fits) {
  const state = {page: 0, words: "", choice: ""};
  const status = el("p", {role: "status"});
  const body = el("tbody");
  const cells = item => columns.map(([, cell], i) => el(i ? "td" : "th", {scope: i ? null : "row"}, cell(item)));
  const draw = () => {
    const found = items.filter(item => fits(item, state.words, state.choice));
    const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
    state.page = Math.max(0, Math.min(state.page, pages - 1));
    const shown = found.slice(state.page * PAGE_SIZE, (state.page + 1) * PAGE_SIZE);
    body.replaceChildren(...shown.map(item => el("tr", {}, cells(item))));
    status.textContent = `${whole(found.length)} of ${whole(items.length)}` +
      (pages > 1 ? `, page ${state.page + 1} of ${pages}` : "");
    back.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
  };
  const turn = by => () => { state.page += by; draw(); };
  const back = el("button", {type: "button", onclick: turn(-1)}, "Previous page");
  const next = el("button", {type: "button", onclick: turn(1)}, "Next page");
  const set = name => value => { state[name] = value; state.page = 0; draw(); };
  const search = el("input", {type: "search", oninput: event => set("words")(event.target.value)});
  draw();
  return el("div", {},
    el("form", {"aria-label": "Filters of the list", onsubmit: event => event.preventDefault()},
      labelled("Show", select(choices, "", set("choice"))), labelled("Text contains", search), back, next),
    status,
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "List"}, el("table", {"aria-label": "List"},
      el("thead", {}, el("tr", {}, columns.map(([name]) => el("th", {scope: "col"}, name)))), body)));
}

const verdictMark = letter => el("span", {class: `verdict ${letter}`}, VERDICTS[letter]);

async function samplesView(key, place, part) {
  const {run, evaluation, samples, verdicts} = await samplesOf(key, place, part);
  const counts = evaluation.counts[part];
  const withTexts = new Set(samples.map(one => one.problem)).size;
  const problems = verdicts.filter(Boolean).length;
  const which = withTexts < problems
    ? `${withTexts} of the ${whole(problems)} problems, evenly chosen over levels, the same ones for every run; `
    : `all ${whole(problems)} problems; `;
  return {
    title: `${evaluation.benchmark}, ${part}: ${runName(run)}`,
    crumbs: runCrumbs(key),
    body: [
      el("p", {}, `${whole(counts.correct)} of ${whole(counts.total)} right, ${whole(counts.wrong)} wrong, ` +
        `${whole(counts.truncated)} cut off, ${whole(counts.ungraded)} not graded. ` +
        `Here are the ${whole(samples.length)} completions of ${which}`,
        el("a", {href: evaluation.file}, "all are in the record"), "."),
      paged(samples, [
        ["Problem", one => el("a", {href: link("sample", key, place, part, one.id, one.sample)}, one.id)],
        ["Level", one => one.level === null ? "" : String(one.level)],
        ["Sample", one => String(one.sample)],
        ["Verdict", one => verdictMark(one.verdict)],
        ["Answer found", one => el("code", {class: "clip"}, (one.extracted ?? "none").slice(0, 60))],
        ["Reason", one => el("span", {class: "clip"}, one.reason.slice(0, 60))],
        ["Tokens", one => String(one.tokens)],
      ], [["", "all"], ...Object.entries(VERDICTS)], (one, words, letter) =>
        (!letter || one.verdict === letter) && (!words || one.text.includes(words) || one.id.includes(words))),
    ],
  };
}

async function sampleView(key, place, part, id, index) {
  const {run, evaluation, problems, samples} = await samplesOf(key, place, part);
  const at = samples.findIndex(one => one.id === id && String(one.sample) === index);
  const crumbs = [...runCrumbs(key), [link("samples", key, place, part), `${evaluation.benchmark}, ${part}, seed ${run.seed}`]];
  if (at < 0) return {title: id, crumbs, body: [el("p", {}, "This completion is not on the page; the record has it.")]};
  const step = (to, text) => samples[to] &&
    el("a", {href: link("sample", key, place, part, samples[to].id, samples[to].sample)}, text);
  return {
    title: `${id}, sample ${index}`,
    crumbs,
    body: [
      el("p", {class: "links"}, step(at - 1, "Previous"), step(at + 1, "Next")),
      problemView(problems, samples[at].problem),
      el("h3", {}, "Completion"),
      completionView(samples[at]),
    ],
  };
}

function problemView(problems, place) {
  const told = problems.texts[place];
  return [
    el("h3", {}, "Problem"),
    told ? el("pre", {class: "problem"}, told[0])
      : el("p", {class: "small"}, `${problems.ids[place]}; its text was not at hand when the page was made.`),
    told && told[1] !== null && el("p", {}, "Answer: ", el("code", {}, told[1])),
  ];
}

function completionView(one) {
  return [el("pre", {class: "completion"}, one.text || "(empty)"), facts([
    ["Verdict", verdictMark(one.verdict)],
    ["Answer found", one.extracted === null ? "none" : el("code", {}, one.extracted)],
    ["Grader's reason", one.reason || "none given"],
    ["Every step right", one.sound === null ? null : one.sound ? "yes" : "no"],
    ["Level", one.level === null ? null : String(one.level)],
    ["Tokens", String(one.tokens)],
  ])];
}

// ----------------------------------------------------------------------------------------------------- step scores

/** How a labelled solution was judged, or whether a sample of a pool is right. */
function scoredAs(row) {
  if (row.labels === undefined) return row.correct ? "right" : "wrong";
  if (row.scores === null) return "no scores";
  if (row.predicted === row.first_error) return row.first_error < 0 ? "rightly passed" : "error found";
  return row.first_error < 0 ? "false alarm" : row.predicted < 0 ? "error missed" : "another step";
}

/** A row's step scores, coloured by where they are between `low` and `high`, with the labels in words and, where the page has
 * them, the texts of the steps, each on a line of its own. */
function stepChips(row, low, high, texts) {
  if (row.scores === null) return "no scores";
  return el("span", {class: texts ? "steps lines" : "steps"}, row.scores.map((score, i) => {
    const label = row.labels?.[i] ?? null;
    const said = label === null ? "" : label < 0.5 ? " wrong" : " right";
    const chip = el("span", {class: row.predicted === i ? "step suspect" : "step"},
      score === null ? "?" : String(score), el("span", {class: "small"}, said));
    if (score !== null) chip.style.setProperty("--heat", String(Math.max(0, Math.min(1, (score - low) / (high - low || 1)))));
    return texts ? el("span", {}, chip, " ", el("code", {}, texts[i])) : chip;
  }));
}

async function scoresView(key, place) {
  const run = data.runs[key];
  const block = `texts/${run.scored[place].digests.data}`;
  const [{scored}, texts] = await Promise.all([unpacked(`run/${key}`), byId(block) ? unpacked(block) : {}]);
  const found = scored[place];
  const told = row => texts[row.id] || [];
  const says = (row, words) => [row.id, ...told(row).flat()].some(text => text.includes(words));
  const scores = found.rows.flatMap(row => row.scores || []).filter(score => score !== null).sort((a, b) => a - b);
  const [low, high] = [0.05, 0.95].map(share => scores[Math.floor(scores.length * share)]);
  const judged = found.rows.some(row => row.labels !== undefined);
  const kinds = [...new Set(found.rows.map(scoredAs))].sort();
  const limit = judged ? found.rows[0].threshold : null;
  return {
    title: `${run.scored[place].title}: ${runName(run)}`,
    crumbs: runCrumbs(key),
    body: [
      el("p", {}, `Step scores of ${whole(found.rows.length)} of ${whole(found.of)} solutions, `,
        "from orange (low) to blue (high). ",
        limit === null ? "" : `A step below ${limit} is taken for wrong; the first such is outlined. `,
        judged ? "Words are the labels of the set. " : "", byId(block) ? "" : "Their texts were not kept. ",
        el("a", {href: run.scored[place].file}, "All scores are in the record"), "."),
      paged(found.rows, [
        ["Solution", row => [told(row)[0] && el("p", {}, told(row)[0]), el("span", {class: "small"}, row.id)]],
        [judged ? "Judged" : "Answer", scoredAs],
        ["Steps", row => stepChips(row, low, high, told(row)[1])],
      ], [["", "all"], ...kinds.map(kind => [kind, kind])], (row, words, kind) =>
        (!kind || scoredAs(row) === kind) && (!words || says(row, words))),
    ],
  };
}
