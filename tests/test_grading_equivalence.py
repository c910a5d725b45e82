"""Rules of the math grader, each with what it must accept and the near-misses that it must not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from repirl.grading.math.grader import MathGrader
from repirl.grading.math.numerals import integer_in_words
from repirl.grading.pool import PoolOptions


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(PoolOptions(workers=1, deadline_s=20))
    yield grader
    grader.close()


# gold: (what is the same, what is not)
VALUES = {
    r"\frac{1}{700!}": ([r"\frac{701}{701!}"], [r"\frac{1}{699!}", r"\frac{1}{701!}", "0"]),
    r"3^{-1500}": ([r"\frac{1}{3\cdot 3^{1499}}", r"9^{-750}"], ["3^{-1499}", "-3^{-1500}"]),
    r"e^{-700}": ([r"\frac{1}{e^{700}}"], ["e^{-701}", "0"]),
    r"1-\frac{1}{3^{90}}": ([r"\frac{3^{90}-1}{3^{90}}"], [r"1-\frac{1}{3^{89}}", "1"]),
    r"1+e^{-900}": ([r"e^{-900}+1"], ["1", "1-e^{-900}"]),
    r"\left(\frac{3}{4}\right)^{1200}": ([r"\frac{3^{1200}}{2^{2400}}"], [r"\left(\frac{3}{4}\right)^{1201}"]),
    r"\sqrt{10^{44}+2}": ([r"\sqrt{2+10^{44}}"], ["10^{22}", r"\sqrt{10^{44}+1}"]),
    r"\sqrt{3}+\frac{1}{900!}": ([r"\frac{1}{900!}+\sqrt{3}"], [r"\sqrt{3}+\frac{1}{901!}", r"\sqrt{3}"]),
    r"x+\frac{1}{600!}": ([r"\frac{600!x+1}{600!}"], ["x", r"x+\frac{1}{601!}"]),
    r"\frac{\pi}{10^{30}}": ([r"\pi\cdot 10^{-30}"], [r"\frac{\pi}{10^{31}}", "0"]),
    r"(2^{-75}, 1)": ([r"(\frac{1}{2^{75}}, 1)"], ["(2^{-76}, 1)"]),
    r"\begin{pmatrix} 2^{-75} \\ 1 \end{pmatrix}": ([], [r"\begin{pmatrix} 2^{-76} \\ 1 \end{pmatrix}"]),
    r"x < 2^{-75}": (["2^{-75} > x"], ["x < 2^{-76}", r"x \le 2^{-75}", "y < 2^{-75}"]),
    r"x^2 + 10^{-25} = y": (["y - 10^{-25} = x^2"], ["x^2 = y", "x^2 + 10^{-26} = y"]),
    r"\pi": ([r"4\arctan 1"], ["3.14159265358979323846", r"4\arctan 1+10^{-40}"]),
    r"\frac{21}{2}": ([r"\frac{1}{2}21"], []),
    r"\frac{9}{35}": ([r"\frac{1}{35} 9"], [r"\frac{1}{35}45"]),
    "a": (["2a-a", r"\frac{1}{2}(2a)"], ["2a", "a+10^{-30}"]),
    "341": (["341", "0341", "341_7"], ["341_341_341", "341_4", "341_{341}", "143_7"]),
    r"y^{\prime}-\frac{k}{m} y=0": ([r"y'=\frac{ky}{m}"], [r"y''=\frac{ky}{m}", r"y'=\frac{my}{k}"]),
    r"v_{\text {max}} / \sqrt{3}": ([r"\frac{v_{\text{max}}}{\sqrt{3}}"], [r"\frac{v_{\text{min}}}{\sqrt{3}}"]),
    r"\frac{1}{4} E_{1}+\frac{3}{4} E_{2}": ([r"\frac{E_1+3E_2}{4}"], [r"\frac{E_2+3E_1}{4}", r"\frac{e_1+3e_2}{4}"]),
}
UNEVALUATED = {
    "210": ([r"\binom{10}{4}", r"\sum_{k=1}^{20}k", r"\sum_{i=1}^{20}\sum_{j=1}^{i} 1", r"\frac{7!}{4!}"], [r"\binom{10}{3}"]),
    "24": ([r"\prod_{k=1}^{4}k", r"\Gamma(5)"], [r"\prod_{k=1}^{5}k", r"\Gamma(4)", r"\sum_{k=1}^{4}k"]),
    r"\frac{1}{3}": ([r"\int_0^1 x^2\,dx"], [r"\int_0^1 x^3\,dx"]),
    "1999999000000": ([r"\binom{2000000}{2}"], [r"\binom{2000000}{3}"]),
}
LETTERS = {
    r"\text{B,D}": ([r"\text{D and B}", "B, D", "(B), (D)", r"\{D, B\}"], [r"\text{A, B, D}", r"\text{B}", r"\text{B, D, E}"]),
    r"\text{D}": ([r"\text{(D)}"], [r"\text{A, D}", r"\text{A and D}", r"\text{A D}", r"\text{a D}"]),
    r"\text{A, D}": ([r"\text{D, A}"], [r"\text{D}", "D"]),
    r"\text{DE}": ([r"\textbf{DE}"], [r"\text{A DE}"]),
    r"\text{I and III}": (["I, III", r"\text{III, I}"], [r"\text{I, II, III}", r"\text{III}"]),
    "(A, D)": ([r"(A,\, D)"], ["(D, A)"]),
    r"\text{a line}": ([r"\text{Line}", r"\text{A line}", r"\text{the line}"], [r"\text{two lines}"]),
    r"\text{May 4}": (["May 4", r"\text{May } 4"], [r"\text{May 14}", r"\text{June 4}", "4"]),
}
UNITS = {
    r"30\text{ mph}": (["30", r"30\text{ miles per hour}", "30 mph"], [r"30\text{ km/h}", r"30\text{ miles}"]),
    r"80\text{ km/h}": (["80 km/h", r"80\text{ km per hour}"], [r"80\text{ m/s}", "80 km", r"80\text{ mph}", "80 km/min"]),
    r"3\text{ liters}": ([r"3\text{ L}", "3L"], [r"3\text{ mL}", r"3\text{ quarts}"]),
    r"7\text{ gm}": ([r"7\text{ grams}"], [r"7\text{ kg}", r"7\text{ oz}", r"7\text{ mg}"]),
    r"2\pi\text{ cm}": ([r"2\pi"], [r"2\pi\text{ m}", r"2\pi\text{ cm}^2"]),
    r"8\text{ meters}": (["8 m", "8m", r"8\,m"], ["8 s", "8m^2", "8 cm"]),
    r"9\text{ inches}": (["9 in"], ["9 m", "9i"]),
    "8": ([r"8\text{ m}"], ["8 m", "8m"]),
    "8 m": (["8m"], ["8"]),
    r"\frac{1}{2}mg": ([r"\frac{mg}{2}"], [r"\frac{1}{2}"]),
    "7": ([r"7\text{ mg}", r"7\text{ more apples}", r"7\text{ times as many}"], ["7mg", "7am", "7gm", r"7\text{ or more}"]),
    r"6\text{ years old}": ([r"\text{6 years old}", "6"], [r"6\text{ months old}"]),
    r"25^\circ\text{C}": ([r"25^\circ", "25"], [r"25^\circ\text{F}"]),
    "36": ([r"3\text{ dozen}"], [r"36\text{ dozen}", r"36\text{ hundredths}", r"36\text{ or more}", r"\text{at least 36}"]),
    r"5\text{ p.m.}": ([r"\text{5 PM}", r"5:00\text{ pm}"], [r"5\text{ a.m.}"]),
    r"\text{2:30 PM}": ([r"2:30 \text{ p.m.}", r"2{:}30\text{ PM}", "2:30 p.m."], [r"2:30\text{ am}", r"1:15\text{ PM}"]),
    r"40\%": ([r"40\text{\%}", r"40\text{ \%}", "0.4"], [r"40^\circ", r"\$40", r"4\text{\%}"]),
}
NUMBERS_IN_WORDS = {
    "19": ([r"\text{nineteen}", r"\text{Nineteen}", r"\text{nineteenth}", "nineteen"], [r"\text{ninety}", r"\text{nine}"]),
    "34": ([r"\text{thirty-four}", r"\text{thirty four apples}"], [r"\text{thirty}", r"\text{three four}"]),
    r"\$25": (
        [r"\text{25 dollars}", r"\text{25 USD}", r"\text{twenty-five dollars}"],
        [r"\text{25 cents}", r"\text{five dollars}"],
    ),
    "4": (
        [r"\text{fourth}", r"\text{4 ways}"],
        [r"\text{four fifths}", r"\text{four or five}", r"\text{fourth of May}", r"\text{4th of May}", r"\text{four hundred}"],
    ),
    r"\text{six}": (["6", r"\text{Six}"], ["7", r"\text{sixty}"]),
}
LAYOUT = {
    "31": (
        [r"\color{red}{31}", r"\textcolor{blue}{31}", r"\large 31", "31。", r"\text{Answer: }31", r"\text{The answer is 31}"],
        [r"\color{red}{13}", r"\text{Answer: }30", r"\text{The answer is not }31"],
    ),
    r"\begin{pmatrix} 3/7 \\ -2 \end{pmatrix}": (
        [r"\frac{1}{7}\begin{pmatrix} 3 \\ -14 \end{pmatrix}", r"\begin{bmatrix} \frac37 \\[4pt] -2 \end{bmatrix}"],
        [r"\frac{1}{7}\begin{pmatrix} 3 \\ -2 \end{pmatrix}", r"\begin{pmatrix} 3/7 & -2 \end{pmatrix}",
         r"-\begin{pmatrix} 3/7 \\ -2 \end{pmatrix}", r"7\begin{pmatrix} 3/7 \\ -2 \end{pmatrix}"],
    ),
    "35_6": ([r"35\text{ base }6", r"35\text{ (base 6)}", r"35_{\text{six}}"], [r"35\text{ base }7", r"53_6", "23"]),
    r"\text{2B7}_{12}": (["2B7_{12}"], ["2B7_{13}", "2A7_{12}"]),
    "[1,3)": (["[1,3["], ["]1,3[", "[1,3]", "]1,3]"]),
    r"(-\infty,2)": ([r"]-\infty,2["], [r"]-\infty,2]"]),
    r"\mathbb{R}": ([r"\text{all real numbers}", r"(-\infty,\infty)"], [r"\text{all real numbers except 0}"]),
    r"\log_{10} 7": ([r"\lg 7"], [r"\ln 7", r"\lg 8"]),
}  # fmt: skip
RULES = VALUES | UNEVALUATED | LETTERS | UNITS | NUMBERS_IN_WORDS | LAYOUT


@pytest.mark.parametrize("gold", RULES)
def test_rule(grader: MathGrader, gold: str) -> None:
    same, other = RULES[gold]
    verdicts = grader.grade_many([(gold, f"\\boxed{{{answer}}}", "stop") for answer in [*same, *other]])
    found = {answer: verdict.outcome for answer, verdict in zip([*same, *other], verdicts, strict=True)}
    assert found == dict.fromkeys(same, "correct") | dict.fromkeys(other, "wrong")


@pytest.mark.parametrize("gold", ["73", "x^2-1", "(0, 2]", r"\begin{pmatrix} 1 \\ 5 \end{pmatrix}", "x^2+y^2=4"])
def test_what_would_never_end_is_wrong_at_once(grader: MathGrader, gold: str) -> None:
    """An answer that leaves such work is none; where the gold does too, nothing is known (`TestMathGrader`)."""
    grader.grade_many([("x+1", r"\boxed{1+x}", "stop")])
    answers = [
        "(a+b+c)^{4000}",
        r"(\sin x+\cos x)^{900}",
        r"\sum_{k=1}^{10^{11}} \frac{1}{k}",
        r"\sum_{n=1}^\infty \frac{1}{n^5}",
        r"\sum_{i=1}^{900}\sum_{j=1}^{900} \sqrt{ij}",
        r"\prod_{n=1}^{10^7} n",
        r"\prod_{k=1}^{800} k!",
        r"\int_0^\infty e^{-x^x}\,dx",
        r"\Gamma(10^{15})",
        r"\Gamma(3000000)",
        r"\Gamma\left(\frac{2000001}{2}\right)",
        r"\binom{3000000}{1500000}",
    ]
    start = time.monotonic()
    verdicts = grader.grade_many([(gold, f"\\boxed{{{answer}}}", "stop") for answer in answers])
    assert [verdict.outcome for verdict in verdicts] == ["wrong"] * len(answers)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("zero", 0), ("Twelve", 12), ("forty-two", 42), ("forty two", 42), ("twentieth", 20), ("ninety-ninth", 99),
        ("three hundred", 300), ("three hundred and seven", 307), ("two thousand twenty", 2020), ("one million five", 1000005),
        ("two three", None), ("twenty twelve", None), ("hundred", None), ("one thousand thousand", None), ("and five", None),
        ("five and", None), ("ten hundred and", None), ("half", None), ("apple", None), ("", None), ("five " * 90, None),
    ],
)  # fmt: skip
def test_integer_in_words(text: str, value: int | None) -> None:
    assert integer_in_words(text) == value
