"""The cells of one field, judged: the one way for the command line, the reading room and Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..data.pack import in_parallel
from ..fields.cells import Field, FieldCell, find_cells
from ..fields.crops import cut_crop
from ..fields.extraction import field_normaliser
from ..fields.normalisation import DEFAULT_METHOD, RELEASE_STAIN, Normaliser, StainStatistics
from ..fields.planes import Pixels
from ..inference.bundle import Manifest
from ..inference.opinion import REFUSED, Opinion
from ..inference.predictor import Predictor

# Flag of a cell -> why it is not judged; the other flags leave the decision to the bundle's own gate.
NOT_JUDGED = {
    "cut off": "The border of the field cuts the cell off. Take a field that shows it whole.",
    "too large": "Larger than the frame of one cell: a clump of cells or stain.",
    "ragged": "Its outline is ragged: a smudged cell, a clump or a lump of stain, not one whole cell.",
}

# µm per pixel; 40x gives 0.25. At 0.46 the order of fields was chance (`benchmarks/other_laboratory.py`).
COARSEST = 0.30


@dataclass(frozen=True)
class JudgedCell:
    """One cell of a field and what the bundle says about it."""

    cell: FieldCell
    crop: Pixels  # (450, 450, 3): on black, at the scale and in the stain of the training cells
    opinion: Opinion


def judge_cells(
    field: Field,
    predictor: Predictor,
    *,
    cells: Sequence[FieldCell] | None = None,
    point: str = "balanced",
    method: str = DEFAULT_METHOD,
    source: StainStatistics | None = None,
    with_crops: bool = False,
) -> Iterator[JudgedCell]:
    """Yield every white cell of a field with its opinion, in reading order; memory does not grow with their number.

    cells: those of `find_cells`, if they are known already. method: 'none', 'reinhard' or 'macenko'. source: the
    stain of all fields like this one; without it that of the field alone.
    with_crops: each opinion carries the crop that the network saw, for its map to be laid over.
    """
    cells = find_cells(field) if cells is None else cells
    stain = field_normaliser(field, cells, method=method, source=source, target=stain_of(predictor.manifest))

    def judge(cell: FieldCell) -> JudgedCell:
        return judge_cell(field, cell, predictor, stain=stain, point=point, with_crop=with_crops)

    yield from in_parallel(judge, cells)


def judge_cell(
    field: Field,
    cell: FieldCell,
    predictor: Predictor,
    *,
    stain: Normaliser,
    point: str = "balanced",
    with_crop: bool = False,
) -> JudgedCell:
    """Judge one cell of a field; `stain` is the field's own, from `field_normaliser` over all its cells."""
    crop = stain(cut_crop(field, cell))
    opinion = judge_crop(
        crop, cell, predictor, um_per_px=field.scale.um_per_px, field=field.name, point=point, with_crop=with_crop
    )
    return JudgedCell(cell, crop, opinion)


def judge_crop(
    crop: Pixels, cell: FieldCell, predictor: Predictor, *, um_per_px: float, field: str, point: str, with_crop: bool
) -> Opinion:
    """Return the opinion on a cell that is cut out already; one not whole, or of too coarse a field, is refused unseen.

    um_per_px: of the field, as it was taken.
    """
    name = f"{field} cell {cell.number}"
    if reason := why_not_judged(cell, um_per_px=um_per_px):
        return Opinion(name, REFUSED, reason, crop=crop if with_crop else None)
    return predictor.opinion(crop, name=name, point=point, with_crop=with_crop)


def why_not_judged(cell: FieldCell, *, um_per_px: float) -> str:
    """Return why a cell is refused before the bundle sees it; empty when it is not."""
    if um_per_px > COARSEST:
        return (
            f"Too coarse: {um_per_px:.2g} µm per pixel shows no chromatin; {COARSEST:.2f} at most. "
            "Take the field with a stronger objective, or state its scale if this one is wrong."
        )
    return next((reason for flag, reason in NOT_JUDGED.items() if flag in cell.flags), "")


def stain_of(manifest: Manifest) -> StainStatistics:
    """Return the colours that a bundle's cells have: its own, or those of C-NMC 2019 where it states none."""
    return StainStatistics.from_json(manifest.stain) if manifest.stain else RELEASE_STAIN
