"""The cells of one field, judged: the one way for the command line, the reading room and Python."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..bundle.manifest import NOT_ASKED, REFUSED, Manifest
from ..fields.blood_count import BloodCount, count_blood
from ..fields.cells import Field, FieldCell, draw_marks, draw_outlines, find_cells
from ..fields.crops import crop_of_frame, cut_crop, frame, granule_colours, table_of_field
from ..fields.extraction import (
    FieldOptions,
    SharedScales,
    SharedStains,
    field_normaliser,
    field_problem,
    opener_of,
    slide_problem,
    small_field,
)
from ..fields.images import Pixels
from ..fields.scale import Scale
from ..fields.slides import Open, SlideResult, count_slide, extract_slide
from ..fields.stain import DEFAULT_METHOD, RELEASE_STAIN, Normaliser, StainStatistics
from ..images.crop import ColourTable
from ..images.read import read_image
from ..interop.dicom import DicomImage, is_dicom
from ..progress import in_parallel
from .cell_types import TypeOpinion, by_granules, require_round_nucleus
from .opinions import Opinion
from .predictor import Predictor

# Flag of a cell -> why it is not judged; the other flags leave the decision to the bundle's own rules.
NOT_JUDGED = {
    "cut off": "The cell is cut off by the border of the field. Use a field that shows all of it.",
    "too large": "Larger than the frame of one cell: a clump of cells or stain.",
    "ragged": "Its outline is ragged: a smudged cell, a clump or a stain precipitate, not one intact cell.",
}

SMUDGE = "smudge"
"""In place of a type where a cell's outline is ragged."""

# µm per pixel; 40x gives 0.25. At 0.46 the order of fields was chance (`benchmarks/other_laboratory.py`).
COARSEST = 0.30


@dataclass(frozen=True)
class JudgedCell:
    """One cell of a field and its opinion."""

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
    colours = table_of_field(field) if predictor.typer and cells else None

    def judge(cell: FieldCell) -> JudgedCell:
        return judge_cell(field, cell, predictor, stain=stain, point=point, with_crop=with_crops, colours=colours)

    yield from in_parallel(judge, cells)


def judge_cell(
    field: Field,
    cell: FieldCell,
    predictor: Predictor,
    *,
    stain: Normaliser,
    point: str = "balanced",
    with_crop: bool = False,
    colours: ColourTable | None = None,
) -> JudgedCell:
    """Judge one cell of a field; `stain` is the field's own, from `field_normaliser` over all its cells.

    colours: what brings the field to the colours of types, from `table_of_field`, where several cells share it.
    """
    crop = stain(cut_crop(field, cell))

    def for_type() -> Pixels:
        return crop_of_frame(*frame(field, cell), table_of_field(field) if colours is None else colours)

    opinion = judge_crop(
        crop,
        cell,
        predictor,
        um_per_px=field.scale.um_per_px,
        field=field.name,
        point=point,
        with_crop=with_crop,
        for_type=for_type,
    )
    return JudgedCell(cell, crop, opinion)


def judge_crop(
    crop: Pixels,
    cell: FieldCell,
    predictor: Predictor,
    *,
    um_per_px: float,
    field: str,
    point: str,
    with_crop: bool,
    for_type: Callable[[], Pixels],
) -> Opinion:
    """Return the opinion on a cell that is cut out already; one not whole, or of too coarse a field, is refused unseen.

    um_per_px: of the field, as it was taken. for_type: returns the crop for the classification of the type, if needed.
    """
    name = f"{field} cell {cell.number}"
    if reason := why_not_judged(cell, um_per_px=um_per_px):
        smudge = SMUDGE if predictor.typer and reason == NOT_JUDGED["ragged"] else ""
        return Opinion(name, REFUSED, reason, crop=crop if with_crop else None, type=smudge)
    seen = for_type() if predictor.typer else crop
    typed: TypeOpinion | None = predictor.typer.classify([seen])[0] if predictor.typer else None
    if typed is not None:
        typed = by_granules(typed, partial(granule_colours, seen))
        typed = require_round_nucleus(typed, share=cell.nucleus_um2 / cell.area_um2, roundness=cell.nucleus_round)
    opinion = predictor.opinion(crop, name=name, point=point, with_crop=with_crop, typed=typed)
    return replace(opinion, crop=seen) if with_crop and opinion.decision == NOT_ASKED else opinion


def why_not_judged(cell: FieldCell, *, um_per_px: float) -> str:
    """Return why a cell is refused before the bundle sees it; empty when it is not."""
    if um_per_px > COARSEST:
        return (
            f"Too coarse: {um_per_px:.2g} µm per pixel shows no chromatin; at most {COARSEST:.2f} is needed. "
            "Use a stronger objective, or state its scale if this one is wrong."
        )
    return next((reason for flag, reason in NOT_JUDGED.items() if flag in cell.flags), "")


def stain_of(manifest: Manifest) -> StainStatistics:
    """Return the colours that a bundle's cells have: its own, or those of C-NMC 2019 where it states none."""
    return StainStatistics.from_json(manifest.stain.model_dump()) if manifest.stain else RELEASE_STAIN


Colours = Mapping[int, tuple[int, int, int]]  # number of the cell -> RGB
_THUMBNAIL = 1600  # pixels of a slide's picture


@dataclass(frozen=True)
class Smear:
    """One field or slide, opened. `cells` can be gone through once."""

    path: Path
    name: str
    """A name for its files, unlike that of any other smear of the call."""
    size: tuple[int, int]  # width, height in pixels
    scale: Scale
    problem: str
    """Why its cells are not to be trusted in full; empty when nothing speaks against them."""
    cells: Iterator[JudgedCell]
    notes: tuple[str, ...]
    """What was done to the values of the file, and what of it was not believed."""
    draw: Callable[[Sequence[FieldCell], Colours], Pixels]
    count_blood: Callable[[], Sequence[BloodCount]] = tuple
    """Finds red cells and platelets: of a field once, of a slide in several windows, of a coarse picture not at all."""


class Reader:
    """Opens the fields and slides of one call, all in the same way."""

    def __init__(
        self,
        predictor: Predictor,
        files: Sequence[Path] = (),
        *,
        options: FieldOptions | None = None,
        point: str = "balanced",
        with_crops: bool = False,
        keep: Path | None = None,
    ) -> None:
        """Share scale and stain among similar fields of `files`; store the results of slides in `keep`, to resume."""
        self._predictor, self._point, self._with_crops, self._keep = predictor, point, with_crops, keep
        self._options = options or FieldOptions()
        shared = () if self._options.each_scale else files
        self._scales = SharedScales(shared)
        self._stains = SharedStains(shared, um_per_px=self._options.um_per_px, scales=self._scales)

    def open(self, path: Path, *, name: str = "") -> Smear:
        """Open a field, a slide or a DICOM image.

        Raises:
            ImageError: it cannot be read, or is not a stained smear.
        """
        name = name or path.stem
        opener = opener_of(path, {path: DicomImage} if is_dicom(path) else {})
        if opener is None:
            field = self._scales.open(path, um_per_px=self._options.um_per_px)
            source = self._stains.of(path, field) if self._options.method != "none" else None
            return self._field(field, path, name=name, source=source)
        small = small_field(opener(), um_per_px=self._options.um_per_px)
        return self._slide(opener, path, name=name) if small is None else self._field(small, path, name=name)

    def _field(self, field: Field, path: Path, *, name: str, source: StainStatistics | None = None) -> Smear:
        named = replace(field, name=path.name)
        cells = find_cells(named)
        judged = judge_cells(
            named,
            self._predictor,
            cells=cells,
            point=self._point,
            method=self._options.method,
            source=source,
            with_crops=self._with_crops,
        )
        height, width = field.pixels.shape[:2]

        def draw(shown: Sequence[FieldCell], colours: Colours) -> Pixels:
            return draw_outlines(field, shown, colours=colours)

        return Smear(
            path,
            name,
            (width, height),
            field.scale,
            field_problem(field),
            judged,
            field.notes,
            draw,
            lambda: [counted] if (counted := count_blood(named, cells)) else [],
        )

    def _slide(self, opener: Open, path: Path, *, name: str) -> Smear:
        with ExitStack() as stack:
            folder = self._keep or Path(stack.enter_context(TemporaryDirectory(prefix="leukoscope-")))
            found = extract_slide(
                opener,
                folder,
                name=name,
                um_per_px=self._options.um_per_px,
                method=self._options.method,
                target=stain_of(self._predictor.manifest),
                jobs=self._options.jobs,
                type_crops=self._predictor.typer is not None,
            )
            cells = self._judged(found, stack.pop_all(), field=path.name)

        def draw(shown: Sequence[FieldCell], colours: Colours) -> Pixels:
            return draw_marks(opener().thumbnail(_THUMBNAIL), found.size, shown, colours=colours)

        problem, measures = slide_problem(found), found.measures
        return Smear(
            path,
            name,
            found.size,
            measures.scale,
            problem,
            cells,
            found.notes,
            draw,
            lambda: list(count_slide(opener, measures)),
        )

    def _judged(self, found: SlideResult, folder: ExitStack, *, field: str) -> Iterator[JudgedCell]:
        """Judge the crops that a slide has left on the disk, then let them go."""
        with folder:
            judge = partial(self._from_disk, field=field, um_per_px=found.measures.scale.um_per_px)
            types = found.type_crops or found.crops
            yield from in_parallel(judge, zip(found.cells, found.crops, types, strict=True))

    def _from_disk(self, one: tuple[FieldCell, Path, Path], *, field: str, um_per_px: float) -> JudgedCell:
        cell, crop = one[0], read_image(one[1])
        opinion = judge_crop(
            crop,
            cell,
            self._predictor,
            um_per_px=um_per_px,
            field=field,
            point=self._point,
            with_crop=self._with_crops,
            for_type=partial(read_image, one[2]),
        )
        return JudgedCell(cell, crop, opinion)
