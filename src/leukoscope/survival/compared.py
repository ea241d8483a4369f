"""The comparison of the stages as survival.json holds it: curves, numbers at risk, medians, means, tests, sentences."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from .cohort import Cohort
from .comparison import gray, holm, logrank, logrank_trend, pairwise, restricted_mean_difference
from .curves import Z95, Array, Curve, Horizon, Interval, median, restricted_mean, risk_table
from .fitting import curves_of, known_until
from .scores import as_dict
from .words import any_of, count_sentence, in_stage, limited, none_seen, short

_TICKS = 6


def compare(cohort: Cohort, *, horizons: Sequence[Horizon]) -> dict[str, Any]:
    """Describe every stage and test whether they differ."""
    curves = {name: curves_of(cohort.take(cohort.stage == place)) for place, name in enumerate(cohort.stages)}
    ticks = _ticks(float(cohort.time.max()), unit=cohort.unit)
    until = _restriction(curves, horizons)
    return {
        "ticks": ticks.tolist(),
        "stages": {
            name: _stage(
                cohort.take(cohort.stage == place), name, curves[name], horizons=horizons, ticks=ticks, until=until
            )
            for place, name in enumerate(cohort.stages)
        },
        "tests": _tests(cohort) if len(cohort.stages) > 1 else {},
        "restricted_mean": {"until": until, "differences": _mean_differences(curves, until)},
    }


def _ticks(last: float, *, unit: str) -> Array:
    """Return about six round times from zero to the last follow-up; months go in halves and wholes of years."""
    steps = [1.0, 3, 6, 12, 24, 36, 60, 120] if unit == "months" else []
    power = 10 ** np.floor(np.log10(last / _TICKS)) if last > 0 else 1.0
    steps += [factor * power for factor in (1, 2, 2.5, 5, 10)]
    fitting = [step for step in steps if last / step <= _TICKS + 1] or [last]
    step = (fitting if unit == "months" and last > _TICKS else sorted(fitting))[0] or 1.0
    return np.asarray(np.arange(0, last + step / 1e6, step))


def _restriction(curves: Mapping[str, Mapping[str, Curve]], horizons: Sequence[Horizon]) -> float:
    """Return the latest horizon that every stage was followed to, or else the shortest of the follow-ups."""
    shortest = min(stage["survival"].last for stage in curves.values())
    return max((horizon.time for horizon in horizons if horizon.time <= shortest), default=shortest)


def _stage(
    cohort: Cohort, name: str, curves: Mapping[str, Curve], *, horizons: Sequence[Horizon], ticks: Array, until: float
) -> dict[str, Any]:
    mean, error = restricted_mean(curves["survival"], until=until)
    who = f"patients with {in_stage(cohort.stage_column, name)}"
    return {
        "curves": {key: _curve(curve) for key, curve in curves.items()},
        "at_risk": [int(((cohort.time >= tick) & (cohort.start <= tick)).sum()) for tick in ticks],
        "median": as_dict(median(curves["survival"])),
        "restricted_mean": _open(Interval(mean, mean - Z95 * error, mean + Z95 * error), error > 0),
        "horizons": [_at(cohort, curves, horizon, who) for horizon in horizons],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    arrays = {key: getattr(curve, key).tolist() for key in ("times", "value", "low", "high")}
    return arrays | {"last": curve.last, "start": curve.start}


def _at(cohort: Cohort, curves: Mapping[str, Curve], horizon: Horizon, who: str) -> dict[str, Any]:
    """Return what is known at one horizon: numbers, `text` (a sentence) and `count` (its end, for a list)."""
    at_risk = int(((cohort.time >= horizon.time) & (cohort.start <= horizon.time)).sum())
    facts = {"words": horizon.words, "time": horizon.time, "at_risk": at_risk}
    read = {key: curve.at(horizon.time) for key, curve in curves.items()}
    known = {key: Interval(*values) for key, values in read.items() if values is not None}
    if len(known) < len(curves):
        last = f"{short(curves['survival'].last)} {cohort.unit}"
        none = f"no number after {horizon.words}: nobody was followed past {last}."
        return facts | {"text": f"For {who}, {none}", "count": none}
    incidence = known[cohort.events[0]]
    if incidence.value == 0:
        seen = known_until(cohort, horizon.time)
        none = none_seen(horizon.words, event=cohort.events[0], known=seen)
        facts |= {key: as_dict(value) for key, value in limited(known, event=cohort.events[0], known=seen).items()}
        return facts | {"text": f"For {who}, {none}", "count": none}
    facts |= {key: as_dict(value) for key, value in known.items()}
    count = count_sentence(horizon.words, events=cohort.events, survival=known["survival"], incidence=incidence)
    return facts | {"text": f"Of 100 {who}, {count}", "count": count}


def _tests(cohort: Cohort) -> dict[str, Any]:
    stages = len(cohort.stages)
    table = risk_table(
        cohort.time, cohort.state, group=cohort.stage, groups=stages, start=cohort.entry, causes=len(cohort.events)
    )
    by_gray = cohort.competing and cohort.entry is None
    pairs = pairwise(table, test=partial(gray, cause=0) if by_gray else logrank)
    tests: dict[str, Any] = {
        "of": any_of(cohort.events),  # what the log-rank tests count
        "logrank": vars(logrank(table)),
        "trend": vars(logrank_trend(table)) if cohort.ordered else None,
        "pairs_of": cohort.events[0] if by_gray else any_of(cohort.events),
        "pairs_by": "Gray" if by_gray else "log-rank",
        "pairs": [
            {"stages": [cohort.stages[a], cohort.stages[b]], **vars(test), "p_holm": corrected}
            for (a, b), (test, corrected) in pairs.items()
        ],
    }
    if by_gray:
        tests["gray"] = {event: vars(gray(table, cause=cause)) for cause, event in enumerate(cohort.events)}
    return tests


def _mean_differences(curves: Mapping[str, Mapping[str, Curve]], until: float) -> list[dict[str, Any]]:
    pairs = list(combinations(curves, 2))
    found = [restricted_mean_difference(curves[a]["survival"], curves[b]["survival"], until=until) for a, b in pairs]
    told = [all(_varies(curves[name]["survival"], until) for name in pair) for pair in pairs]
    corrected = iter(holm([p for (_, p), some in zip(found, told, strict=True) if some]))
    return [
        {"stages": list(pair), **_open(difference, some)}
        | {"p": p if some else None, "p_holm": next(corrected) if some else None}
        for pair, (difference, p), some in zip(pairs, found, told, strict=True)
    ]


def _varies(curve: Curve, until: float) -> bool:
    """Tell whether a mean has a standard error; with no event, or everybody's, before `until` it would be a false 0."""
    return restricted_mean(curve, until=until)[1] > 0


def _open(interval: Interval, some: bool) -> dict[str, float | None]:
    """Return an interval for JSON, its ends unknown unless the data give some."""
    return as_dict(interval) if some else as_dict(Interval(interval.value, np.nan, np.nan))
