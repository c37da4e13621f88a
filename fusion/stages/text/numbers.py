"""Numbers in texts: read exactly, with thousands marks, decimal commas, magnitudes and units."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, NamedTuple

MOST_DIGITS: Final = 300
_SPACES: Final = "\u00a0\u2009\u202f"
"""Spaces that no line breaks at: thousands marks wherever they are."""
_MARKS: Final = rf"[.,'’{_SPACES}]"
_SIGN: Final = "[-+−]?"
_CURRENCIES: Final = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
_MAGNITUDES: Final = {
    "k": 10**3,
    "thousand": 10**3,
    "mn": 10**6,
    "mio": 10**6,
    "million": 10**6,
    "bn": 10**9,
    "billion": 10**9,
    "trillion": 10**12,
}
_UNITS: Final = {
    "%": "% percent",
    "kg": "kg kgs kilo kilos kilogram kilograms kilogramme kilogrammes",
    "g": "g gram grams gramme grammes",
    "mg": "mg milligram milligrams",
    "oz": "oz ounce ounces",
    "km": "km kilometer kilometers kilometre kilometres",
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "mile": "mile miles",
    "ft": "ft foot feet",
    "inch": "inch inches",
    "yd": "yd yard yards",
    "s": "s sec second seconds",
    "ms": "ms millisecond milliseconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "l": "l L liter liters litre litres",
    "ml": "ml mL milliliter milliliters millilitre millilitres",
    "km/h": "km/h kph",
    "mph": "mph",
    "°C": "°C",
    "°F": "°F",
    "KB": "KB kB",
    "MB": "MB",
    "GB": "GB",
    "TB": "TB",
    "USD": "USD dollar dollars",
    "EUR": "EUR € euro euros",
    "GBP": "GBP £",
    "JPY": "JPY ¥ yen",
    "cent": "¢ cent cents",
}
_NAMED: Final = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_SYMBOLS: Final = sorted((name for name in _NAMED if len(name) < 4 or not name.isalpha()), key=len, reverse=True)
_WORDS: Final = sorted((name for name in _NAMED if len(name) >= 4 and name.isalpha()), key=len, reverse=True)
_UNIT: Final = (
    rf"[\s-]?(?P<unit>{'|'.join(map(re.escape, _SYMBOLS))}|(?i:{'|'.join(_WORDS)}))(?![\w/^·])"  # m, and not m²
)
_MAGNITUDE: Final = (
    rf"(?:(?P<thousands>k)|[\s{_SPACES}-]?(?P<magnitude>(?i:thousand|million|billion|trillion)|mn|mio|bn))(?!\w)"
)
_SPACED: Final = r"(?<!\d )\d{1,3}(?: \d{3})+(?:[.,]\d+)?(?! ?\d)"
_MIXED: Final = r"\d{1,6} +\d{1,4}\s*/\s*\d{1,4}"
_PLAIN: Final = rf"\d+(?:{_MARKS}\d+)*(?:[eE][-+]?\d{{1,3}})?(?:\s*/\s*\d+)?"
TOKEN: Final = (
    rf"(?P<sign>{_SIGN})(?:(?P<before>[$€£¥])\s?)?(?P<inner>{_SIGN})"
    rf"(?P<number>{_SPACED}|{_MIXED}|{_PLAIN}|\.\d+)(?:{_MAGNITUDE})?(?:{_UNIT})?(?![.,'’]\d)"
)
"""A number with its sign, currency, magnitude and unit, by name."""
_BEGINNING: Final = rf"(?<![\w.])(?:(?=[-+−$€£¥])|(?<!\d[,'’{_SPACES}]))"
_TOKENS: Final = rf"(?P<bracket>[(\[{{]\s?)?{_BEGINNING}{TOKEN}(?!\w)"
_AMERICAN: Final = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"
_INDIAN: Final = r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?"
_EUROPEAN: Final = r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})"
_SPACES_OR_QUOTES: Final = rf"[1-9]\d{{0,2}}([ '’{_SPACES}])\d{{3}}(?:\1\d{{3}})*(?:[.,]\d+)?"
_PAIR: Final = r"0,\d+|\d+,\d\d?"
_LIST: Final = r"\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)+"


class Number(NamedTuple):
    """A number: its text, its exact value, and its unit if it has a known one."""

    text: str
    value: Fraction
    unit: str | None


def numbers(text: str) -> Iterator[Number]:
    """Yield the numbers of a text, the last one first. What is no number for certain is left out.

    Marks decide: 1,234.5 and 1.234,5 and 1'234.5 are one number, 12,5 is 12.5 and (12,5) a pair, 1.2.3 is none.

    >>> [str(number.value) for number in numbers("2.5 million of 1.234.567,5 kg")]
    ['2469135/2', '2500000']
    """
    for found in reversed(list(re.finditer(_TOKENS, text))):
        number = of_match(found, listed=found["bracket"] is not None, last=True)
        if number is not None:
            yield number


def of_match(found: re.Match[str], *, listed: bool = False, last: bool = False) -> Number | None:
    """Return the number of a match of TOKEN; None if it is none.

    With `listed`, a comma parts two numbers. Of a list 1,2,3 the first one counts, or the `last`.
    """
    said = found["unit"] or found["magnitude"] or found["before"]
    parts = _parts(found["number"], listed=listed and not said)
    value = _value(parts[-1 if last else 0])
    if value is None:
        return None
    magnitude = "k" if found["thousands"] else (found["magnitude"] or "").lower()
    value *= _MAGNITUDES.get(magnitude, 1)
    signs = "" if last and len(parts) > 1 else found["sign"] + found["inner"]
    negative = signs.replace("+", "") in ("-", "−")
    unit = _CURRENCIES.get(found["before"] or "") or _unit(found["unit"])
    text = found.string[found.start("sign") : found.end()].strip()
    return Number(text, -value if negative else value, unit)


def _unit(name: str | None) -> str | None:
    return None if name is None else _NAMED.get(name) or _NAMED.get(name.lower())


def _parts(text: str, *, listed: bool) -> list[str]:
    """Return the numbers that commas part, or the one number that they mark."""
    if not re.fullmatch(_LIST, text) or (_plain(text) is not None and not (listed and re.fullmatch(_PAIR, text))):
        return [text]
    parts = text.split(",")
    return [text] if any(len(part) == 3 for part in parts[1:]) else parts


def _value(text: str) -> Fraction | None:
    """Return the value of a number without its sign; None if its marks contradict each other."""
    if len(text) > MOST_DIGITS:
        return None
    upper, slash, lower = text.partition("/")
    if slash:
        return _ratio(upper.strip(), lower.strip())
    digits, _, exponent = upper.lower().partition("e")
    plain = _plain(digits)
    if plain is None or abs(int(exponent or 0)) > MOST_DIGITS:
        return None
    return Fraction(plain) * Fraction(10) ** int(exponent or 0)


def _ratio(upper: str, lower: str) -> Fraction | None:
    """Return the value of a fraction, or of a mixed number such as 3 1/2."""
    whole, _, rest = upper.partition(" ")
    if not int(lower):
        return None
    if not rest.strip().isdigit() or " " in rest.strip():
        top = _value(upper)
        return None if top is None else top / int(lower)
    part = Fraction(int(rest), int(lower))
    return int(whole) + part if whole.isdigit() and part < 1 else None


def _plain(digits: str) -> str | None:
    """Return digits without thousands marks, and with a decimal point; None if their marks contradict each other."""
    if re.fullmatch(r"\d*(?:\.\d+)?", digits):
        return digits
    if re.fullmatch(_AMERICAN, digits) or re.fullmatch(_INDIAN, digits):
        return digits.replace(",", "")
    if re.fullmatch(_EUROPEAN, digits):
        return digits.replace(".", "").replace(",", ".")
    if re.fullmatch(_SPACES_OR_QUOTES, digits):
        return re.sub(rf"[ '’{_SPACES}]", "", digits).replace(",", ".")
    return digits.replace(",", ".") if re.fullmatch(_PAIR, digits) else None
