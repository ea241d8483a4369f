"""What a table of patients holds: its settings, its columns as hospitals export them, and the order of its stages."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from pydantic import Field

from ..config import Settings
from ..errors import DataError, UnknownNameError, UsageError
from ..images import listing

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


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(2, "row"), counted(12000, "patient")
    ('1 row', '2 rows', '12,000 patients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_words(items: Sequence[str], *, word: str = "and") -> str:
    """Join words as a sentence does.

    >>> join_words(["I", "II", "III"]), join_words(["relapse", "death"], word="or")
    ('I, II and III', 'relapse or death')
    """
    return f" {word} ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


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


def happened(event: str) -> str:
    """Return an event as something people have done.

    >>> happened("death in remission"), happened("relapse"), happened("graft failure")
    ('died in remission', 'relapsed', 'had graft failure')
    """
    word, *rest = event.split()
    verb = {"death": "died", "dead": "died", "died": "died", "relapse": "relapsed"}.get(word.lower())
    return " ".join([verb, *rest]) if verb else f"had {event}"


def in_stage(column: str, stage: str) -> str:
    """Name a stage with its column, unless its own name contains it.

    >>> in_stage("Phase", "CR1"), in_stage("stage", "Stage II"), in_stage("sokal", "sokal ≤ 0.8")
    ('Phase CR1', 'Stage II', 'sokal ≤ 0.8')
    """
    return stage if column.lower() in stage.lower() else f"{column} {stage}"


class StudySettings(Settings):
    """Which columns mean what, and how carefully the model is judged."""

    time: str
    """Column with the time from diagnosis (or treatment) to the event or to the last visit."""
    event: str
    """Column with what happened at that time."""
    stage: str
    """Column with the stage, phase or risk group at diagnosis."""
    unit: Unit | None = None
    """Unit of every time in the table; None reads it from the name of the time column."""
    events: dict[str, str] = Field(default_factory=dict)
    """What the values of the event column mean: {'0': 'censored', '1': 'relapse', '2': 'death'}."""
    event_name: str = ""
    """What happens, in a word, for the page: 'death'. Empty: taken from `events` or from the column's name."""
    competing: tuple[str, ...] = ()
    """Events that make the first one impossible or change its meaning: names from `events`, or 0/1 columns."""
    competing_time: str = ""
    """Column with the time of the competing event, where it is not `time`; whichever came first counts."""
    entry: str = ""
    """Column with the time at which a patient came under observation (left truncation)."""
    landmark: str = ""
    """A time after the start, such as '6 months': who was followed to it without an event is counted from then on."""
    id: str = ""
    """Column that names the patient; empty: a column called id, patient_id, patid … if there is one."""
    covariates: tuple[str, ...] = ()
    """Further predictors; 'log(wbc)' takes a logarithm first, 'spline(age)' lets the effect of a number bend."""
    stage_order: tuple[str, ...] = ()
    """Stages from mildest to worst, where the order is not recognised."""
    stage_cuts: tuple[float, ...] = ()
    """Limits that cut a numeric stage column (a risk index) into groups; the upper limit belongs to the lower group."""
    horizons: tuple[str, ...] = ()
    """Times at which to answer: '2 years', '6 months', or bare numbers in `unit`; empty chooses from the follow-up."""
    folds: int = Field(5, ge=2, le=20)
    repeats: int = Field(5, ge=1, le=100)
    """Repetitions of the cross-validation."""
    bootstrap: int = Field(50, ge=0, le=1000)
    """Most bootstrap samples for the optimism of the apparent figures (large cohorts take fewer); 0 leaves it out."""
    seed: int = 0


# Each scale runs from mildest to worst. A name matches when, freed of words such as 'stage' or 'risk', it is one of
# the spellings, or a spelling followed by a letter (IIIA, 2b).
_SCALES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("0",), ("i", "1"), ("ii", "2"), ("iii", "3"), ("iv", "4"), ("v", "5")),
    (("cr1",), ("cr2",), ("cr3",), ("relapse", "relapsed", "refractory")),
    (("chronic", "cp"), ("accelerated", "ap"), ("blast", "blastic", "bc")),
    (
        ("verylow",),
        ("low", "favorable", "favourable", "good", "standard"),
        ("medium", "intermediate", "moderate"),
        ("high", "adverse", "poor", "unfavorable", "unfavourable"),
        ("veryhigh",),
    ),
    (("early",), ("late", "advanced")),
    (("a",), ("b",), ("c",), ("d",)),
)
_FILLER = {"stage", "risk", "group", "grade", "phase", "class", "score", "disease", "crisis", "rai", "binet", "eln"}


def order_stages(names: Sequence[str], *, given: Sequence[str] = ()) -> tuple[tuple[str, ...], bool]:
    """Return the stages from mildest to worst, and whether that order is known (else they are sorted by name).

    Raises:
        UsageError: the given order does not name exactly the stages that occur.
    """
    if given:
        _check_given(names, given)
        return tuple(name for name in given if name in names), True
    for scale in _SCALES:
        ranks = [_rank(name, scale) for name in names]
        if all(rank is not None for rank in ranks) and len(set(ranks)) == len(ranks):
            return tuple(name for _, name in sorted(zip(ranks, names, strict=True))), True
    return tuple(sorted(names)), False


def _check_given(names: Sequence[str], given: Sequence[str]) -> None:
    unplaced = [name for name in names if name not in given]
    if unplaced:
        raise UsageError(
            f"--stage-order leaves out {listed(unplaced)}. Write every stage once, mildest first: "
            f'--stage-order "{"<".join(names)}".'
        )
    if len(set(given)) < len(given):
        raise UsageError("--stage-order names a stage twice. Write every stage once, mildest first.")


def _rank(name: str, scale: tuple[tuple[str, ...], ...]) -> tuple[int, str] | None:
    """Return the place of a name on a scale and the letter behind it, or None."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _FILLER]
    bare = "".join(words)
    for place, spellings in enumerate(scale):
        if bare in spellings:
            return place, ""
    for place, spellings in enumerate(scale):
        if bare[:-1] in spellings and bare[-1:] in "abcd" and scale is _SCALES[0]:
            return place, bare[-1]
    return None


def cut_stages(values: np.ndarray, *, cuts: Sequence[float], name: str) -> list[str]:
    """Name the group of each number, such as 'sokal ≤ 0.8', '0.8 < sokal ≤ 1.2', 'sokal > 1.2'; '' for NaN.

    Raises:
        UsageError: the cuts do not rise.
    """
    if list(cuts) != sorted(set(cuts)):
        raise UsageError(f"--stage-cuts must rise: {', '.join(f'{cut:g}' for cut in sorted(set(cuts)))}.")
    names = cut_names(cuts, name=name)
    places = np.searchsorted(np.asarray(cuts, dtype=float), values, side="left")
    return ["" if np.isnan(value) else names[place] for value, place in zip(values, places, strict=True)]


def cut_names(cuts: Sequence[float], *, name: str) -> tuple[str, ...]:
    """Return the names of the groups between cuts, lowest first."""
    middle = [f"{low:g} < {name} ≤ {high:g}" for low, high in pairwise(cuts)]
    return (f"{name} ≤ {cuts[0]:g}", *middle, f"{name} > {cuts[-1]:g}")


_Read = TypeVar("_Read")
MISSING = {"", "na", "n/a", "nan", "null", "none", ".", "?", "-", "missing", "unknown"}


@dataclass(frozen=True)
class PatientTable:
    """Columns of text, the line of the file each row came from, and where it came from."""

    columns: dict[str, list[str]]
    lines: list[int]
    where: str
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()
    """What was taken for granted when it was read, as sentences."""

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[str]:
        """Return one column.

        Raises:
            UnknownNameError: there is no such column.
        """
        if name not in self.columns:
            raise UnknownNameError(f"column in {self.where}:", name, self.columns)
        return self.columns[name]

    def numbers(self, name: str) -> list[float]:
        """Return one column as numbers; a missing value is NaN.

        Raises:
            DataError: cells that are not numbers, named with their lines.
        """
        cells = self.column(name)
        values = each(cells, lambda cell: as_number(cell, decimal_comma=self.decimal_comma))
        self._check_decimals(name)
        bad = [row for row, value in enumerate(values) if value is None]
        if bad:
            raise DataError(
                f"{self.where}: column '{name}' holds text where numbers are needed: {self.show(bad, cells)}. "
                "Mend these cells, or leave them empty where the value is not known."
            )
        return [math.nan if value is None else value for value in values]

    def _check_decimals(self, name: str) -> None:
        """Refuse a column in which numbers have both ',' and '.': one of them would be read wrongly."""
        cells = self.column(name)
        commas = [row for row, cell in enumerate(cells) if self.decimal_comma and "," in cell]
        points = [row for row, cell in enumerate(cells) if "." in cell and not is_missing(cell)] if commas else []
        if points:
            raise DataError(
                f"{self.where}: column '{name}' has decimal commas and decimal points: {self.show(commas[:1], cells)}, "
                f"{self.show(points[:1], cells)}. Write all of them one way."
            )

    def is_numeric(self, name: str) -> bool:
        """Tell whether most of the known values of a column are numbers."""
        known = {cell: count for cell, count in Counter(self.column(name)).items() if not is_missing(cell)}
        numbers = sum(
            count for cell, count in known.items() if as_number(cell, decimal_comma=self.decimal_comma) is not None
        )
        return bool(known) and numbers >= 0.8 * sum(known.values())

    def words(self, name: str) -> list[str]:
        """Return one column as tidy words.

        Raises:
            DataError: a signed or broken number is among words, where it can be no name; names its line.
        """
        cells = self.column(name)
        numbers = {cell for cell in set(cells) if re.fullmatch(r"\s*([+-]\d+([.,]\d*)?|\d*[.,]\d*[1-9])\s*", cell)}
        tidied = each(cells, tidy)
        if numbers and any(not re.fullmatch(r"[-+]?[\d.,]*", word) for word in set(tidied)):
            bad = [row for row, cell in enumerate(cells) if cell in numbers]
            raise DataError(
                f"{self.where}: column '{name}' holds numbers among words: {self.show(bad, cells)}. "
                "Mend these cells, or leave them empty where the value is not known."
            )
        return tidied

    def show(self, rows: Sequence[int], cells: Sequence[object]) -> str:
        """Name the first few of some rows: "'abc' (line 7), 'x' (line 9) and 3 more"."""
        return listed(f"'{cells[row]}' (line {self.lines[row]})" for row in rows)


def listed(items: Iterable[str], *, most: int = 4) -> str:
    """Join a few items and count the rest."""
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def each(cells: Sequence[str], read: Callable[[str], _Read]) -> list[_Read]:
    """Apply a function to cells, once for every different one: columns of a million rows repeat themselves."""
    found = {cell: read(cell) for cell in set(cells)}
    return [found[cell] for cell in cells]


def is_missing(cell: str) -> bool:
    """Tell whether a cell means a missing value."""
    return cell.strip().lower() in MISSING


def tidy(cell: str) -> str:
    """Return a name as it is compared: single spaces, '2' for '2.0' and '+2', '0' for '-0', '' if missing.

    >>> tidy(" Stage  II "), tidy("2.0"), tidy("-0"), tidy("+1.0"), tidy("-1"), tidy("n/a")
    ('Stage II', '2', '0', '1', '-1', '')
    """
    return _whole("" if is_missing(cell) else " ".join(cell.split()))


def _whole(bare: str) -> str:
    """Write a whole number one way: spreadsheets have '2.0' for '2', and '-0' for a zero that was rounded."""
    match = re.fullmatch(r"([+-]?)(\d+)(\.0+)?", bare)
    if not match:
        return bare
    sign = "-" if match[1] == "-" and int(match[2]) else ""
    return sign + match[2]


def one_spelling(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write names that differ in case alone as the commonest of them; return the cells and what was joined."""
    counts = Counter(cell for cell in cells if cell)
    spellings: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        spellings.setdefault(name.casefold(), []).append(name)
    joined = [names for names in spellings.values() if len(names) > 1]
    chosen = {name: names[0] for names in spellings.values() for name in names}
    return [chosen.get(cell, "") for cell in cells], [f"{listed(names)} as {names[0]}" for names in joined]


def read_table(path: Path) -> PatientTable:
    """Read a table as spreadsheets write them (`images.listing`); numbers have commas where commas do not separate.

    Raises:
        DataError: the file is missing, empty, not text, ragged, or names a column twice.
    """
    read = listing.read_table(path)
    twice = sorted({name for name in read.header if read.header.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {', '.join(twice)} more than once. Rename or remove one of them.")
    if not read.rows:
        raise DataError(f"{path} has a header but no patients. Check that it was exported whole.")
    columns = {name: list(cells) for name, cells in zip(read.header, zip(*read.rows, strict=True), strict=True)}
    return PatientTable(columns, list(read.lines), path.name, decimal_comma=read.separator != ",", notes=read.notes)


def as_number(cell: str, *, decimal_comma: bool) -> float | None:
    """Return a finite number, NaN for a missing value, or None for anything else."""
    if is_missing(cell):
        return math.nan
    try:
        value = float(
            cell.replace(",", ".") if decimal_comma else cell.replace("_", "x")
        )  # Python's 1_000 is not a number
    except ValueError:
        return None
    return value if math.isfinite(value) else None


CENSORED = "censored"
_ALIVE = {"alive", "living", "lives", "censored", "cens", "no event", "event-free", "event free", "none", "no"}
_NO = {"0", "false"} | _ALIVE
_YES = {"1", "true", "yes", "dead", "died", "deceased", "death", "event"}
_DEATH = {"d", "srvstat", "status_death"} | _YES - {"1", "true", "yes", "event"}


@dataclass(frozen=True)
class TimeToEvent:
    """`time` (rows,) with NaN where missing; `state` (rows,): -1 missing, 0 censored, 1 the event, 2… competing."""

    time: np.ndarray
    state: np.ndarray
    events: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_outcome(table: PatientTable, settings: StudySettings) -> TimeToEvent:
    """Read times and states.

    Raises:
        DataError: negative or text times, or event values that have no meaning yet, named with their lines.
    """
    time = _times(table, settings.time)
    _check_competing(settings)
    if settings.events:
        state, events = _mapped(table, settings)
    else:
        state, events = _binary(table, settings.event), (settings.event_name or _event_name(settings.event),)
    columns = [name for name in settings.competing if not _same(name, events)]
    if settings.competing_time and not columns:
        raise UsageError(
            "--competing-time needs --competing with the 0/1 column of that event; the events of --events share --time."
        )
    outcome = TimeToEvent(time, state, events)
    for name in columns:
        outcome = _add_competing(outcome, table, name, settings.competing_time)
    if not (outcome.state > 0).any():
        raise DataError(
            f"{table.where}: nobody had the event; all {int((state == 0).sum())} are censored. Survival cannot be "
            "compared or predicted without events. Check --event, and --events if its values have another meaning."
        )
    return outcome


def _same(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that is `name` in any case, or ''."""
    return next((other for other in names if other.casefold() == name.casefold()), "")


def _check_competing(settings: StudySettings) -> None:
    repeated = [name for name, count in Counter(map(str.casefold, settings.competing)).items() if count > 1]
    if repeated:
        raise UsageError(f"--competing names '{repeated[0]}' twice. Name every competing event once.")
    if _same(settings.event, settings.competing) and not settings.events:
        raise UsageError(f"'{settings.event}' is the event that is studied; it cannot compete with itself.")


def _times(table: PatientTable, name: str) -> np.ndarray:
    times = np.array(table.numbers(name))
    endless = np.flatnonzero(times > LONGEST)
    if len(endless):
        raise DataError(
            f"{table.where}: column '{name}' has times above a million: "
            f"{table.show(endless.tolist(), table.column(name))}. Check these rows, and the unit."
        )
    negative = np.flatnonzero(times < 0)
    if len(negative):
        raise DataError(
            f"{table.where}: column '{name}' has times below zero: "
            f"{table.show(negative.tolist(), table.column(name))}. A time counts from diagnosis on; mend these rows."
        )
    return times


def _code(cell: str) -> str:
    """Return a value as it is compared: lower case, '1' for '1.0', '' for a missing one."""
    if is_missing(cell):
        return ""
    return _whole(" ".join(cell.lower().split()))


def _binary(table: PatientTable, name: str) -> np.ndarray:
    """Read a column of 0/1, true/false or plain words for alive and dead."""
    codes = each(table.column(name), _code)
    strange = Counter(code for code in codes if code and code not in _NO | _YES)
    if strange:
        found = listed([f"'{code}' ({count} ×)" for code, count in strange.most_common()])
        example = ",".join(f"{code}=…" for code in sorted(set(codes) - {""})[:4])
        raise DataError(
            f"{table.where}: column '{name}' has values whose meaning is not known: {found}. "
            f'Say what every value means with --events "{example}", such as --events "0=censored,1=death".'
        )
    return np.array([-1 if not code else int(code in _YES) for code in codes])


def _mapped(table: PatientTable, settings: StudySettings) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a column through the mapping that was given; the event that does not compete comes first."""
    meaning = _meanings(settings.events)
    codes = each(table.column(settings.event), _code)
    outside = Counter(code for code in codes if code and code not in meaning)
    if outside:
        found = listed([f"'{code}' ({count} ×)" for code, count in outside.most_common()])
        raise DataError(f"{table.where}: column '{settings.event}' has values outside --events: {found}. Add them.")
    events = _main_event_first(meaning, settings)
    meaning = {code: _same(word, events) or CENSORED for code, word in meaning.items()}
    if settings.event_name:
        meaning = {code: settings.event_name if word == events[0] else word for code, word in meaning.items()}
        events = (settings.event_name, *events[1:])
    place = {CENSORED: 0} | {name: index for index, name in enumerate(events, start=1)}
    return np.array([place[meaning[code]] if code else -1 for code in codes]), events


def _meanings(given: Mapping[str, str]) -> dict[str, str]:
    """Return the meaning of each code; 'alive' and its like mean censored.

    Raises:
        UsageError: two values are one code ('1' and '1.0'), or a value means a missing one.
    """
    meaning: dict[str, str] = {}
    for value, words in given.items():
        code, word = _code(value), " ".join(words.split())
        if not code:
            raise UsageError(f"--events: '{value}' means a missing value in a table, so it cannot have a meaning.")
        if code in meaning:
            raise UsageError(f"--events gives '{code}' two meanings: '{meaning[code]}' and '{word}'. Keep one of them.")
        meaning[code] = CENSORED if word.casefold() in _ALIVE else word
    return meaning


def _main_event_first(meaning: Mapping[str, str], settings: StudySettings) -> tuple[str, ...]:
    words = [word for word in meaning.values() if word != CENSORED]
    names = list({word.casefold(): word for word in reversed(words)}.values())[::-1]
    competing = [same for name in settings.competing if (same := _same(name, names))]
    main = [name for name in names if name not in competing]
    if len(main) != 1:
        raise UsageError(_which_event(names, main=main))
    return (*main, *competing)


def _which_event(names: Sequence[str], *, main: Sequence[str]) -> str:
    if not names:
        return '--events names no event: every value means censored. Give the event\'s value, as in "0=alive,1=death".'
    if not main:
        return f"--competing names every event of --events ({', '.join(names)}). Leave out the one that is studied."
    return (
        f"--events names these events: {', '.join(names)}. Exactly one can be the event that is studied; "
        f'list the others in --competing, such as --competing "{main[-1]}".'
    )


def _add_competing(outcome: TimeToEvent, table: PatientTable, name: str, time_column: str) -> TimeToEvent:
    """Add a 0/1 column of a competing event; what came first counts."""
    happened = _binary(table, name) == 1
    when = _times(table, time_column) if time_column else outcome.time
    if happened[np.isnan(when)].any():
        rows = np.flatnonzero(happened & np.isnan(when)).tolist()
        raise DataError(
            f"{table.where}: '{name}' happened but its time is missing: {table.show(rows, table.column(name))}."
        )
    both = happened & (outcome.state > 0) & (when == outcome.time)
    if both.any() and not time_column:
        rows = np.flatnonzero(both).tolist()
        raise DataError(
            f"{table.where}: two events at one time, '{outcome.events[0]}' and '{name}': lines "
            f"{listed([str(table.lines[row]) for row in rows])}. Say which came first: name the time of '{name}' "
            "with --competing-time, or keep only the first event of each row."
        )
    first = happened & (when <= outcome.time)
    tied = counted(int(both.sum()), "row")
    notes = (f"In {tied} '{name}' has the same time as '{outcome.events[0]}' and counts as the first.",)
    return TimeToEvent(
        time=np.where(first, when, outcome.time),
        state=np.where(first, len(outcome.events) + 1, outcome.state),
        events=(*outcome.events, name),
        notes=outcome.notes + (notes if both.any() else ()),
    )


def _event_name(column: str) -> str:
    """Return 'death' for columns that mean it, else the column's name in words."""
    bare = column.lower().strip()
    dead = bare in _DEATH or any(word in bare for word in ("death", "died", "dead", "deceased"))
    return "death" if dead else column.replace("_", " ").strip()
