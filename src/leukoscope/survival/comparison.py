"""Do the stages differ? Log-rank, its trend version, pairs with Holm's correction, Gray's test, restricted means."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from ..errors import CallError
from .cohort import Cohort
from .curves import Z95, Array, Curve, Horizon, Interval, RiskTable, median, restricted_mean, risk_table
from .fitting import curves_of, known_until
from .scores import as_dict
from .study import any_of, count_sentence, in_stage, limited, none_seen, short
from .table import listed


@dataclass(frozen=True)
class Test:
    """A chi-squared statistic, its degrees of freedom and p."""

    statistic: float
    df: int
    p: float


def chi_squared(statistic: float, df: int) -> Test:
    """Return a chi-squared test with its p value."""
    return Test(float(statistic), df, float(chi2.sf(statistic, df)))


def _scores(table: RiskTable) -> tuple[Array, Array]:
    """Return observed minus expected events per group, and their covariance (hypergeometric).

    Source: Klein and Moeschberger (2003), section 7.3.
    """
    at_risk, deaths = table.at_risk.astype(float), table.events.sum(axis=0).astype(float)
    total, dead = at_risk.sum(axis=1), deaths.sum(axis=1)
    some = (dead > 0) & (total > 0)
    at_risk, total, dead = at_risk[some], total[some], dead[some]
    share = at_risk / total[:, None]
    weight = dead * (total - dead) / np.maximum(total - 1, 1)
    covariance = np.diag(weight @ share) - (share * weight[:, None]).T @ share
    return deaths[some].sum(axis=0) - dead @ share, covariance


def logrank(table: RiskTable) -> Test:
    """Test whether survival is the same in all groups of a table (Mantel 1966); every cause counts as the event."""
    score, covariance = _scores(table)
    # the scores add to zero, so the pseudo-inverse does what dropping one group would do
    return chi_squared(score @ np.linalg.pinv(covariance, hermitian=True) @ score, len(score) - 1)


def logrank_trend(table: RiskTable, *, places: Sequence[float] | None = None) -> Test:
    """Test whether survival moves one way over ordered groups, scored 1, 2, 3 … unless `places` are given.

    Source: Klein and Moeschberger (2003), section 7.4.
    """
    score, covariance = _scores(table)
    weights = np.arange(1.0, len(score) + 1) if places is None else np.asarray(places, dtype=float)
    variance = weights @ covariance @ weights
    return chi_squared((weights @ score) ** 2 / variance if variance > 1e-12 else 0.0, 1)  # 1e-12: nobody to compare


def pairwise(
    table: RiskTable, *, test: Callable[[RiskTable], Test] = logrank
) -> dict[tuple[int, int], tuple[Test, float]]:
    """Return a test of every pair of groups and its p after Holm's correction (Holm 1979)."""
    pairs = list(combinations(range(table.at_risk.shape[1]), 2))
    tests = [test(RiskTable(table.times, table.at_risk[:, p], table.events[:, :, p])) for p in map(list, pairs)]
    adjusted = holm([found.p for found in tests])
    return {pair: (found, p) for pair, found, p in zip(pairs, tests, adjusted, strict=True)}


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps)
    factors = np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * factors), 1)
    return [float(p) for p in corrected]


def restricted_mean_difference(first: Curve, second: Curve, *, until: float) -> tuple[Interval, float]:
    """Return second minus first mean time alive within `until`, with its 95 % interval, and p.

    Source: Royston and Parmar (2013), doi 10.1186/1471-2288-13-152.
    """
    (a, error_a), (b, error_b) = (restricted_mean(curve, until=until) for curve in (first, second))
    error = float(np.hypot(error_a, error_b))
    p = float(2 * norm.sf(abs(b - a) / error)) if error > 0 else 1.0
    return Interval(b - a, b - a - Z95 * error, b - a + Z95 * error), p


@dataclass(frozen=True)
class _Groups:
    """Counts of one cause beside all others, and each group's own survival and incidence before and after a time."""

    at_risk: Array
    cause: Array
    others: Array
    survival_before: Array
    survival: Array
    incidence_before: Array

    @property
    def weight(self) -> Array:
        """Patients at risk, as many as there would be had only censoring taken any away."""
        return np.where(self.at_risk > 0, self.at_risk / np.where(self.at_risk > 0, self.survival_before, 1), 0.0)


def gray(table: RiskTable, *, cause: int) -> Test:
    """Test equality of the cumulative incidence of a cause (counted from 0) over all groups of the table."""
    groups = _groups(table, cause=cause)
    weight, dead = groups.weight, groups.cause.sum(axis=1)
    total = weight.sum(axis=1)
    exposed = weight * (1 - groups.incidence_before)
    together = exposed.sum(axis=1, keepdims=True)
    expected = dead @ np.divide(exposed, together, out=np.zeros_like(exposed), where=together > 1e-12)
    score = groups.cause.sum(axis=0) - expected
    pooled = np.cumsum(dead / total)
    covariance = _covariance(groups, dead=dead, total=total, pooled=pooled)
    return chi_squared(score @ np.linalg.pinv(covariance, hermitian=True) @ score, len(score) - 1)


def _groups(table: RiskTable, *, cause: int) -> _Groups:
    some = (table.events.sum(axis=(0, 2)) > 0) & (table.at_risk.sum(axis=1) > 0)
    at_risk, events = table.at_risk[some].astype(float), table.events[:, some].astype(float)
    safe = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events.sum(axis=0) / safe, axis=0)
    before = np.vstack([np.ones(at_risk.shape[1]), survival[:-1]])
    incidence = np.cumsum(before * events[cause] / safe, axis=0)
    incidence_before = np.vstack([np.zeros(at_risk.shape[1]), incidence[:-1]])
    others = events.sum(axis=0) - events[cause]
    return _Groups(at_risk, events[cause], others, before, survival, incidence_before)


def _covariance(groups: _Groups, *, dead: Array, total: Array, pooled: Array) -> Array:
    """Return the (groups, groups) covariance of the scores: martingale terms of the cause and of the others."""
    weight, alive = groups.weight, groups.survival > 0
    a = (
        np.einsum("tg,gh->tgh", weight, np.eye(weight.shape[1]))
        - weight[:, :, None] * weight[:, None] / total[:, None, None]
    )
    pooled_before = np.concatenate([[0.0], pooled[:-1]])
    exposed = total * (1 - pooled_before)
    rate = np.divide(dead, exposed, out=np.zeros_like(dead), where=exposed > 1e-12)  # 1e-12: everybody has had it
    c = np.cumsum(a * rate[:, None, None], axis=0)
    left = np.where(alive, (1 - pooled)[:, None] / np.where(alive, groups.survival, 1), 0.0)
    own = a + (1 - left)[:, None] * (c[-1] - c)
    other = left[:, None] * (c[-1] - c)
    spread_own, spread_other = _spread_own(groups, dead=dead, total=total), _spread_other(groups)
    covariance: Array = np.einsum("tik,tjk,tk->ij", own, own, spread_own)
    covariance += np.einsum("tik,tjk,tk->ij", other, other, spread_other)
    return covariance


def _spread_own(groups: _Groups, *, dead: Array, total: Array) -> Array:
    there = groups.at_risk > 0
    events, before = dead[:, None], groups.survival_before
    with np.errstate(divide="ignore", invalid="ignore"):
        ties = np.where(events > 1, 1 - (events - 1) / (total[:, None] * before - 1), 1.0)
        return np.where(there, ties * before * events / (total[:, None] * groups.at_risk), 0.0)


def _spread_other(groups: _Groups) -> Array:
    there = (groups.survival > 0) & (groups.others > 0)
    at_risk = np.where(there, groups.at_risk, 2)
    ties = np.where(groups.others > 1, 1 - (groups.others - 1) / (at_risk - 1), 1.0)
    return np.where(there, ties * groups.survival_before**2 * groups.others / at_risk**2, 0.0)


# Each scale runs from mildest to worst. A name matches when, freed of words such as 'stage' or 'risk', it is one of
# the spellings, or a spelling followed by a letter (IIIA, 2b).
_SCALES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("0",), ("i", "1"), ("ii", "2"), ("iii", "3"), ("iv", "4"), ("v", "5")),
    (("cr1",), ("cr2",), ("cr3",), ("relapse", "relapsed", "refractory")),
    (("chronic", "cp"), ("accelerated", "ap"), ("blast", "blastic", "bc")),
    (("verylow",), ("low", "favorable", "favourable", "good", "standard"), ("medium", "intermediate", "moderate"),
     ("high", "adverse", "poor", "unfavorable", "unfavourable"), ("veryhigh",)),
    (("early",), ("late", "advanced")),
    (("a",), ("b",), ("c",), ("d",)),
)  # fmt: skip
_FILLER = {"stage", "risk", "group", "grade", "phase", "class", "score", "disease", "crisis", "rai", "binet", "eln"}


def order_stages(names: Sequence[str], *, given: Sequence[str] = ()) -> tuple[tuple[str, ...], bool]:
    """Return the stages from mildest to worst, and whether that order is known (else they stand by name).

    Raises:
        CallError: the given order does not name exactly the stages that occur.
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
        raise CallError(
            f"--stage-order leaves out {listed(unplaced)}. Write every stage once, mildest first: "
            f'--stage-order "{"<".join(names)}".'
        )
    if len(set(given)) < len(given):
        raise CallError("--stage-order names a stage twice. Write every stage once, mildest first.")


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
        CallError: the cuts do not rise.
    """
    if list(cuts) != sorted(set(cuts)):
        raise CallError(f"--stage-cuts must rise: {', '.join(f'{cut:g}' for cut in sorted(set(cuts)))}.")
    names = cut_names(cuts, name=name)
    places = np.searchsorted(np.asarray(cuts, dtype=float), values, side="left")
    return ["" if np.isnan(value) else names[place] for value, place in zip(values, places, strict=True)]


def cut_names(cuts: Sequence[float], *, name: str) -> tuple[str, ...]:
    """Return the names of the groups between cuts, lowest first."""
    middle = [f"{low:g} < {name} ≤ {high:g}" for low, high in itertools.pairwise(cuts)]
    return (f"{name} ≤ {cuts[0]:g}", *middle, f"{name} > {cuts[-1]:g}")


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
