"""Times and their units, in numbers and in words."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UnknownNameError, UsageError
from .words import short

Unit = Literal["days", "weeks", "months", "years"]
UNITS: tuple[Unit, ...] = get_args(Unit)
DAYS: dict[str, float] = {"days": 1.0, "weeks": 7.0, "months": 365.25 / 12, "years": 365.25}
LONGEST = 1e6  # in any unit; above it a horizon is a slip of the hand
_NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass(frozen=True)
class Horizon:
    """A time at which a question is answered: `time` in the unit of the cohort, `words` for people."""

    time: float
    words: str


def unit_in(name: str) -> Unit | None:
    """Return the unit that a column's name mentions ('time_months', 'tyears'), or None."""
    found = [unit for unit in UNITS if unit.rstrip("s") in name.lower()]
    return found[0] if len(found) == 1 else None


def in_words(time: float, unit: str) -> str:
    """Return a time in words.

    >>> in_words(24, "months")
    'two years'
    >>> in_words(26, "weeks")
    '26 weeks'
    """
    years = time * DAYS[unit] / DAYS["years"]
    if unit != "years" and years >= 1 and abs(years - round(years)) < 1e-3:
        time, unit = years, "years"
    number = short(time, 4)
    if number.isdigit() and int(number) < len(_NUMBER_WORDS):
        number = _NUMBER_WORDS[int(number)]
    return f"{number} {unit.rstrip('s') if number == 'one' else unit}"


def parse_horizon(text: str, *, unit: str) -> Horizon:
    """Read '2 years', '6m' or a bare number in the cohort's unit.

    Raises:
        UsageError: not a time, or not above zero.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    if not match or not 0 < float(match[1]) < LONGEST:
        raise UsageError(
            f"Horizon '{text}' is not a time above zero and below a million. Write it as '2 years', '6 months' or '24'."
        )
    named = _unit_named(match[2]) if match[2] else unit
    return Horizon(float(match[1]) * DAYS[named] / DAYS[unit], in_words(float(match[1]), named))


def _unit_named(word: str) -> Unit:
    for unit in UNITS:
        if word.lower() in {unit, unit.rstrip("s"), unit[0]}:
            return unit
    raise UnknownNameError("unit of time", word, UNITS)


def fitting_horizons(*, first: float, last: float, unit: str) -> tuple[Horizon, ...]:
    """Return up to three usual times, spread over those from `first` to `last` (both in `unit`).

    >>> [horizon.words for horizon in fitting_horizons(first=5, last=90, unit="months")]
    ['six months', 'two years', 'five years']
    """
    usual = [("1 month", 30.4375), ("3 months", 91.3125), ("6 months", 182.625)]
    usual += [(f"{years} years" if years > 1 else "1 year", 365.25 * years) for years in (1, 2, 3, 5, 10, 15, 20)]
    within = [text for text, days in usual if first <= days / DAYS[unit] <= last]
    chosen = dict.fromkeys(within[place] for place in (0, len(within) // 2, -1)) if within else ()
    return tuple(parse_horizon(text, unit=unit) for text in chosen)
