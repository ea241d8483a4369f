"""What happened to a patient: event columns in words, numbers or several 0/1 columns, read into states."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import CallError, DataError
from .settings import StudySettings
from .table import Table, is_missing, listed

CENSORED = "censored"
_NO = {"0", "false", "no", "alive", "living", "lives", "censored", "cens"}
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
    if settings.events:
        state, events = _mapped(table, settings)
    else:
        state, events = _binary(table, settings.event), (settings.event_name or _event_name(settings.event),)
    columns = [name for name in settings.competing if name not in events]
    outcome = Outcome(time, state, events)
    for name in columns:
        outcome = _add_competing(outcome, table, name, settings.competing_time)
    if not (outcome.state > 0).any():
        raise DataError(
            f"{table.where}: nobody had the event; all {int((state == 0).sum())} are censored. Survival cannot be "
            "compared or predicted without events. Check --event, and --events if its values have another meaning."
        )
    return outcome


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
    meaning = {_code(value): " ".join(word.split()) for value, word in settings.events.items()}
    codes = [_code(cell) for cell in table.column(settings.event)]
    outside = Counter(code for code in codes if code and code not in meaning)
    if outside:
        found = listed([f"'{code}' ({count} ×)" for code, count in outside.most_common()])
        raise DataError(f"{table.where}: column '{settings.event}' has values outside --events: {found}. Add them.")
    events = _main_event_first(meaning, settings)
    place = {CENSORED: 0} | {name: index for index, name in enumerate(events, start=1)}
    return np.array([place[meaning[code]] if code else -1 for code in codes]), events


def _main_event_first(meaning: Mapping[str, str], settings: StudySettings) -> tuple[str, ...]:
    names = [name for name in dict.fromkeys(meaning.values()) if name != CENSORED]
    competing = [name for name in settings.competing if name in names]
    main = [name for name in names if name not in competing]
    if len(main) != 1:
        known = ", ".join(names) or "none"
        raise CallError(
            f"--events names these events: {known}. Exactly one can be the event that is studied; "
            f'list the others in --competing, such as --competing "{names[-1] if names else "relapse"}".'
        )
    return (*main, *competing)


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
    notes = (f"In {int(both.sum())} rows '{name}' has the same time as '{outcome.events[0]}' and counts as the first.",)
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
