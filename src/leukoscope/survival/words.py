"""Chances, times and their units in plain words: how many of 100 patients, between which limits, by when."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UnknownNameError, UsageError
from .curves import Interval

NOTICE = "Research use, not a diagnosis; not for decisions about a patient."
ONE_SIDED = 0.05  # the chance that a one-sided 95 % limit leaves out


def deadly(event: str) -> bool:
    """Tell whether an event is death from any cause, so that those without it are alive."""
    return event.lower() in {"death", "died", "dead", "death from any cause", "all-cause death"}


def still(events: Sequence[str]) -> str:
    """Say what the people have in common whom a survival curve counts.

    >>> still(["death"]), still(["relapse"]), still(["relapse", "death"])
    ('alive', 'without relapse', 'free of every event')
    """
    if len(events) > 1:
        return "free of every event"
    return "alive" if deadly(events[0]) else f"without {events[0]}"


def of_hundred(share: float) -> str:
    """Return a share as a whole number of 100; 'fewer than one' and 'more than 99' instead of a false 0 or 100.

    >>> of_hundred(0.618), of_hundred(0.003), of_hundred(1.0)
    ('62', 'fewer than one', '100')
    """
    percent = 100 * share
    if 0 < percent < 0.5:
        return "fewer than one"
    if 99.5 < percent < 100:
        return "more than 99"
    return str(round(percent))


def between(interval: Interval) -> str:
    """Return the limits of a share: 'between 51 and 71'; a curve has none where it has reached 0 or 1."""
    if not interval.low < interval.high:  # equal, or not defined
        return "no limits can be given, since not all were followed from the start until the event"
    return f"between {of_hundred(interval.low)} and {of_hundred(interval.high)}"


def state(event: str, *, share: float, competing: bool) -> str:
    """Say what the share of people counts: the living, those without the event, or those who have had it."""
    one = round(100 * share) == 1
    if competing:
        return f"{'has' if one else 'have'} {happened(event)}"
    if deadly(event):
        return "is alive" if one else "are alive"
    return f"{'has' if one else 'have'} had no {event}"


def happened(event: str) -> str:
    """Return an event as something people have done.

    >>> happened("death in remission"), happened("relapse"), happened("graft failure")
    ('died in remission', 'relapsed', 'had graft failure')
    """
    word, *rest = event.split()
    verb = {"death": "died", "dead": "died", "died": "died", "relapse": "relapsed"}.get(word.lower())
    return " ".join([verb, *rest]) if verb else f"had {event}"


def any_of(events: Sequence[str]) -> str:
    """Name several events as one.

    >>> any_of(["relapse", "death", "graft failure"])
    'relapse, death or graft failure'
    """
    return " or ".join(filter(None, [", ".join(events[:-1]), *events[-1:]]))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(2, "row"), counted(12000, "patient")
    ('1 row', '2 rows', '12,000 patients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_stage(column: str, stage: str) -> str:
    """Name a stage with its column, unless the stage's own name says it.

    >>> in_stage("Phase", "CR1"), in_stage("stage", "Stage II"), in_stage("sokal", "sokal ≤ 0.8")
    ('Phase CR1', 'Stage II', 'sokal ≤ 0.8')
    """
    return stage if column.lower() in stage.lower() else f"{column} {stage}"


def short(value: float, digits: int = 3) -> str:
    """Return a number with a few significant digits, never in powers of ten.

    >>> short(1234567.0), short(8.7312), short(0.01234), short(0.0), short(1e-7)
    ('1234567', '8.73', '0.0123', '0', 'below 0.0001')
    """
    if 0 < abs(value) < 1e-4:
        return "below 0.0001" if value > 0 else "between −0.0001 and 0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def upper_limit(known: int) -> float:
    """Return the one-sided 95 % limit of a chance when none of `known` patients had the event (Clopper–Pearson).

    >>> round(upper_limit(14), 3)
    0.193
    """
    return 1 - float(ONE_SIDED ** (1 / known)) if known else 1.0


def limited(found: Mapping[str, Interval], *, event: str, known: int) -> dict[str, Interval]:
    """Give a chance at which nobody had the event its one-sided limit, which no curve can show."""
    most = upper_limit(known)
    limits = {event: Interval(0.0, 0.0, most)}
    if found["survival"].value == 1:
        limits["survival"] = Interval(1.0, 1 - most, 1.0)
    return {**found, **limits}


def none_seen(when: str, *, event: str, known: int) -> str:
    """Say what is known where nobody had the event by a time: how many were followed so far, and an upper limit."""
    if not known:
        return f"no {event} was seen by {when}, but nobody was followed that far: no number."
    most = of_hundred(upper_limit(known))
    who = "one patient was" if known == 1 else f"{known:,} patients were"
    limit = f"up to {most} of 100 could have {happened(event)} (95 % limit)"
    return f"no {event} was seen by {when}; {who} followed that far, so {limit}."


def all_limited(found: Mapping[str, Interval], *, event: str, patients: int) -> dict[str, Interval]:
    """Give a chance at which all of the patients had the event its one-sided limit: `limited` the other way round."""
    most = upper_limit(patients)
    return {**found, event: Interval(1.0, 1 - most, 1.0), "survival": Interval(0.0, 0.0, most)}


def all_seen(when: str, *, event: str, patients: int) -> str:
    """Say what is known where all had the event by a time: how many they were, and the limit of those who might not.

    >>> all_seen("two years", event="death", patients=14)
    'all 14 died by two years, so up to 19 of 100 could still be alive (95 % limit).'
    """
    most = of_hundred(upper_limit(patients))
    who = "the one patient" if patients == 1 else f"all {patients:,}"
    return f"{who} {happened(event)} by {when}, so up to {most} of 100 could still be {still([event])} (95 % limit)."


def count_sentence(when: str, *, events: Sequence[str], survival: Interval, incidence: Interval) -> str:
    """Return how many of 100 are alive (with competing events: have had the first one) after a time, and the limits."""
    competing = len(events) > 1
    share = incidence if competing else survival
    what = state(events[0], share=share.value, competing=competing)
    return f"{of_hundred(share.value)} {what} after {when}; {between(share)}."


def listing(items: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> listing(["I", "II", "III"])
    'I, II and III'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


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
