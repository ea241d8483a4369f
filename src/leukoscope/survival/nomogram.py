"""A nomogram: the model on one sheet of paper, by points that are added up and read off as a chance.

Source: Iasonos et al. (2008), doi 10.1200/JCO.2007.12.9791; nomogram of R's rms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cox import Design
from .curves import Array
from .horizons import Horizon
from .model import CauseModel, Term

_CHANCES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """One line of the sheet: labels and where they stand, in points."""

    name: str
    labels: tuple[str, ...]
    points: tuple[float, ...]


@dataclass(frozen=True)
class Nomogram:
    """One scale of points per column (the widest has 100), and for each horizon the chance by the total of points."""

    columns: tuple[Scale, ...]
    chances: tuple[Scale, ...]
    total: float


def nomogram(design: Design, model: CauseModel, *, horizons: Sequence[Horizon]) -> Nomogram | None:
    """Return the sheet of a model of one event; None where no single sheet can say it.

    That is so with a baseline per stratum, an effect that changes in time, or no effect at all.
    """
    if model.strata or not model.terms or any(term.period for term in model.terms):
        return None
    names = list(dict.fromkeys(term.column for term in model.terms))
    drawn = {name: _effects(design, model, name) for name in names}
    widest = max(float(np.ptp(effects)) for _, effects in drawn.values())
    if not widest > 0:
        return None
    unit = 100 / widest
    columns = tuple(
        Scale(name, labels, tuple(((effects - effects.min()) * unit).tolist()))
        for name, (labels, effects) in drawn.items()
    )
    least = sum(float(effects.min()) for _, effects in drawn.values())
    total = sum(float(np.ptp(effects)) for _, effects in drawn.values()) * unit
    found = [_chances(model, horizon, least=least, unit=unit, total=total) for horizon in horizons]
    return Nomogram(columns, tuple(scale for scale in found if scale.labels), total)


def _effects(design: Design, model: CauseModel, name: str) -> tuple[tuple[str, ...], Array]:
    """Return labelled values of a column and what each adds to the logarithm of the hazard, (values,)."""
    chosen = [(term, b) for term, b in zip(model.terms, model.coefficients, strict=True) if term.column == name]
    values = design.columns[name]
    if values.dtype.kind == "U":
        rest = [str(level) for level in np.unique(values) if level not in {term.level for term, _ in chosen}]
        levels = [" or ".join(rest), *(term.level for term, _ in chosen)]
        return tuple(levels), np.array([0.0, *(float(b) for _, b in chosen)])
    ticks = _round_values(values, logarithm="log(" in name)
    at = np.log(ticks) if "log(" in name else ticks
    return tuple(f"{tick:g}" for tick in ticks), _added(chosen, name, at)


def _added(chosen: Sequence[tuple[Term, float]], name: str, at: Array) -> Array:
    return np.asarray(sum(b * term.values({name: at}) for term, b in chosen))


def _round_values(values: Array, *, logarithm: bool) -> Array:
    """Return about six round numbers over the range of a column."""
    low, high = (float(edge) for edge in (values.min(), values.max()))
    if logarithm:
        low, high = float(np.exp(low)), float(np.exp(high))
        powers = np.array([m * 10.0**e for e in range(-6, 10) for m in (1, 2, 5)])
        within = powers[(powers >= low) & (powers <= high)]
        return within if len(within) > 1 else np.array([low, high])
    if high - low <= 1 and set(np.unique(values)) <= {0.0, 1.0}:
        return np.array([0.0, 1.0])
    power = 10 ** np.floor(np.log10((high - low) / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= _TICKS + 1)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return np.asarray(ticks if len(ticks) > 1 else np.array([low, high]))


def _chances(model: CauseModel, horizon: Horizon, *, least: float, unit: float, total: float) -> Scale:
    """Return at which total of points the chance of the event by a horizon is a round one."""
    baseline = model.baselines["all"]
    name = f"{model.event} by {horizon.words}, %"
    summed = float(baseline.hazard[baseline.times <= horizon.time].sum())
    if not summed > 0 or horizon.time > baseline.last:
        return Scale(name, (), ())
    at = [(np.log(-np.log1p(-chance) / summed) - least) * unit for chance in _CHANCES]
    kept = [(chance, points) for chance, points in zip(_CHANCES, at, strict=True) if 0 <= points <= total]
    return Scale(name, tuple(f"{100 * chance:g}" for chance, _ in kept), tuple(float(points) for _, points in kept))
