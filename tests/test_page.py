"""The page: the same bytes from the same records, nothing that models wrote as markup, and what a reader does, in Chromium."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_reporting import GOOD, attacks, learning, scored_pool, searches, write

from repirl.cli.main import run
from repirl.evals.judged_sets import JudgedSet
from repirl.evals.judging import judge
from repirl.evals.step_scoring import ScoredSteps
from repirl.evals.thresholds import ThresholdRule
from repirl.records import store
from repirl.reporting.leaderboard import build_pages, write_pages
from repirl.reporting.page_samples import evenly
from repirl.tasks.benchmarks import Benchmark, load_benchmark
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Budget, Interval, Report, SampleRow

HOSTILE = "</script></pre><img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script>{{data}} 'alert(1)' &lt;\u2028"
SUITE = """title = "What </script><img src=x onerror='window.hacked=4'> the page is tried on"
baseline = "rloo"
runs = [{method = "repirl"}, {method = "rloo"}]
evaluations = [{benchmark = "arith"}]
contrasts = [{better = "repirl", worse = "rloo", metric = "greedy", says = "gain of the trial"}]
"""


def report_of(benchmark: str, card: str, data: str, right: Sequence[Sequence[bool]], ids: Sequence[str], text: str) -> Report:
    """`right[p][i]`: sample i of problem p; what is wrong says `text`, and was graded for that reason."""
    rows = tuple(
        SampleRow(
            name, i, "correct" if ok else "wrong", "" if ok else text, "7", 5, "\\boxed{7}" if ok else text, level=p % 3 + 1
        )
        for p, (name, own) in enumerate(zip(ids, right, strict=True))
        for i, ok in enumerate(own)
    )
    part = "greedy" if len(right[0]) == 1 else "sampled"
    metric = "greedy" if part == "greedy" else f"avg@{len(right[0])}"
    value = Interval(float(np.mean([ok for own in right for ok in own])))
    return Report(
        benchmark, card, data, {"n": 1}, {metric: value}, {part: store.count_outcomes(rows).model_dump()}, {part: rows}
    )


def judgement() -> store.Judgement:
    """Solutions of three steps, of which the middle one is wrong in two of three, scored by labels with noise."""
    solutions = tuple(
        LabelledSolution(f"s{i}", f"p{i // 2}", ("a", f"<b> {i}", "c"), (1.0, float(i % 3 == 0), None), cluster=f"p{i // 2}")
        for i in range(12)
    )
    noise = np.random.default_rng(0)

    def told(loaded: object, given: Sequence[LabelledSolution], *rest: object) -> list[ScoredSteps]:
        scores = [np.array([0.9, one.labels[1], 0.4]) + 0.3 * noise.normal(size=3) for one in given]
        return [ScoredSteps(one, np.array([4, 4, 4])) for one in scores]

    reward: Any = SimpleNamespace(name="told", reward=SimpleNamespace(budget=Budget()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("repirl.evals.judging.score_solutions", told)
        report = judge(reward, JudgedSet("told-set", "first_error", solutions, "\n"), ThresholdRule("fixed", 0.5), nulls=False)
    given: dict[str, Any] = {"protocol": {"limit": None, "seed": 0}, "reward": "fitted", "reward_digest": None}
    return store.Judgement(report, wall_s=1.0, solutions=solutions, **given)


def right_in(method: str, seed: int, problem: int) -> bool:
    return (problem + seed) % (3 if method == "rloo" else 2) == 0


def many_right_in(method: str, problem: int, sample: int) -> bool:
    return (problem * sample) % 5 == 0 if method == "repirl" else (problem + sample) % 7 == 0 and problem % 3 != 0


@pytest.fixture(scope="module")
def arith() -> Benchmark:
    return load_benchmark("arith")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, arith: Benchmark) -> SimpleNamespace:
    """Three seeds of two methods on 60 problems of `arith`, step scores and curves, and two runs of 10,000 samples."""
    root = tmp_path_factory.mktemp("site")
    results, more = root / "results", root / "more"
    (more / "suites").mkdir(parents=True)
    (more / "suites" / "trial.toml").write_text(SUITE)
    ids = [problem.id for problem in arith.problems[:60]]
    for seed in range(3):
        for method in ("rloo", "repirl"):
            right = [[right_in(method, seed, p)] for p in range(60)]
            own = report_of("arith", arith.card.digest, arith.data_digest, right, ids, HOSTILE)
            curve = learning(root / "log", 0.1, 0.2, 0.3 + seed / 10)
            of_reward = {"scalings": [scored_pool(seed, 0.5)], "judgements": [judgement()]}
            steered = {"searches": [searches(seed, 0.5)], "attacks": [attacks(seed, 1.5)]}
            scored = of_reward | steered if method == "repirl" else {}
            write(results, method, seed, GOOD, report=own, curve=curve, **scored)
    for method in ("rloo", "repirl"):
        many = [[many_right_in(method, p, i) for i in range(8)] for p in range(1250)]
        names = [f"many-{p:04}" for p in range(1250)]
        large = report_of("many", "card", "many", many, names, "a completion of some length; " * 8)
        write(results, method, 0, GOOD, report=large, suite="large")
    pages = build_pages(results=results, folder=root / "leaderboard", include=[more])
    write_pages(pages, None)
    return SimpleNamespace(root=root, pages=pages, file=root / "leaderboard" / "index.html", ids=ids, more=more)


class Elements(HTMLParser):
    """Counts elements, and keeps what lies in scripts of data by id."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.blocks: dict[str, str] = {}
        self.block = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.block = dict(attrs).get("id") or "" if tag == "script" else ""

    def handle_data(self, data: str) -> None:
        if self.block:
            self.blocks[self.block] = self.blocks.get(self.block, "") + data


def parsed(file: Path) -> Elements:
    elements = Elements()
    elements.feed(file.read_text())
    return elements


def test_the_same_records_give_the_same_bytes(site: SimpleNamespace) -> None:
    before = site.file.read_bytes()
    assert write_pages(site.pages, None) == []
    site.file.unlink()
    again = build_pages(results=site.root / "results", folder=site.root / "leaderboard", include=[site.more])
    assert [path.name for path in write_pages(again, None)] == ["index.html"]
    assert site.file.read_bytes() == before


def test_what_models_wrote_is_no_markup(site: SimpleNamespace) -> None:
    """One script runs; all others hold data, one for each run, set of problems and figure."""
    elements = parsed(site.file)
    assert elements.found["img"] == 0
    assert not {name for name in elements.attributes if name.startswith("on")}
    blocks = [name for name in elements.blocks if "/" in name]
    assert sum(name.startswith("run/") for name in blocks) == 8
    assert elements.found["script"] == len(blocks) + 2
    assert HOSTILE not in site.file.read_text()
    assert json.loads(elements.blocks["data"])["runs"]["trial/repirl-arith-s0"]["seed"] == 0
    links = re.findall(r'(?:src|href)="([^"]*)"', site.file.read_text().split("<script")[0])
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)


def test_how_many_completions_are_there_is_asked_for(site: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    out = site.root / "other"
    given = ["leaderboard", "--results", str(site.root / "results"), "--out", str(out), "--json"]
    assert run([*given, "--page-samples", "5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["page"]).resolve() == out / "index.html"
    assert "index.html" in said["written"]
    sets = {one["benchmark"]: one for one in json.loads(parsed(out / "index.html").blocks["data"])["sets"]}
    assert sets["arith"] == {"benchmark": "arith", "problems": 60, "shown": 5}
    assert sets["many"] == {"benchmark": "many", "problems": 1250, "shown": 5}
    block = parsed(out / "index.html").blocks["run/large/repirl-arith-s0"]
    part = json.loads(gzip.decompress(base64.b64decode(block)))["evaluations"][0]["sampled"]
    assert len(part["text"]) == 40
    assert sum(map(len, part["verdicts"])) == 10_000
    assert run([*given, "--check"]) == 0
    for wrong in ("-1", "some", "", "1.5"):
        assert run([*given, "--page-samples", wrong]) == 2
        assert "--page-samples takes a whole number or `all`" in capsys.readouterr().err


def test_problems_are_chosen_evenly() -> None:
    items = [str(i) for i in range(100)]
    assert evenly(items, 4) == ["12", "37", "62", "87"]
    assert evenly(items, 100) == evenly(items, 200) == evenly(items, None) == items
    assert evenly(items, 0) == evenly([], 3) == []


# ----------------------------------------------------------------------------------------------------- in a browser

pytestmark = pytest.mark.xdist_group("page")
browser_test = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium, driven by Selenium."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        told = "no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("REPIRL_NEED_BROWSER"):
            pytest.fail(told)
        pytest.skip(told)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


class Reader:
    """What a reader does on the page; `said()` is the text that is seen."""

    def __init__(self, session: Any, file: Path) -> None:
        self.session, self.address = session, file.as_uri()

    def open(self, where: str = "", width: int = 1400) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.session.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.session.get("about:blank")
        self.session.get(self.address + where)

    def run(self, script: str, *given: Any) -> Any:
        return self.session.execute_script(script, *given)

    def all(self, selector: str) -> list[Any]:
        return self.session.find_elements("css selector", selector)

    def one(self, selector: str, text: str = "") -> Any:
        """The first element that is seen and has the text."""
        return self.until(lambda: next((e for e in self.all(selector) if e.is_displayed() and text in e.text), None))

    def until(self, found: Callable[[], Any]) -> Any:
        end = time.monotonic() + 10
        while not (value := found()):
            assert time.monotonic() < end, "it does not come"
            time.sleep(0.02)
        return value

    def choose(self, label: str, text: str) -> None:
        control = self.one("label", label).find_element("css selector", "select")
        next(option for option in control.find_elements("css selector", "option") if text in option.text).click()

    def column(self, name: str) -> list[str]:
        """The cells of the table under a header."""
        names = [cell.text.rstrip("▲▼") for cell in self.all("#table thead th")]
        place = names.index(name) + 1
        return [cell.text.split("\n")[0] for cell in self.all(f"#table tbody tr > :nth-child({place})")]

    def title(self, text: str) -> Any:
        """Waits for the panel of that title."""
        return self.one("#panel-title", text)


@pytest.fixture
def reader(chromium: Any, site: SimpleNamespace) -> Iterator[Reader]:
    """After every test: nothing in the console, and nothing asked for but the file itself and what it made."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    chromium.get_log("performance")
    yield Reader(chromium, site.file)
    assert [line["message"] for line in chromium.get_log("browser")] == []
    events = [json.loads(line["message"])["message"] for line in chromium.get_log("performance")]
    asked = {e["params"]["request"]["url"].partition("#")[0] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("blob:", "data:", "about:"))} <= {site.file.as_uri()}


def first_word(text: str) -> str:
    return text.split(" ")[0]


@browser_test
def test_the_verdict_comes_first_and_the_table_is_sorted_and_filtered(reader: Reader) -> None:
    reader.open()
    assert reader.one("#verdicts li").text.startswith("repirl is ahead of rloo arith greedy: +0.167 [")
    assert reader.until(lambda: reader.run("return document.querySelector('#verdicts img')?.naturalWidth")) > 300
    assert set(reader.column("Suite")) == {"trial"}
    assert set(reader.column("Benchmark")) == {"arith"}
    reader.one("button", "All rows").click()
    # A percentage has one decimal.
    shares = lambda: [float(value) / (100 if value[-2] == "." else 1) for value in map(first_word, reader.column("Value"))]
    values = shares()
    assert values == sorted(values, reverse=True)
    assert reader.one("th[aria-sort]").get_attribute("aria-sort") == "descending"
    reader.one("th button", "Value").click()
    assert shares() == values[::-1]
    assert reader.one("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    reader.one("th button", "Run").click()
    assert reader.column("Run") == sorted(reader.column("Run"))
    reader.choose("Suite", "large")
    assert set(reader.column("Suite")) == {"large"}
    reader.one("button", "All rows").click()
    reader.choose("Benchmark", "judge told-set")
    assert set(reader.column("Benchmark")) == {"judge told-set"}
    reader.one("button", "All rows").click()
    reader.choose("Seeds", "3")
    reader.choose("Metric", "greedy")
    reader.choose("Method", "rloo")
    assert [first_word(value) for value in reader.column("Value")] == ["0.333"]
    assert "1 number of 1 row" in reader.one("#count").text
    reader.one("button", "All rows").click()
    reader.choose("Protocol", "n 1")
    assert set(reader.column("Benchmark")) == {"arith", "many"}
    reader.one("input[type=search]").send_keys("rlo")
    assert set(reader.column("Run")) == {"rloo"}


@browser_test
def test_a_row_opens_its_record_and_a_sample(reader: Reader, site: SimpleNamespace, arith: Benchmark) -> None:
    reader.open()
    reader.one("#table a", "repirl").click()
    reader.title("repirl")
    run = reader.one("section.run", "Seed 0")
    record = json.loads((site.root / "results/trial/repirl-arith-s0/record.json").read_text())
    assert "repirl bench trial" in run.text
    for digest in (record["digest"], record["config_digest"], record["evaluations"][0]["samples_sha256"]):
        assert digest[:12] in run.text
    assert re.search(r"greedy 0\.500", run.text)
    best = record["searches"][0]["points"]["4"]["accuracy"]["best"]["value"]
    assert re.search(rf"beam arith\s+n=1 0\.000.*; n=4 {best:.3f}", run.text)
    assert re.search(r"attack arith\s+padded 1\.[45]\d\d \[", run.text)
    assert (record["commit"] or "unknown")[:12] in run.text
    link = run.find_element("link text", "record.json").get_attribute("href")
    assert link == (site.root / "results/trial/repirl-arith-s0/record.json").as_uri()
    run.find_element("partial link text", "samples: arith, greedy").click()
    reader.title("arith, greedy")
    assert "30 of 60 right, 30 wrong" in reader.one("#view").text
    reader.choose("Show", "wrong")
    rows = reader.all("#view tbody tr")
    assert len(rows) == 30
    assert all("wrong" in row.text for row in rows)
    name = rows[0].find_element("css selector", "a").text
    rows[0].find_element("css selector", "a").click()
    reader.title(f"{name}, sample 0")
    problem = next(problem for problem in arith.problems if problem.id == name)
    assert reader.run("return document.querySelector('pre.problem').textContent") == problem.prompt
    assert reader.run("return document.querySelector('pre.completion').textContent") == HOSTILE
    said = reader.one("#view").text
    assert "Verdict\nwrong" in said.replace("\r", "")
    assert "Answer found\n7" in said
    assert HOSTILE[:30] in said.split("reason")[1]
    assert problem.answer is not None
    assert f"Answer: {problem.answer}" in said
    assert reader.run("return window.hacked") is None
    assert reader.all("#view img, #view script") == []
    reader.one("#view a", "Next").click()
    reader.until(lambda: name not in reader.one("#panel-title").text)
    reader.session.back()
    reader.title(f"{name}, sample 0")


@browser_test
def test_step_scores_are_shown_where_there_are_any(reader: Reader) -> None:
    reader.open("#scores/trial%2Frepirl-arith-s0/0")
    reader.title("judge told-set")
    rows = reader.all("#view tbody tr")
    assert len(rows) == 12
    assert [len(row.find_elements("css selector", ".step")) for row in rows] == [3] * 12
    assert "<b> 1" in rows[1].text
    assert {"error found", "rightly passed"} & {row.find_elements("css selector", "td")[0].text for row in rows}
    reader.open("#scores/trial%2Frepirl-arith-s0/1")
    reader.title("scale arith")
    assert "96 of 96 solutions" in reader.one("#view").text


@browser_test
def test_two_runs_are_compared_problem_by_problem(reader: Reader, site: SimpleNamespace) -> None:
    reader.open()
    reader.choose("First run", "rloo, arith, seed 1")
    reader.choose("Second run", "repirl, arith, seed 1")
    reader.one("#pair button", "Compare").click()
    reader.title("rloo, arith, seed 1 against repirl, arith, seed 1")
    kinds = {(False, True): "fixed", (True, False): "broken", (True, True): "both right", (False, False): "both wrong"}
    wanted = Counter(kinds[right_in("rloo", 1, p), right_in("repirl", 1, p)] for p in range(60))
    shown = {
        one.find_element("css selector", "dt").text: one.find_element("css selector", "dd").text
        for one in reader.all(".changes > div")
    }
    assert shown == {name: str(count) for name, count in wanted.items()}
    assert len(wanted) == 4
    reader.choose("Show", "fixed")
    rows = reader.all("#view tbody tr")
    assert len(rows) == wanted["fixed"]
    fixed = {site.ids[p] for p in range(60) if right_in("repirl", 1, p) and not right_in("rloo", 1, p)}
    assert {row.find_element("css selector", "th").text for row in rows} == fixed
    rows[0].find_element("css selector", "a").click()
    first, second = reader.until(lambda: reader.all(".sides section"))
    assert "wrong" in first.text
    assert "onerror" in first.text
    assert "right" in second.text
    assert first.location["y"] == second.location["y"]
    assert {one.text for one in reader.all(".sides h3")} == {"First: rloo, arith, seed 1", "Second: repirl, arith, seed 1"}
    address = reader.run("return location.hash")
    reader.open(address)
    reader.title("rloo, arith, seed 1 against repirl")
    assert reader.run("return window.hacked") is None
    reader.open("#row/trial/arith/repirl")
    reader.one("section.run", "Seed 2").find_element("partial link text", "compare with").click()
    reader.until(lambda: not reader.run("return document.getElementById('panel').open"))
    seen = (
        "const box = document.getElementById('pair').getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight"
    )
    assert reader.run(seen)
    first = reader.one("label", "First run").find_element("css selector", "option:checked")
    assert first.text == "repirl, arith, seed 2"


@browser_test
def test_ten_thousand_samples_open_and_are_searched_without_stalling(reader: Reader) -> None:
    reader.open()
    watch = "new PerformanceObserver(list => list.getEntries().forEach(one => stalls.push(one.duration)))"
    reader.run(f"window.stalls = []; {watch}.observe({{type: 'longtask'}})")
    start = time.monotonic()
    reader.run("location.hash = '#samples/large%2Frepirl-arith-s0/0/sampled'")
    reader.title("many, sampled")
    opened = time.monotonic() - start
    assert "10,000 of 10,000, page 1 of 100" in reader.one("#view").text
    reader.one("#view button", "Next page").click()
    assert "page 2 of 100" in reader.one("#view").text
    reader.choose("Show", "right")
    reader.one("#view input[type=search]").send_keys("many-1249")
    assert re.search(r"^2 of 10,000$", reader.one("#view").text, re.MULTILINE)
    reader.one("#view input[type=search]").clear()
    reader.run("document.getElementById('panel').scrollTo(0, 5000)")
    reader.run("document.getElementById('panel').scrollTo(0, 0)")
    reader.run("location.hash = '#compare/large%2Frloo-arith-s0/large%2Frepirl-arith-s0/0/0/sampled'")
    reader.title("many, sampled: rloo, arith, seed 0 against repirl")
    right = lambda method, p: sum(many_right_in(method, p, i) for i in range(8))
    gains = [(right("repirl", p) - right("rloo", p), right("rloo", p)) for p in range(1250)]
    wanted = Counter(
        "fixed" if gain > 0 else "broken" if gain < 0 else "both right" if ok else "both wrong" for gain, ok in gains
    )
    shown = [one.text.replace(",", "").split("\n") for one in reader.all(".changes > div")]
    assert {name: int(count) for name, count in shown} == {name: wanted[name] for name, _ in shown}
    assert sum(int(count) for _, count in shown) == 1250
    # A slow machine shared with others is allowed for; 10,000 rows in the document would take several times as long.
    assert opened < 3
    assert max(reader.run("return window.stalls"), default=0) < 1000


@browser_test
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_cut_off_at_a_width(reader: Reader, width: int) -> None:
    places = ("", "#row/trial/arith/repirl", "#samples/trial%2Frepirl-arith-s0/0/greedy", "#scores/trial%2Frepirl-arith-s0/0")
    for where in (*places, "#compare/trial%2Frloo-arith-s0/trial%2Frepirl-arith-s0/0/0/greedy"):
        reader.open(where, width)
        if where:
            reader.until(lambda: reader.run("return document.getElementById('panel').open"))
            assert reader.run("const p = document.getElementById('panel'); return p.scrollWidth - p.clientWidth") <= 0
            assert reader.run("const b = document.getElementById('close').getBoundingClientRect(); return b.right") <= width
        assert reader.run("return document.documentElement.scrollWidth") <= width
    reader.open("", width)
    assert reader.column("Value")
    assert all(cell for cell in reader.column("Value"))
    for summary in reader.all("summary"):
        if reader.run("return !arguments[0].parentElement.open", summary):
            summary.click()
    reader.until(
        lambda: reader.all("#curves img") and reader.run("return document.querySelector('#curves img').naturalWidth > 0")
    )
    assert reader.run("return document.documentElement.scrollWidth") <= width


@browser_test
def test_it_is_used_by_keyboard_and_read_aloud(reader: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    reader.open()
    active = lambda: reader.session.switch_to.active_element
    reader.one("body").send_keys(Keys.TAB)
    assert active().text == "Skip to the table"
    link = reader.one("#table a", "rloo")
    reader.run("arguments[0].focus()", link)
    active().send_keys(Keys.ENTER)
    reader.title("rloo")
    assert active().get_attribute("id") == "panel-title"
    for _ in range(40):  # focus stays in the panel
        active().send_keys(Keys.TAB)
        inside = "document.getElementById('panel').contains(document.activeElement)"
        assert reader.run(f"return document.activeElement === document.body || {inside}")
    reader.one("#close").send_keys(Keys.ESCAPE)
    reader.until(lambda: not reader.run("return document.getElementById('panel').open"))
    assert active() == link
    assert reader.run("return location.hash") == ""
    reader.one("th button", "Run").send_keys(Keys.SPACE)
    assert active().text.startswith("Run")
    assert reader.one("th[aria-sort]").text.startswith("Run")
    controls = reader.all("a, button, select, input, summary, dialog, table, .scroll")
    assert [one.get_attribute("outerHTML")[:80] for one in controls if one.is_displayed() and not one.accessible_name] == []
    assert reader.run("return document.documentElement.lang") == "en"
    levels = [int(one.tag_name[1]) for one in reader.all("h1, h2, h3, h4") if one.is_displayed()]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


@browser_test
def test_an_address_that_names_nothing_says_so(reader: Reader) -> None:
    for where in (
        "#row/no/such/row",
        "#samples/trial%2Frepirl-arith-s0/9/greedy",
        "#sample/x",
        "#both/x/y/0/0/greedy/z",
        "#scores/x/0",
    ):
        reader.open(where)
        reader.title("Not on this page")
    for where in ("#constructor", "#%", "#results"):
        reader.open(where)
        assert not reader.run("return document.getElementById('panel').open")


@browser_test
def test_the_page_may_load_nothing(chromium: Any, site: SimpleNamespace) -> None:
    """Its own policy refuses what a completion would have to do to send something out."""
    chromium.get(site.file.as_uri())
    tried = """
        const done = arguments[arguments.length - 1], refused = [];
        document.addEventListener('securitypolicyviolation', event => refused.push(event.effectiveDirective));
        const add = (tag, attributes) => document.body.append(Object.assign(document.createElement(tag), attributes));
        add('img', {src: 'http://127.0.0.1:9/'});
        add('script', {src: 'http://127.0.0.1:9/'});
        add('script', {textContent: 'window.hacked = 3'});
        add('iframe', {src: 'http://127.0.0.1:9/'});
        fetch('http://127.0.0.1:9/').catch(() => setTimeout(() => done([refused.sort(), window.hacked || null]), 100));
    """
    refused, hacked = chromium.execute_async_script(tried)
    assert hacked is None
    assert refused == ["connect-src", "frame-src", "img-src", "script-src-elem", "script-src-elem"]
    chromium.get_log("browser")
