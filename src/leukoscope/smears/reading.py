"""Open a field, slide or DICOM image for its cells to be judged, one after the other, as they are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..data.images import read_image
from ..data.pack import in_parallel
from ..fields.cells import Field, FieldCell, find_cells, open_field
from ..fields.drawing import draw_marks, draw_outlines
from ..fields.extraction import Wishes, field_problem, opener_of, slide_problem, small_field
from ..fields.normalisation import StainStatistics
from ..fields.planes import Pixels
from ..fields.scale import Scale
from ..fields.sharing import SharedScales, SharedStains
from ..fields.slide_extraction import Open, SlideResult, extract_slide
from ..inference.predictor import Predictor
from ..interop.dicom_images import DicomImage, is_dicom
from .judging import JudgedCell, judge_cells, judge_crop, stain_of

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
    draw: Callable[[Sequence[FieldCell], Colours], Pixels]


class Reader:
    """Opens the fields and slides of one call, all in the same way."""

    def __init__(
        self,
        predictor: Predictor,
        files: Sequence[Path] = (),
        *,
        wishes: Wishes | None = None,
        point: str = "balanced",
        with_crops: bool = False,
        keep: Path | None = None,
    ) -> None:
        """Alike ones of `files` share scale and stain; `keep` is where the work on slides is kept, to go on."""
        self._predictor, self._point, self._with_crops, self._keep = predictor, point, with_crops, keep
        self._wishes = wishes or Wishes()
        alike = () if self._wishes.each_scale else files
        self._scales = SharedScales(alike)
        self._stains = SharedStains(alike, um_per_px=self._wishes.um_per_px)

    def open(self, path: Path, *, name: str = "") -> Smear:
        """Open a field, a slide or a DICOM image.

        Raises:
            ImageError: it cannot be read, or is no stained smear.
        """
        name = name or path.stem
        opener = opener_of(path, {path: DicomImage} if is_dicom(path) else {})
        if opener is None:
            field = open_field(path, um_per_px=self._wishes.um_per_px)
            field = replace(field, scale=self._scales.of(path, field))
            source = self._stains.of(path, field) if self._wishes.method != "none" else None
            return self._field(field, path, name=name, source=source)
        small = small_field(opener(), um_per_px=self._wishes.um_per_px)
        return self._slide(opener, path, name=name) if small is None else self._field(small, path, name=name)

    def _field(self, field: Field, path: Path, *, name: str, source: StainStatistics | None = None) -> Smear:
        named = replace(field, name=path.name)
        cells = find_cells(named)
        judged = judge_cells(
            named, self._predictor, cells=cells, point=self._point, method=self._wishes.method,
            source=source, with_crops=self._with_crops,
        )  # fmt: skip
        height, width = field.pixels.shape[:2]

        def draw(shown: Sequence[FieldCell], colours: Colours) -> Pixels:
            return draw_outlines(field, shown, colours=colours)

        return Smear(path, name, (width, height), field.scale, field_problem(field), judged, draw)

    def _slide(self, opener: Open, path: Path, *, name: str) -> Smear:
        with ExitStack() as stack:
            folder = self._keep or Path(stack.enter_context(TemporaryDirectory(prefix="leukoscope-")))
            found = extract_slide(
                opener, folder, name=name, um_per_px=self._wishes.um_per_px, method=self._wishes.method,
                target=stain_of(self._predictor.manifest), jobs=self._wishes.jobs,
            )  # fmt: skip
            cells = self._judged(found, stack.pop_all(), field=path.name)

        def draw(shown: Sequence[FieldCell], colours: Colours) -> Pixels:
            return draw_marks(opener().thumbnail(_THUMBNAIL), found.size, shown, colours=colours)

        return Smear(path, name, found.size, found.look.scale, slide_problem(found), cells, draw)

    def _judged(self, found: SlideResult, folder: ExitStack, *, field: str) -> Iterator[JudgedCell]:
        """Judge the crops that a slide has left on the disk, then let them go."""
        with folder:
            judge = partial(self._from_disk, field=field, um_per_px=found.look.scale.um_per_px)
            yield from in_parallel(judge, zip(found.cells, found.crops, strict=True))

    def _from_disk(self, one: tuple[FieldCell, Path], *, field: str, um_per_px: float) -> JudgedCell:
        cell, crop = one[0], read_image(one[1])
        opinion = judge_crop(
            crop, cell, self._predictor, um_per_px=um_per_px, field=field, point=self._point,
            with_crop=self._with_crops,
        )  # fmt: skip
        return JudgedCell(cell, crop, opinion)
