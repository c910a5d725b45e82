"""Citations in the code name places that exist in `docs/`, links lead somewhere, and the rooms are those of the package."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_rooms import ROOMS

from repirl.paths import CHECKOUT_DIR, PACKAGE_DIR

DOCS_DIR = CHECKOUT_DIR / "docs"
SUFFIXES = {".py", ".toml", ".yaml", ".md"}
CITING = sorted(
    [
        path
        for folder in ("repirl", "baselines", "benchmarks", "tests")
        for path in (CHECKOUT_DIR / folder).rglob("*")
        if path.suffix in SUFFIXES and "_content" not in path.parts and path.name != Path(__file__).name
    ]
    + [CHECKOUT_DIR / "README.md"]
)
OUTSIDE = re.compile(r"\b(?:PAPER|RECIPES|DESIGN)\b")
"""What citations named before the facts had a place in the repository."""


def places(label: str) -> str:
    """Pattern of one or several labels: `4`, `2, 4 and 10`, `2-5`."""
    return rf"{label}(?:-{label})?(?:(?:, | and ){label}(?:-{label})?)*\b"


CITATION = re.compile(
    rf"(?P<page>method|design)\.md (?P<word>sections?|rules?) (?P<places>{places('[0-9]+')})"
    rf"|(?P<recipes>recipes)\.md (?P<labels>{places('[BC][0-9]+')})"
)
ITEMS = re.compile(rf",? (?:items?|steps?) ({places('[0-9]+')})")
# An equation of another paper is written as "Eq 3 of ...".
EQUATION = re.compile(rf"\bEq\.? ({places('[0-9]+')})(?! of)")


def expand(listed: str) -> list[str]:
    """The labels of `2, 4-6`, which has 2, 4, 5 and 6."""
    out = []
    for part in re.split(r", | and ", listed):
        letter = part[0] if part[0].isalpha() else ""
        first, _, last = part.replace(letter, "").partition("-") if letter else part.partition("-")
        out += [f"{letter}{number}" for number in range(int(first), int(last or first) + 1)]
    return out


@cache
def parts(page: str) -> dict[str, str]:
    """Text under each heading of a page by the heading's label: `5`, `rule 5`, `B10`; subheadings end a text."""
    pieces = re.split(r"^#+ +(.*)$", (DOCS_DIR / f"{page}.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for title, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if label := re.match(r"(?:Rule )?[BC]?\d+(?=\. )", title):
            assert label[0].lower() not in found, f"{page}.md has two headings {label[0]}"
            found[label[0] if label[0][0] in "BC" else label[0].lower()] = text
    return found


def prose(text: str) -> str:
    """The text with line ends, and the comment marks that follow them, as single spaces."""
    return re.sub(r"\s*\n\s*(?:#+ )?", " ", text)


def missing(text: str) -> Iterator[str]:
    """Citations in `text` whose place in `docs/` does not exist."""
    text = prose(text)
    for citation in CITATION.finditer(text):
        page = citation["page"] or "recipes"
        prefix = "rule " if (citation["word"] or "").startswith("rule") else ""
        labels = [prefix + label for label in expand(citation["places"] or citation["labels"])]
        yield from (f"{page}.md {label}" for label in labels if label not in parts(page))
        if (items := ITEMS.match(text, citation.end())) and len(labels) == 1:
            there = re.findall(r"^(\d+)\. ", parts(page).get(labels[0], ""), flags=re.MULTILINE)
            yield from (f"{page}.md {labels[0]}, item {item}" for item in expand(items[1]) if item not in there)


def test_citations_name_places_in_docs() -> None:
    texts = {str(path.relative_to(CHECKOUT_DIR)): path.read_text(encoding="utf-8") for path in CITING}
    wrong = {name: [*OUTSIDE.findall(text), *missing(text)] for name, text in texts.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_code_cites_every_page() -> None:
    """The patterns see what is there: each page is cited from several files."""
    texts = [prose(path.read_text(encoding="utf-8")) for path in CITING]
    cited = [{match["page"] or "recipes" for match in CITATION.finditer(text)} for text in texts]
    for page in ("method", "design", "recipes"):
        assert sum(page in pages for pages in cited) >= 5, page


def test_equations_of_the_package_are_in_the_method() -> None:
    equations = set(re.findall(r"^Eq (\d+)\b", (DOCS_DIR / "method.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert equations == {"1", "2", "3", "4", "5", "6"}
    for path in PACKAGE_DIR.rglob("*.py"):
        cited = EQUATION.findall(prose(path.read_text(encoding="utf-8")))
        assert {number for listed in cited for number in expand(listed)} <= equations, path


def test_labels_are_complete() -> None:
    """Sections and rules are counted without a gap, as citations expect."""
    assert list(parts("method")) == [str(n) for n in range(1, 13)]
    assert [label for label in parts("design") if "rule" in label] == [f"rule {n}" for n in range(1, 11)]
    assert list(parts("recipes")) == [f"B{n}" for n in range(17)] + [f"C{n}" for n in range(1, 7)]


@pytest.mark.parametrize("page", sorted(DOCS_DIR.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_table_of_rooms_is_the_package() -> None:
    """The same rooms in the same order, and every file and folder that a row names."""
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", parts("design")["3"], flags=re.MULTILINE)
    assert [room for room, _ in rows] == list(ROOMS)
    for room, row in rows:
        for name in re.findall(r"`(\w+(?:\.py|/))`", row):
            assert (PACKAGE_DIR / room / name).exists(), f"{room}/{name}"


def test_a_wrong_citation_would_be_seen() -> None:
    assert list(missing("(docs/method.md sections 2, 4 and 10; docs/recipes.md B0, item 2, and docs/design.md rule 3)")) == []
    assert list(missing("docs/method.md section\n    # 13")) == ["method.md 13"]
    assert list(missing("docs/method.md sections 9-13")) == ["method.md 13"]
    assert list(missing("docs/method.md section 4, steps 3-8")) == ["method.md 4, item 8"]
    assert list(missing("docs/recipes.md B2 items 3-4; docs/recipes.md B10, C7")) == ["recipes.md C7"]
    assert list(missing("docs/recipes.md B2, item 11")) == ["recipes.md B2, item 11"]
    assert list(missing("docs/design.md rule 11")) == ["design.md rule 11"]
    assert OUTSIDE.findall("DESIGN rule 5, PAPER 4, see RECIPES.md, docs/design.md") == ["DESIGN", "PAPER", "RECIPES"]
    assert EQUATION.findall("Eq 1-5, Eq 12 of another paper") == ["1-5"]


def test_the_cost_plan_is_what_its_assumptions_give() -> None:
    script = CHECKOUT_DIR / "benchmarks" / "perf" / "cost_plan.py"
    table = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert table in (CHECKOUT_DIR / "docs" / "clusters.md").read_text(encoding="utf-8")
