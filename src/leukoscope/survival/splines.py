"""Restricted cubic splines: a number's effect may bend between knots and is straight outside them.

Source: Stone and Koo (1985); Harrell (2015), Regression Modeling Strategies, section 2.4.5. Equal to rcs of R's rms.
"""

from collections.abc import Sequence

import numpy as np

from .curves import Array

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
