r"""Units of answers as text: which unit an answer carries (`15\text{ cm}^2`, `\$5`, `60 km/h`), and the answer without it."""

from __future__ import annotations

import re

_UNIT_WORDS = {
    "dollar": "dollar|dollars|usd|bucks", "cent": "cent|cents", "euro": "euro|euros|eur",
    "degree": "degree|degrees|deg", "percent": "percent|percentage|pct", "unit": "unit|units",
    "mile": "mile|miles|mi", "km": "km|kilometer|kilometers|kilometre|kilometres", "m": "meter|meters|metre|metres",
    "cm": "cm|centimeter|centimeters|centimetre|centimetres", "mm": "mm|millimeter|millimeters|millimetre|millimetres",
    "inch": "inch|inches", "foot": "foot|feet|ft", "yard": "yard|yards|yd", "mile/hour": "mph", "km/hour": "kph|kmph",
    "second": "second|seconds|sec|secs", "minute": "minute|minutes|min|mins", "hour": "hour|hours|hr|hrs",
    "day": "day|days", "week": "week|weeks", "month": "month|months", "year": "year|years",
    "mg": "milligram|milligrams", "gram": "gram|grams", "kg": "kg|kgs|kilogram|kilograms|kilo|kilos",
    "ton": "ton|tons", "tonne": "tonne|tonnes", "pound": "pound|pounds|lb|lbs", "ounce": "ounce|ounces|oz",
    "ml": "milliliter|milliliters|millilitre|millilitres", "liter": "liter|liters|litre|litres",
    "cup": "cup|cups", "pint": "pint|pints", "quart": "quart|quarts", "gallon": "gallon|gallons",
    "hz": "hertz", "newton": "newton|newtons", "joule": "joule|joules",
}  # fmt: skip
_UNITS = {word: unit for unit, spellings in _UNIT_WORDS.items() for word in spellings.split("|")}
# Bare, these are products of variables (`\frac{1}{2}mg`).
_UNITS_IN_TEXT = _UNITS | {
    "in": "inch", "m": "m", "g": "gram", "s": "second", "h": "hour", "l": "liter", "am": "am", "pm": "pm", "gm": "gram",
    "gms": "gram", "mg": "mg", "ml": "ml", "pt": "pint", "qt": "quart", "gal": "gallon", "hz": "hz", "khz": "khz", "mhz": "mhz",
    "erg": "erg", "ergs": "erg", "yr": "year", "yrs": "year", "kmh": "km/hour",
}  # fmt: skip
_MONEY = {"dollar", "cent", "euro"}
_CURRENCIES = {"€": "euro", "EUR": "euro", "£": "pound sterling", r"\pounds": "pound sterling"}
_CURRENCY = re.compile(r"(\\\$|€|£|\\pounds\b|(?:USD|EUR)(?![A-Za-z]))\s*")
_POWER = r"(?:\s*\^\s*(?:\{\s*([23])\s*\}|([23])))?"
_TEXT_TAIL = re.compile(
    r"(?<=[^\s=+\-*/^_(,])\s*\\(?:text|mathrm)\s*"
    rf"\{{([A-Za-z ./]*)(?:\^\s*\{{?([23])\}}?)?\}}{_POWER}\s*$"
)
_WORD_TAIL = re.compile(rf"(?<=[\d}})\]!i])\s*((?:[A-Za-z]+ )?[A-Za-z]+(?:/[A-Za-z]+)?)\.?{_POWER}\s*$")
_NUMBER_WORD = (
    "dozen|score|hal[fv]|third|quarter|four|fif|six|seven|eigh|nin|ten|hundred|thousand|million|billion|trillion|squared|cubed"
    "|factorial|choose|times|plus|minus|over|mod|percent|base"
)
# What is counted (`41 apples`): any plain word, unless it is a number itself.
_COUNTED = re.compile(rf"(?<=[\d}}])\s+(?!(?:{_NUMBER_WORD}|and\b|or\b))[a-z]{{4,}}(?: [a-z]{{3,}}){{0,2}}$")
# No units: parts and multiples of a number, and bounds (`5 or more`).
_NO_UNIT = re.compile(
    r"^\s*(?:dozens?|scores?|hal(?:f|ves)|\w*(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?)\b"
    r"|\b(?:and|or|not|than|least|most|base|squared|cubed|factorial)\b"
)


def strip_unit(text: str) -> tuple[str, str | None]:
    r"""A cleaned answer without its unit, and the unit in one spelling (None if there is none or it is unknown)."""
    if (sign := _CURRENCY.match(text)) is not None:
        return strip_unit(text[sign.end() :])[0], _CURRENCIES.get(sign.group(1), "dollar")
    if text.endswith(r"^\circ"):
        return text.removesuffix(r"^\circ").rstrip(), "degree"
    if text.endswith("%"):
        return text[:-1].removesuffix("\\").rstrip(), "percent"
    if (match := _TEXT_TAIL.search(text)) is not None and not _NO_UNIT.search(match.group(1).lower()):
        rest = text[: match.start()].rstrip()
        if rest.endswith(r"^\circ"):
            scale = match.group(1).strip().lower()
            return strip_unit(rest)[0], f"degree {scale[0]}" if scale in {"c", "f", "celsius", "fahrenheit"} else "degree"
        return strip_unit(rest)[0], _unit(match, _UNITS_IN_TEXT)
    if (match := _WORD_TAIL.search(text)) is not None and (unit := _bare_unit(match)) is not None:
        return strip_unit(text[: match.start()].rstrip())[0], unit
    if (match := _COUNTED.search(text)) is not None and not _NO_UNIT.search(match.group()):
        return text[: match.start()], None
    return text, None


def contradict(one: str | None, other: str | None) -> bool:
    """Whether both units are known and differ; `90^\\circ` says less than degrees Celsius, but nothing else."""
    if one is None or other is None or one == other:
        return False
    return not (one.split()[0] == other.split()[0] == "degree" and "degree" in {one, other})


def with_unit_of(gold: str, answer: str) -> str:
    r"""`17m` as `17\text{ m}` if the gold says metres: elsewhere a bare letter is a variable."""
    unit = strip_unit(gold)[1]
    match = _WORD_TAIL.search(answer) if unit is not None else None
    if match is None or _unit(match, _UNITS_IN_TEXT) != unit:
        return answer
    power = next((part for part in match.groups()[1:] if part), "")
    return rf"{answer[: match.start()]}\text{{ {match.group(1)}}}" + (f"^{power}" if power else "")


def _bare_unit(match: re.Match[str]) -> str | None:
    """The unit of plain letters; letters that may be variables are none, except after a stroke (`km/h`)."""
    over = match.group(1).partition("/")
    return _unit(match, _UNITS_IN_TEXT if over[1] and over[0].lower() in _UNITS else _UNITS)


def _unit(match: re.Match[str], table: dict[str, str]) -> str | None:
    """The unit with its power (`inch^2`) and what it is divided by (`km/hour`): known words only, else None."""
    power = next((part for part in match.groups()[1:] if part), "")
    names = [_one_unit(part, table) for part in re.split(r"\s*/\s*|\s+per\s+", match.group(1).lower().strip())]
    if names[0] in _MONEY:  # `\$18` and `18 dollars per day` do not contradict each other
        return names[0]
    known = [name for name in names if name is not None]
    return "/".join(known) + (f"^{power}" if power else "") if len(known) == len(names) else None


def _one_unit(text: str, table: dict[str, str]) -> str | None:
    """A unit word, alone, after `square` or `cubic`, or before `old`."""
    parts = re.sub(r"\b(sq|cu)\.", r"\1 ", text).replace(".", "").split()
    power = ""
    if len(parts) == 2 and parts[0] in {"square", "sq", "cubic", "cu"}:
        power, parts = ("^3" if parts[0].startswith("cu") else "^2"), parts[1:]
    elif len(parts) == 2 and parts[1] == "old":
        parts = parts[:1]
    return table[parts[0]] + power if len(parts) == 1 and parts[0] in table else None
