"""A fitted survival model as plain numbers: written and read as JSON, with predictions in numpy only.

Each cause of an event has a Cox model (cause-specific hazards). For one patient the sum of the hazards of all causes
gives survival, and each cause's share of the deaths gives its cumulative incidence, so the two always add to one.
Times are in the unit of the cohort. Intervals: delta method on the log(-log) scale, from the covariance of the
coefficients and the variance of the baseline hazard (Tsiatis 1981; Andersen et al. 1993, section VII.2).

Source: Stone and Koo (1985); Harrell (2015), Regression Modeling Strategies, section 2.4.5. Equal to rcs of R's rms.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from ..errors import DataError
from ..files import fingerprint, read_json, write_json
from .curves import Z95, Array, Curve, Interval, log_log_band, thinned

# Harrell's places of the knots, as quantiles of the values.
_PLACES = {3: (0.1, 0.5, 0.9), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.5, 0.725, 0.95)}


def knots_of(values: Array, *, count: int = 4) -> tuple[float, ...]:
    """Return the knots for some values; fewer where quantiles coincide, none where the values cannot bend."""
    for number in range(count, 2, -1):
        knots = np.quantile(values, _PLACES[number])
        if len(np.unique(knots)) == number and len(np.unique(values)) > number:
            return tuple(float(knot) for knot in knots)
    return ()


def spline_basis(values: Array, knots: Sequence[float]) -> Array:
    """Return the values and their bends, (values, knots - 1); each bend in units of the first column."""
    first, last = knots[0], knots[-1]
    bends = [_bend(values, knots, place) / (last - first) ** 2 for place in range(len(knots) - 2)]
    return np.column_stack([values, *bends])


def _bend(values: Array, knots: Sequence[float], place: int) -> Array:
    *_, before, last = knots
    knot = knots[place]
    cube = [np.maximum(values - where, 0) ** 3 for where in (knot, before, last)]
    return np.asarray(cube[0] - cube[1] * (last - knot) / (last - before) + cube[2] * (before - knot) / (last - before))


FORMAT = 1
_MOST_STEPS = 20_000
_LARGEST = 300.0  # logarithm of a hazard ratio; a single vast covariate gets there, and its chance is 0 or 1
_ROWS_AT_ONCE = 1000  # keeps (rows, times) arrays at a few megabytes


@dataclass(frozen=True)
class Term:
    """One coefficient's column: a number (or its bend) less its centre, or 1 where a category has a level.

    `bend` counts the bends of a restricted cubic spline with `knots`; -1 is the number itself. With a `split`, the
    coefficient holds only until (period early) or after (late) that time.
    """

    name: str
    column: str
    level: str = ""
    centre: float = 0.0
    period: str = ""
    split: float = 0.0
    knots: tuple[float, ...] = ()
    bend: int = -1

    def values(self, columns: Mapping[str, Array]) -> Array:
        """Return the term for every patient, (patients,)."""
        values = columns[self.column]
        if self.level:
            return np.asarray((values == self.level).astype(float))
        numbers = values.astype(float)
        return (numbers if self.bend < 0 else spline_basis(numbers, self.knots)[:, self.bend + 1]) - self.centre

    def active(self, times: Array) -> Array:
        """Return 1 where the coefficient holds and 0 elsewhere, (times,)."""
        if not self.period:
            return np.ones(len(times))
        early = times <= self.split
        return (early if self.period == "early" else ~early).astype(float)


def term_of(raw: Mapping[str, Any]) -> Term:
    """Return a term as it is written in a file; files of the first versions know no bends."""
    return Term(**{**raw, "knots": tuple(raw.get("knots", ()))})


def term_matrix(terms: Sequence[Term], columns: Mapping[str, Array], *, patients: int) -> Array:
    """Return the design, (patients, terms)."""
    return np.column_stack([term.values(columns) for term in terms]) if terms else np.zeros((patients, 0))


@dataclass(frozen=True)
class Baseline:
    """Hazard of a patient whose terms are all zero: increments, their variance, and the mean terms of those at risk.

    times, hazard, variance: (times,); means: (times, terms). Nothing is known after `last`.
    """

    times: Array
    hazard: Array
    variance: Array
    means: Array
    last: float


@dataclass(frozen=True)
class CauseModel:
    """Cox model of one cause. `baselines` has one entry per combination of the columns in `strata`."""

    event: str
    terms: tuple[Term, ...]
    coefficients: Array
    covariance: Array
    baselines: dict[str, Baseline]
    strata: tuple[str, ...] = ()
    penalty: float = 0.0

    def stratum(self, columns: Mapping[str, Array], *, patients: int) -> Array:
        """Return the name of each patient's baseline, (patients,)."""
        return stratum_names(self.strata, columns, patients=patients)


def stratum_names(strata: Sequence[str], columns: Mapping[str, Array], *, patients: int) -> Array:
    """Join the values of some columns into one name per patient; 'all' without columns."""
    if not strata:
        return np.full(patients, "all")
    return np.array([" · ".join(map(str, row)) for row in zip(*(columns[name] for name in strata), strict=True)])


@dataclass(frozen=True)
class ColumnFacts:
    """What the model saw of one covariate: `low`, `high`, `mean` of a number, or the `levels` of a category."""

    name: str
    source: str
    levels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0

    @property
    def logarithm(self) -> bool:
        """Whether the model uses the logarithm of what a person states."""
        return "log(" in self.name


@dataclass(frozen=True)
class SurvivalModel:
    """Everything a prediction needs. Without `causes` (too few events) it answers with the curves of the stages.

    `stage_curves`: for each stage, survival under the name 'survival' and the incidence of each event under its name.
    `columns`: the covariates needed for a prediction; `left_out`: those that could not be fitted.
    `followed`: for each stage, `times`, how many patients' course was `known` up to then (see `known_until`), and their
    number where all `had` the first event by then (see `all_had`).
    """

    unit: str
    events: tuple[str, ...]
    stage_column: str
    stages: tuple[str, ...]
    stage_curves: dict[str, dict[str, Curve]]
    followed: dict[str, dict[str, Array]] = field(default_factory=dict)
    stage_cuts: tuple[float, ...] = ()
    columns: tuple[ColumnFacts, ...] = ()
    left_out: tuple[str, ...] = ()
    causes: tuple[CauseModel, ...] = ()
    unmodelled: dict[str, str] = field(default_factory=dict)
    horizons: tuple[tuple[float, str], ...] = ()
    extrapolation: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def known_until(self, stage: str, when: float) -> int:
        """Return of how many patients of a stage it is known whether they had the first event by a time."""
        followed = self.followed.get(stage, {"times": np.zeros(0), "known": np.zeros(0)})
        place = int(np.searchsorted(followed["times"], when))  # the next later time: rather too few than too many
        return int(followed["known"][place]) if place < len(followed["known"]) else 0

    def all_had(self, stage: str, when: float) -> int:
        """Return the number of patients of a stage if all of them had the first event by a time, else 0."""
        followed = self.followed.get(stage, {})
        had = followed.get("had", np.zeros(0))  # files of the first version lack it
        place = int(np.searchsorted(followed["times"], when, side="right")) - 1 if len(had) else -1
        return int(had[place]) if place >= 0 else 0

    def incidence(self, columns: Mapping[str, Array], times: Array) -> Array:
        """Return each patient's cumulative incidence of each event, (events, patients, times); NaN past the data."""
        patients = len(columns[self.stage_column])
        parts = [
            self._incidence_rows(
                {name: values[first : first + _ROWS_AT_ONCE] for name, values in columns.items()}, times
            )
            for first in range(0, patients, _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts, axis=1)

    def _incidence_rows(self, columns: Mapping[str, Array], times: Array) -> Array:
        patients = len(columns[self.stage_column])
        result = np.full((len(self.events), patients, len(times)), np.nan)
        strata = np.stack([cause.stratum(columns, patients=patients) for cause in self.causes])
        for names in sorted(set(zip(*strata.tolist(), strict=True))):
            rows = np.flatnonzero((strata == np.array(names)[:, None]).all(axis=0))
            chosen = {name: values[rows] for name, values in columns.items()}
            if len(self.causes) == 1:  # no other event to share with, so no path through all times is needed
                result[0, rows] = _single(self.causes[0], names[0], chosen, patients=len(rows), times=times)
            else:
                result[:, rows] = _sampled(_paths(self.causes, names, chosen, patients=len(rows)), times)
        return result


def _single(cause: CauseModel, stratum: str, columns: Mapping[str, Array], *, patients: int, times: Array) -> Array:
    """Return 1 - exp(-hazard summed to each time), (patients, times); NaN past the last follow-up."""
    baseline = cause.baselines[stratum]
    matrix = term_matrix(cause.terms, columns, patients=patients)
    places = np.searchsorted(baseline.times, times, side="right")
    holds = np.column_stack(
        [term.active(baseline.times) for term in cause.terms] or [np.zeros((len(baseline.times), 0))]
    )
    hazard = np.zeros((patients, len(times)))
    for active in np.unique(holds, axis=0):
        here = (holds == active).all(axis=1)
        summed = np.concatenate([[0.0], np.cumsum(np.where(here, baseline.hazard, 0.0))])
        hazard += _relative(matrix @ (cause.coefficients * active))[:, None] * summed[places]
    return np.asarray(np.where(times > baseline.last, np.nan, -np.expm1(-hazard)))


def _relative(eta: Array) -> Array:
    """Return the hazard ratio to the mean patient; one beyond all numbers is held where its square is still finite."""
    return np.asarray(np.exp(np.clip(eta, -_LARGEST, _LARGEST)))


@dataclass(frozen=True)
class Paths:
    """Hazards of patients who share their baselines, on the union of all event times.

    hazard: (events, patients, times) increments; variance: the same, of the baseline's noise;
    means: per event (times, terms); active: per event (times, terms).
    """

    times: Array
    hazard: Array
    variance: Array
    means: list[Array]
    active: list[Array]
    design: list[Array]
    last: float

    @property
    def survival(self) -> Array:
        """Chance to be free of every event just after each time, (patients, times)."""
        return np.asarray(np.exp(-np.cumsum(self.hazard.sum(axis=0), axis=-1)))

    @property
    def incidence(self) -> Array:
        """Chance to have had each event by each time, (events, patients, times)."""
        survival = self.survival
        before = np.concatenate([np.ones((len(survival), 1)), survival[:, :-1]], axis=1)
        total = self.hazard.sum(axis=0)
        share = np.divide(self.hazard, total, out=np.zeros_like(self.hazard), where=total > 0)
        return np.asarray(np.cumsum(share * (before - survival), axis=-1))


def _paths(
    causes: Sequence[CauseModel], strata: Sequence[str], columns: Mapping[str, Array], *, patients: int
) -> Paths:
    baselines = [cause.baselines[name] for cause, name in zip(causes, strata, strict=True)]
    times = np.unique(np.concatenate([baseline.times for baseline in baselines]))
    hazard, variance, means, active, design = [], [], [], [], []
    for cause, baseline in zip(causes, baselines, strict=True):
        places = np.searchsorted(times, baseline.times)
        matrix = term_matrix(cause.terms, columns, patients=patients)
        holds = np.column_stack([term.active(times) for term in cause.terms] or [np.zeros((len(times), 0))])
        relative = _relative(matrix @ (cause.coefficients[:, None] * holds.T))
        hazard.append(relative * _spread(baseline.hazard, places, len(times)))
        variance.append(relative**2 * _spread(baseline.variance, places, len(times)))
        means.append(_spread(baseline.means, places, len(times)))
        active.append(holds)
        design.append(matrix)
    last = min(baseline.last for baseline in baselines)
    return Paths(times, np.stack(hazard), np.stack(variance), means, active, design, last)


def _spread(values: Array, places: Array, length: int) -> Array:
    """Set values at their places on a longer grid of times, zero between them."""
    spread = np.zeros((length, *values.shape[1:]))
    spread[places] = values
    return spread


def _sampled(paths: Paths, times: Array) -> Array:
    """Read step functions at given times; NaN past the last follow-up."""
    incidence = paths.incidence
    padded = np.concatenate([np.zeros((*incidence.shape[:2], 1)), incidence], axis=-1)
    values: Array = padded[:, :, np.searchsorted(paths.times, times, side="right")]
    return np.where(times > paths.last, np.nan, values)


def patient_curves(
    model: SurvivalModel, columns: Mapping[str, Array], *, points: int = 200, at: Sequence[float] = ()
) -> dict[str, Curve]:
    """Return one patient's survival and cumulative incidences with 95 % bands, under the names of `stage_curves`.

    `columns` hold one value each. The curves are kept at up to `points` times, for drawing, and beside these at the
    steps that hold at the times `at` and at those where survival or a limit passes one half, so that what is read
    there is exact.
    """
    strata = [str(cause.stratum(columns, patients=1)[0]) for cause in model.causes]
    paths = _paths(model.causes, strata, columns, patients=1)
    survival, incidence = paths.survival[0], paths.incidence[:, 0]
    kept = np.unique(np.linspace(0, len(paths.times) - 1, min(points, len(paths.times))).round().astype(int))
    requested = np.searchsorted(paths.times, np.asarray(at, dtype=float), side="right") - 1
    kept = np.unique(np.concatenate([kept, requested[requested >= 0]])).astype(int)
    kept = np.union1d(kept, _about_half(_survival_curve(model, paths, survival, kept), kept))
    curves = {"survival": _survival_curve(model, paths, survival, kept)}
    for index, event in enumerate(model.events):
        error = _errors(model, paths, survival, incidence[index], own=index, kept=kept)
        low, high = log_log_band(incidence[index, kept], error)
        curves[event] = Curve(paths.times[kept], incidence[index, kept], low, high, error**2, paths.last, start=0.0)
    return curves


def _about_half(curve: Curve, kept: Array) -> Array:
    """Return all steps between the kept ones among which survival, or a limit of it, passes one half."""
    found = [np.zeros(0, dtype=int)]
    for side in (curve.value, curve.low, curve.high):
        below = np.flatnonzero(side <= 0.5 + 1e-6)
        if len(below):
            first, last = max(below[0] - 1, 0), min(below[0] + 1, len(kept) - 1)
            found.append(np.arange(kept[first] if below[0] else 0, kept[last] + 1))
    return np.concatenate(found)


def _survival_curve(model: SurvivalModel, paths: Paths, survival: Array, kept: Array) -> Curve:
    error = _errors(model, paths, survival, 1 - survival, own=None, kept=kept)
    low, high = log_log_band(1 - survival[kept], error)
    return Curve(paths.times[kept], survival[kept], 1 - high, 1 - low, error**2, paths.last)


def _errors(
    model: SurvivalModel, paths: Paths, survival: Array, incidence: Array, *, own: int | None, kept: Array
) -> Array:
    """Return standard errors of an incidence at the kept times; `own` None means any event.

    A disturbance of one cause's hazard at u moves F(t) by S(u) where the cause is F's own, less what it keeps from
    happening later, F(t) - F(u).
    """
    errors = np.empty(len(kept))
    for place, end in enumerate(kept):
        upto = slice(0, end + 1)
        later = incidence[end] - incidence[upto]
        variance = 0.0
        for index, cause in enumerate(model.causes):
            influence = (survival[upto] if own in (None, index) else 0.0) - later
            variance += float(influence**2 @ paths.variance[index, 0, upto])
            distance = paths.design[index] * paths.active[index][upto] - paths.means[index][upto]
            gradient = (influence * paths.hazard[index, 0, upto]) @ distance
            variance += float(gradient @ cause.covariance @ gradient)
        errors[place] = np.sqrt(variance)
    return errors


def extrapolated_survival(fit: Mapping[str, Any], columns: Mapping[str, Array], when: float) -> Interval:
    """Return one patient's survival at a time with its 95 % interval (delta method on the scale of z)."""
    terms = [term_of(term) for term in fit["terms"]]
    row = np.concatenate([[1.0], term_matrix(terms, columns, patients=1)[0]])
    *location, shape = fit["parameters"]
    slope = math.exp(fit["power"] * shape)
    z = (math.log(when) - row @ np.array(location)) * slope
    gradient = np.concatenate([-slope * row, [fit["power"] * z]])
    width = Z95 * math.sqrt(gradient @ np.array(fit["covariance"]) @ gradient)
    value, low, high = (_tail(fit["family"], place) for place in (z, z + width, z - width))
    return Interval(value, low, high)


def _tail(family: str, z: float) -> float:
    if family == "log-normal":
        return float(ndtr(-z))
    if family == "log-logistic":
        return float(1 / (1 + np.exp(z)))
    return float(np.exp(-np.exp(z)))


def write_model(path: Path, model: SurvivalModel) -> None:
    """Write a model as JSON, under a seal over all of it.

    Beyond 20,000 different times the steps of a baseline hazard are joined to so many (its sum at the joins stays
    exact), and the curves of stages that the model covers, which are only drawn, are thinned.
    """
    table = {"format": FORMAT, "what": "leukoscope survival model, research use only", **_plain(_compact(model))}
    table = json.loads(json.dumps(table))  # as it will be read
    write_json(path, table | {"seal": fingerprint(table)})


def _compact(model: SurvivalModel) -> SurvivalModel:
    covered = {stage for stage in model.stage_curves if model.causes and stage not in model.unmodelled}
    curves = {
        stage: {name: thinned(curve) if stage in covered else curve for name, curve in found.items()}
        for stage, found in model.stage_curves.items()
    }
    causes = tuple(
        replace(cause, baselines={name: _joined(one) for name, one in cause.baselines.items()})
        for cause in model.causes
    )
    return replace(model, stage_curves=curves, causes=causes)


def _joined(baseline: Baseline) -> Baseline:
    """Join the steps of a baseline with very many times."""
    if len(baseline.times) <= _MOST_STEPS:
        return baseline
    ends = np.unique(np.linspace(0, len(baseline.times) - 1, _MOST_STEPS).round().astype(int))
    firsts = np.concatenate([[0], ends[:-1] + 1])
    hazard, variance = (np.add.reduceat(values, firsts) for values in (baseline.hazard, baseline.variance))
    means = np.add.reduceat(baseline.hazard[:, None] * baseline.means, firsts) / hazard[:, None]
    return Baseline(baseline.times[ends], hazard, variance, means, baseline.last)


def _plain(value: Any) -> Any:
    """Turn dataclasses and arrays into what JSON knows; an endless time becomes null."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.kind in "iub" or np.isfinite(value).all() else _plain(value.tolist())
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def read_model(path: Path) -> SurvivalModel:
    """Read a model (the file, or the folder that `survival fit` wrote).

    Raises:
        DataError: no model there, a damaged or changed one, or one of a newer version.
    """
    path = path / "model.json" if path.is_dir() else path
    raw = read_json(path)
    try:
        if raw["format"] > FORMAT:
            raise DataError(f"{path} was written by a newer leukoscope. Update leukoscope, or fit the model again.")
        if raw["seal"] != fingerprint({name: value for name, value in raw.items() if name != "seal"}):
            raise DataError(f"{path} was changed or damaged since it was fitted. Copy it again, or fit it again.")
        return _model_of(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as damaged:
        raise DataError(f"{path} is not a whole survival model ({damaged!r}). Fit it again.") from None


def _model_of(raw: Mapping[str, Any]) -> SurvivalModel:
    return SurvivalModel(
        unit=raw["unit"],
        events=tuple(raw["events"]),
        stage_column=raw["stage_column"],
        stages=tuple(raw["stages"]),
        stage_curves={
            stage: {name: _curve_of(curve) for name, curve in curves.items()}
            for stage, curves in raw["stage_curves"].items()
        },
        followed={
            stage: {name: np.array(values, dtype=float) for name, values in found.items()}
            for stage, found in raw.get("followed", {}).items()  # files of the first version lack it
        },
        stage_cuts=tuple(raw["stage_cuts"]),
        columns=tuple(ColumnFacts(**{**facts, "levels": tuple(facts["levels"])}) for facts in raw["columns"]),
        left_out=tuple(raw.get("left_out", ())),  # files of the first version lack it
        causes=tuple(map(_cause_of, raw["causes"])),
        unmodelled=raw["unmodelled"],
        horizons=tuple(starmap(lambda time, words: (time, words), raw["horizons"])),
        extrapolation=raw["extrapolation"],
        facts=raw["facts"],
    )


def _curve_of(raw: Mapping[str, Any]) -> Curve:
    arrays = {name: np.array(raw[name], dtype=float) for name in ("times", "value", "low", "high", "variance")}
    return Curve(**arrays, last=raw["last"], start=raw["start"])


def _cause_of(raw: Mapping[str, Any]) -> CauseModel:
    terms = tuple(term_of(term) for term in raw["terms"])
    return CauseModel(
        event=raw["event"],
        terms=terms,
        strata=tuple(raw["strata"]),
        penalty=raw["penalty"],
        coefficients=np.array(raw["coefficients"], dtype=float),
        covariance=np.array(raw["covariance"], dtype=float).reshape(len(terms), len(terms)),
        baselines={name: _baseline_of(baseline, len(terms)) for name, baseline in raw["baselines"].items()},
    )


def _baseline_of(raw: Mapping[str, Any], terms: int) -> Baseline:
    arrays = {name: np.array(raw[name], dtype=float) for name in ("times", "hazard", "variance")}
    return Baseline(**arrays, means=np.array(raw["means"], dtype=float).reshape(-1, terms), last=raw["last"])
