"""What happened to a patient: event columns in words, numbers or several 0/1 columns, read into states."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CallError, DataError
from .settings import StudySettings
from .table import Table, is_missing, listed
from .words import counted

CENSORED = "censored"
_ALIVE = {"alive", "living", "lives", "censored", "cens", "no event", "event-free", "event free", "none", "no"}
_NO = {"0", "false"} | _ALIVE
_YES = {"1", "true", "yes", "dead", "died", "deceased", "death", "event"}
_DEATH = {"d", "srvstat", "status_death"} | _YES - {"1", "true", "yes", "event"}


@dataclass(frozen=True)
class Outcome:
    """`time` (rows,) with NaN where missing; `state` (rows,): -1 missing, 0 censored, 1 the event, 2… competing."""

    time: np.ndarray
    state: np.ndarray
    events: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_outcome(table: Table, settings: StudySettings) -> Outcome:
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
        raise CallError(
            "--competing-time needs --competing with the 0/1 column of that event; the events of --events share --time."
        )
    outcome = Outcome(time, state, events)
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
        raise CallError(f"--competing names '{repeated[0]}' twice. Name every competing event once.")
    if _same(settings.event, settings.competing) and not settings.events:
        raise CallError(f"'{settings.event}' is the event that is studied; it cannot compete with itself.")


def _times(table: Table, name: str) -> np.ndarray:
    times = np.array(table.numbers(name))
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
    bare = " ".join(cell.lower().split())
    return bare[:-2] if bare.endswith(".0") else bare


def _binary(table: Table, name: str) -> np.ndarray:
    """Read a column of 0/1, true/false or plain words for alive and dead."""
    codes = [_code(cell) for cell in table.column(name)]
    strange = Counter(code for code in codes if code and code not in _NO | _YES)
    if strange:
        found = listed([f"'{code}' ({count} ×)" for code, count in strange.most_common()])
        example = ",".join(f"{code}=…" for code in sorted(set(codes) - {""})[:4])
        raise DataError(
            f"{table.where}: column '{name}' has values whose meaning is not known: {found}. "
            f'Say what every value means with --events "{example}", such as --events "0=censored,1=death".'
        )
    return np.array([-1 if not code else int(code in _YES) for code in codes])


def _mapped(table: Table, settings: StudySettings) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read a column through the mapping that was given; the event that does not compete comes first."""
    meaning = _meanings(settings.events)
    codes = [_code(cell) for cell in table.column(settings.event)]
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
        CallError: two values are one code ('1' and '1.0'), or a value stands for a missing one.
    """
    meaning: dict[str, str] = {}
    for value, words in given.items():
        code, word = _code(value), " ".join(words.split())
        if not code:
            raise CallError(f"--events: '{value}' stands for a missing value in a table, so it cannot have a meaning.")
        if code in meaning:
            raise CallError(f"--events gives '{code}' two meanings: '{meaning[code]}' and '{word}'. Keep one of them.")
        meaning[code] = CENSORED if word.casefold() in _ALIVE else word
    return meaning


def _main_event_first(meaning: Mapping[str, str], settings: StudySettings) -> tuple[str, ...]:
    words = [word for word in meaning.values() if word != CENSORED]
    names = list({word.casefold(): word for word in reversed(words)}.values())[::-1]
    competing = [same for name in settings.competing if (same := _same(name, names))]
    main = [name for name in names if name not in competing]
    if len(main) != 1:
        raise CallError(_which_event(names, main=main))
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


def _add_competing(outcome: Outcome, table: Table, name: str, time_column: str) -> Outcome:
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
    return Outcome(
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
