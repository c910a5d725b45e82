"""Answers in prose: what follows `the answer is`, `Answer:` or `####`, and where in its sentence the value is."""

from __future__ import annotations

import re
from collections import deque

from repirl.grading.math.numerals import integer_in_words
from repirl.grading.math.units import strip_unit

_MAX_ANSWER_CHARS = 4000

# `answer is 5`, `answers are 3 and 4`, `Final Answer: 5`, `**Answer:** 5`, `the answer to this is: 5`, `#### 5`
_PHRASE = re.compile(
    r"(?:####[ \t]*(?=[-+$\\\d.(])(?!\d+[.)]\s)"  # not a Markdown heading
    r"|\b(?i:answers?)\b\**[^\n.:=$\\]{0,60}?(?:\b(?i:is|are|be)\b|[:=\uff1a])[\s:*]*"
    r"|\*\*(?i:(?:the )?final answer)\*\*[\s:*]*"
    r"|\u7b54\u6848\s*[\u662f\u4e3a\u70ba:\uff1a]+\s*"  # `answer`, then `is` or a colon, in Chinese
    r"|(?m:^)[ \t]*(?:\#{1,6}[^\w\n]{0,6}(?:\d{1,2}[.)] )?|\*\*)?(?i:(?:the )?(?:final )?answer)[*: \t]{0,6}\n\s*"  # a heading
    r")(?=\S)"
)
_LIST_MARK = re.compile(r"(?<=\n)[->\u2022][ \t]+")  # `- 73` on the next line is not negative
# The marker of the published GSM8K solutions, on the last line only: a list of choices looks alike.
_A_COLON = re.compile(r"[ \t]*\**A\**:\**[ \t]*(?=\S)")

# `$5 and he has $6` is money.
_MATH = r"(?:\$\$[^$]+\$\$|(?<!\\)\$(?!\d[\d.,]*[ ,;-]+[a-z]{2,}[ ,])(?:[^$\\]|\\.)+\$|\\\(.+?\\\)|\\\[.+?\\\])"
FORMULA = re.compile(_MATH, re.DOTALL)
_FORMULAS = re.compile(rf"{_MATH}(?:\s*(?:,\s*(?:and|or)|,|and|or)\s*{_MATH})*", re.DOTALL)
NUMBER = re.compile(
    r"(?<![\w.\\^/{])(?:\\?\$|[€£])?[-+]?(?:\\?\$)?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?(?:/\d+|[ ]\d+/\d+)?(?![\w/^}])"
    r"(?!\s?\\(?!text|mbox|mathrm|quad)[A-Za-z])(?:\s?\\?%)?"
    r"(?:\s(?:hundred|thousand|million|billion|trillion|dozen)\b)?"
)
_LEADING_WORDS = re.compile(
    r"^(?:(?:therefore|thus|then|simply|just|only|exactly|equal to|approximately|given by)\b[\s,:]*)+", re.I
)
_CLAUSE_END = re.compile(
    r"\.(?=\s|$)|,?\s(?:because|since|which|and (?:that|this|so|thus|hence|therefore|we))\b"
    r"|,\s?(?:so|as(?! long)|where|not|obtained|after|i\.e)\b",
    re.I,
)
_END_OF_BOLD = re.compile(r"\*\*(?=[\s.,;:]|$)")
_VERB = re.compile(r"(?:\b(?:is|are|was|were|be|equals?|becomes?|gives?|gets?|yields?)\b|(?<=[a-z]{3}) =)[\s:*]*", re.I)
_IS_SUBJECT = re.compile(r"(?<!\d\$)\s*(?:is|are|equals?)\b")  # `$k$ is 34`, but `$34$ is the least $k$`
_JOINED = re.compile(r"\b(?:and|or)\b(?! (?:so|thus|hence|therefore))|,(?! (?:so|thus|hence|therefore))", re.I)
_CONDITION_FIRST = re.compile(r"\s*(?:if|when|for|with|given|suppose|as)\b", re.I)

_EQUATION = re.compile(r"[A-Za-z](?:_\w)?(?:\([A-Za-z]\))?\s*=\s*\S")
_LETTER = re.compile(r"(\(?[A-Z]\)?)(?=\s*[,;(]|\s+[-\u2013\u2014]\s)")
_ONE_WORD = re.compile(r"(?:\(?[A-Za-z]+\)?|[A-Z][a-z]+ \d{1,2})\W*")  # also `May 4`
_NAME_BEFORE = re.compile(
    r"\b(?:Jan|Feb|March|April|May|June|July|Aug|Sept?|Oct|Nov|Dec|Room|Figure|Step|Case|Part|Option|Choice|Day|Year)[a-z]*\s$"
)

# Prose that may follow or surround a number: no digits, no operators, no word that makes another number of it.
_PROSE = re.compile(r"[A-Za-z\s,;:()'\u2019.\u2013\u2014-]*")
_WORD = re.compile(r"[A-Za-z][A-Za-z'\u2019]*")
_PUNCTUATION = re.compile(r"\s*[,;(]")
_AFTER_A_VALUE = re.compile(r"\s*[,;(]|\s+[-\u2013\u2014]\s|\s+(?=[A-Za-z])")
_IN_WORDS = re.compile(r"\s*\(\s*([A-Za-z][A-Za-z -]*)\)")
_FIRST_WORDS_THAT_GO_ON = {"and", "or", "to", "by", "x"}
_OTHER_NUMBER = re.compile(
    r"or|if|unless|not|no|none|never|nor|neither|except|without|wrong|incorrect|false|than|least|most|less|more|fewer|greater"
    r"|times|plus|minus|over|under|above|below|celsius|fahrenheit|kelvin|divided|multiplied|mod|modulo|base|choose|per|cent|percent|negative|pi"
    r"|roots?|sqrt|sin|cos|tan|log|ln|exp|infinity|undefined|impossible|hal(?:f|ves)|squared?|cubed?|cubic|factorial"
    r"|dozens?|scores?|hundreds?|thousands?|millions?|billions?|trillions?"
    r"|(?:\w*(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)|quarter)s?"
)


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def phrase_answer(text: str) -> str | None:
    """What follows `A:` on the last line, else the last final-answer phrase (`the answer is`, `Answer:`, `####`)."""
    last_line = text.rstrip().rfind("\n") + 1
    match = _A_COLON.match(text, last_line) or last_match(_PHRASE, text)
    if match is None:
        return None
    mark = _LIST_MARK.match(text, match.end())
    return value_of(text[(mark or match).end() :]) or None


def value_of(rest: str) -> str:
    """The answer at the start of `rest`: formulas or a number there, else what the sentence states, else the sentence."""
    rest = _LEADING_WORDS.sub("", rest[:_MAX_ANSWER_CHARS])
    if (display := _FORMULAS.match(rest)) is not None and not _IS_SUBJECT.match(rest, display.end()):
        return _with_unit(display)
    line = rest.split("\n", 1)[0]
    end = _CLAUSE_END.search(line)
    clause = _END_OF_BOLD.sub("", line[: end.start()] if end else line)
    if NUMBER.match(clause):
        return _plain(_number_alone(clause))
    if (letter := _LETTER.match(clause)) and _goes_on_in_prose(clause[letter.end() :]):
        return letter.group()
    if (stated := _stated(clause)) is not None:
        return _plain(stated)
    if (inline := _FORMULAS.search(line)) is not None:
        return _with_unit(inline)
    return _plain(_only_number(clause) or clause)


def _with_unit(formulas: re.Match[str]) -> str:
    """`$72$` and the unit that stands behind it in the sentence."""
    return formulas.group().strip() + _unit_at("1", formulas.string[formulas.end() :])[0]


def _plain(text: str) -> str:
    return text.strip().strip("*_`\"'").rstrip(".,;:").strip()


def _stated(clause: str) -> str | None:
    """What a sentence says something is: `The largest $n$ is 34`. None if it says nothing, or several things.

    Of two values the last counts where the first is a condition: `If k is 4, the sum is 9`.
    """
    found = [(verb, value) for verb in _VERB.finditer(clause) if (value := _value_at(clause[verb.end() :]))]
    if not found:
        return None
    verb, value = found[-1]
    if len(found) > 1 and _JOINED.search(clause, found[0][0].end(), verb.start()) and not _CONDITION_FIRST.match(clause):
        return clause
    return value


def _value_at(rest: str) -> str | None:
    rest = _LEADING_WORDS.sub("", rest)
    if (formulas := _FORMULAS.match(rest)) is not None:
        return _with_unit(formulas)
    if NUMBER.match(rest):
        return _number_alone(rest)
    return rest if _EQUATION.match(rest) or _ONE_WORD.fullmatch(rest) else None


def _number_alone(text: str) -> str:
    """The number that `text` starts with and its unit, if only prose follows; else `text` (`72 or 73`, `72 + x`)."""
    match = NUMBER.match(text)
    if match is None:
        return text
    number, rest = match.group(), text[match.end() :]
    if (spelt := _IN_WORDS.match(rest)) is not None and (value := integer_in_words(spelt.group(1).strip())) is not None:
        if str(value) != re.sub(r"\D", "", number):
            return text
        rest = rest[spelt.end() :]
    unit, rest = _unit_at(number, rest)
    if not rest.strip(" *_`\"'.,;:"):
        return number + unit
    return number + unit if _goes_on_in_prose(rest, 1 if unit else 2) else text


def _goes_on_in_prose(rest: str, words: int = 2) -> bool:
    """Whether words follow that leave the value before them as it is; behind a comma or bracket one is enough."""
    if not _AFTER_A_VALUE.match(rest) or not _is_prose(_without_formulas(rest)):
        return False
    found = _WORD.findall(rest)
    enough = 1 if _PUNCTUATION.match(rest) else words
    return len(found) >= enough and found[0].lower() not in _FIRST_WORDS_THAT_GO_ON


def _unit_at(number: str, rest: str) -> tuple[str, str]:
    r"""The longest unit at the start of `rest`, of at most three words, as `\text{ cm}`, and what follows it."""
    ends = [word.end() for word in re.finditer(r"[ ~]*[A-Za-z]+", rest[:60])][:3]
    for end in reversed(ends):
        unit = rest[:end].strip()
        if unit != "in" and re.fullmatch(r"[A-Za-z ]+", unit) and rest[end : end + 1] not in {"'", "\u2019", "/"}:
            spelling = rf"\text{{ {unit}}}"
            if strip_unit(number.lstrip("\\$") + spelling)[1] is not None:
                return spelling, rest[end:]
    return "", rest


def _without_formulas(rest: str) -> str:
    """`is the smallest $k$` and `such pairs $(a, b)$` in words: a sentence about the number, if words come first."""
    return FORMULA.sub("it", rest) if re.match(r"\s+[A-Za-z]{2}", rest) else rest


def _is_prose(text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(text)]
    if not _PROSE.fullmatch(text) or any(len(word) == 1 and word not in {"a", "i"} for word in words):
        return False
    return not any(_OTHER_NUMBER.fullmatch(word) or integer_in_words(word) is not None for word in words)


def _only_number(clause: str) -> str | None:
    """The one number of a sentence (`Jane started 3 hours ago`) with its unit; None if it is not that plain."""
    numbers = [match for match, _ in zip(NUMBER.finditer(clause), range(2), strict=False)]
    if len(numbers) != 1:
        return None
    number = numbers[0]
    unit, rest = _unit_at(number.group(), clause[number.end() :])
    before = clause[: number.start()]
    if len(_WORD.findall(before + unit + rest)) < 3 or not _is_prose(before) or not _is_prose(rest):
        return None
    if _NAME_BEFORE.search(before[-20:]):  # `on May 4`, `in Room 12`
        return None
    return number.group() + unit if before.strip() else None
