"""Red cells and platelets over the fields of a call: counts, ratios, an estimate per litre, and the size of red cells.

Fields, not cells, are what was drawn from a smear, so intervals are over fields: of a ratio of two sums by its
linearised variance (Cochran, Sampling Techniques, 3rd ed., 1977, ch. 6), of a mean the same, both with Student's t. One
field gives none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..interop.hl7 import Observation
from .cell_types import ORDER, kind_of

if TYPE_CHECKING:
    from ..fields.blood_count import BloodCount
    from .fields import JudgedCell

FEWEST_RED_CELLS = 50
"""Red cells below which their size is not reported."""
MEASURED = {"red cells": (0.9, 0.47), "platelets": (0.86, 0.73)}
"""Recall and precision against the boxes of BCCD at IoU .5, as docs/benchmarks/blood-count.json has them."""


@dataclass(frozen=True)
class RateEstimate:
    """A number with its 95 % interval over fields; no interval for one field."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FieldCount:
    """One field in numbers."""

    red_cells: int
    platelets: int
    clumped: int
    """Platelets that lie in clumps, and what is as large as a clump."""
    white: int
    """White cells that were classified."""
    diameters_um: tuple[float, ...] = ()
    """Of whole red cells, where the scale is stated."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "red_cells": self.red_cells,
            "platelets": self.platelets,
            "platelets_clumped": self.clumped,
            "red_cell_um": _rounded(np.mean(self.diameters_um)) if self.diameters_um else None,
            "red_cell_um_sd": _rounded(np.std(self.diameters_um, ddof=1)) if len(self.diameters_um) > 1 else None,
        }


@dataclass(frozen=True)
class BloodSummary:
    """What all fields show beside white cells."""

    fields: int
    red_cells: int
    platelets: int
    clumped: int
    red_cells_per_field: RateEstimate
    platelets_per_field: RateEstimate
    platelets_per_100_red_cells: RateEstimate | None
    """None without red cells."""
    platelets_per_white_cell: RateEstimate | None
    """None without white cells that were classified."""
    platelets_e9_per_l: RateEstimate | None
    """Platelets in 10⁹ per litre; None where the user gives no factor."""
    red_cell_um: RateEstimate | None
    """Mean diameter in µm; None without a stated scale, or with few red cells."""
    red_cell_um_sd: float | None
    """Standard deviation of the diameter over red cells: anisocytosis."""
    sentences: tuple[str, ...]
    """All of it in sentences."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"said" if name == "sentences" else name: value for name, value in asdict(self).items()}

    def rows(self) -> list[Observation]:
        """Return each number with its unit (UCUM) and interval, as tables and a hospital's systems take them."""
        counts = [
            Observation("fields counted", self.fields, "{fields}"),
            Observation("red cells in fields", self.red_cells, "{cells}"),
            Observation("platelets in fields", self.platelets, "{cells}"),
            Observation("clumped platelets in fields", self.clumped, "{cells}"),
        ]
        estimates = [(name, getattr(self, field), unit) for name, field, unit in _ROWS]
        found = [
            Observation(name, each.value, unit, each.low, each.high)
            for name, each, unit in estimates
            if each is not None
        ]
        spread = self.red_cell_um_sd
        return counts + found + ([Observation(SPREAD, spread, "um")] if spread is not None else [])


_ROWS = (
    ("red cells per field", "red_cells_per_field", "{cells}/{field}"),
    ("platelets per field", "platelets_per_field", "{cells}/{field}"),
    ("platelets per 100 red cells", "platelets_per_100_red_cells", "/100{RBC}"),
    ("platelets per white cell", "platelets_per_white_cell", "{ratio}"),
    ("estimated platelets", "platelets_e9_per_l", "10*9/L"),
    ("red cell diameter", "red_cell_um", "um"),
)
SPREAD = "standard deviation of red cell diameter"


def field_count(counted: "BloodCount") -> FieldCount:
    """Return what was found in one field in numbers; `with_cells` adds its white cells."""
    diameters = tuple(round(each, 2) for each in counted.diameters_um)
    return FieldCount(len(counted.red_cells), len(counted.platelets), counted.clumped, 0, diameters)


def counts_of(counted: "Sequence[BloodCount]", judged: "Sequence[JudgedCell]", *, positive: str) -> list[FieldCount]:
    """Return what was found in a field, or in each window of a slide, beside the cells that were judged there.

    positive: the class of blasts.
    """
    kinds = [(judged_cell.cell.centre, kind_of(judged_cell.opinion, positive=positive)) for judged_cell in judged]
    found = []
    for each in counted:
        own = [kind for middle, kind in kinds if each.area is None or _lies_in(middle, each.area)]
        white, large = sum(kind in ORDER for kind in own), own.count("platelet")
        found.append(with_cells(field_count(each), white=white, large=large))
    return found


def _lies_in(middle: tuple[float, float], area: tuple[int, int, int, int]) -> bool:
    return area[0] <= middle[0] < area[2] and area[1] <= middle[1] < area[3]


def sum_counts(counts: Sequence[FieldCount]) -> FieldCount | None:
    """Return the sum of the counts of a slide's windows; None without any."""
    if not counts:
        return None
    red, platelets, clumped, white = (
        sum(getattr(each, name) for each in counts) for name in ("red_cells", "platelets", "clumped", "white")
    )
    return FieldCount(red, platelets, clumped, white, tuple(size for each in counts for size in each.diameters_um))


def with_cells(found: FieldCount, *, white: int, large: int) -> FieldCount:
    """Return the same beside the cells of the field.

    white: those that were classified. large: those called platelet, which are clumps or giant platelets.
    """
    return replace(found, white=white, platelets=found.platelets + large, clumped=found.clumped + large)


def summary_of(fields: Sequence[FieldCount], *, factor: float | None = None) -> BloodSummary | None:
    """Return what some fields show in total; None without any.

    factor: platelets in 10⁹ per litre for one platelet in a field, as the laboratory found it for its microscope.
    """
    if not fields:
        return None
    red, platelets, white = (
        np.array([getattr(each, name) for each in fields], float) for name in ("red_cells", "platelets", "white")
    )
    sizes = [np.array(each.diameters_um) for each in fields if each.diameters_um]
    enough = sum(map(len, sizes)) >= FEWEST_RED_CELLS
    found = BloodSummary(
        fields=len(fields),
        red_cells=int(red.sum()),
        platelets=int(platelets.sum()),
        clumped=sum(each.clumped for each in fields),
        red_cells_per_field=ratio(red, np.ones(len(fields))),
        platelets_per_field=ratio(platelets, np.ones(len(fields))),
        platelets_per_100_red_cells=ratio(platelets, red, times=100) if red.any() else None,
        platelets_per_white_cell=ratio(platelets, white) if white.any() else None,
        platelets_e9_per_l=ratio(platelets, np.ones(len(fields)), times=factor) if factor else None,
        red_cell_um=ratio([each.sum() for each in sizes], [len(each) for each in sizes]) if enough else None,
        red_cell_um_sd=_rounded(np.std(np.concatenate(sizes), ddof=1)) if enough else None,
        sentences=(),
    )
    return replace(found, sentences=_sentences(found))


def ratio(above: Sequence[float] | Any, below: Sequence[float] | Any, *, times: float = 1.0) -> RateEstimate:
    """Return the ratio of two sums over fields times a factor, with its 95 % interval.

    Where nothing was counted above, fields do not differ, and the upper end is that of a Poisson count of none.

    >>> ratio([2, 4, 3], [1, 1, 1]), ratio([0, 0, 0], [10, 12, 8], times=100)
    (RateEstimate(value=3.0, low=0.516, high=5.484), RateEstimate(value=0.0, low=0.0, high=12.296))
    >>> ratio([2, 4], [1, 1]), ratio([2], [1])
    (RateEstimate(value=3.0, low=0.0, high=15.706), RateEstimate(value=2.0, low=None, high=None))
    """
    from scipy import stats  # a first answer should not wait for SciPy

    above, below = np.asarray(above, float), np.asarray(below, float) / times
    value, count = float(above.sum() / below.sum()), len(above)
    if count < 2:
        return RateEstimate(_rounded(value))
    if not above.any():
        return RateEstimate(0.0, 0.0, _rounded(_MOST_OF_NONE / below.sum()))
    error = np.sqrt(count / (count - 1) * np.square(above - value * below).sum()) / below.sum()
    reach = float(stats.t.ppf(0.975, count - 1) * error)
    return RateEstimate(_rounded(value), _rounded(max(0.0, value - reach)), _rounded(value + reach))


_MOST_OF_NONE = (
    3.688879454113936  # -ln .025, the upper 95 % limit of a count of none (Garwood, Biometrika 1936; 28: 437)
)


def _rounded(value: Any) -> float:
    return round(float(value), 3)


def _sentences(found: BloodSummary) -> tuple[str, ...]:
    fields = f"{found.fields:,} field{'s' * (found.fields != 1)}"
    lines = [
        f"{found.red_cells:,} red cells and {found.platelets:,} platelets in {fields}: "
        f"{_shown(found.platelets_per_field)} platelets in a field."
    ]
    ratios = {"100 red cells": found.platelets_per_100_red_cells, "white cell": found.platelets_per_white_cell}
    if there := [f"{_shown(each)} per {name}" for name, each in ratios.items() if each is not None]:
        lines.append(f"Platelets: {', '.join(there)}.")
    if found.clumped:
        lines.append(
            f"{found.clumped:,} of them in clumps or as large as a clump, so there are more than were counted."
        )
    if found.platelets_e9_per_l is not None:
        lines.append(f"With the factor given, platelets are about {_shown(found.platelets_e9_per_l)} × 10⁹ per litre.")
    if found.red_cell_um is not None:
        size = f"{_shown(found.red_cell_um, digits=2)} µm across, standard deviation {found.red_cell_um_sd:.2f} µm"
        lines.append(f"Red cells are {size} (dried and flat in the smear).")
    return (*lines, _ERRORS)


_ERRORS = (
    "Accuracy: of the cells annotated in 275 fields of one laboratory the program found "
    + " and ".join(f"{100 * recall:.0f} % of the {kind}" for kind, (recall, _) in MEASURED.items())
    + "; of those it found, the annotations contain "
    + " and ".join(f"{100 * precision:.0f} % of the {kind}" for kind, (_, precision) in MEASURED.items())
    + ", but not all cells had been annotated."
)


def _shown(each: RateEstimate, *, digits: int = 1) -> str:
    """Return a number with its interval in words, such as '3.1 (2.0 to 4.2)'."""
    value = f"{each.value:.{digits}f}"
    ends = (each.low, each.high)
    return value if None in ends else f"{value} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"
