"""Extraction of cells from smear fields into crops and tables; fields of one microscope share scale and stain.

A single field is a poor sample: its few red cells mislead about the scale, and bringing each field's cells to one mean
colour removes the difference between a field of blasts and a field of normal cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError, attempt, usable
from ..files import provenance, sha256_of, short_name, write_csv, write_json
from ..images.read import read_size
from ..progress import in_parallel, track
from .cells import (
    ClassicalDetector,
    Field,
    FieldCell,
    draw_outlines,
    field_of,
    find_cells,
    open_field,
    write_png,
)
from .crops import CROP_SIDE, cut_crop
from .images import Pixels
from .scale import Scale, common_scale, estimate_scale
from .slides import TILE, Open, Slide, SlideResult, TiffSlide, extract_slide, is_slide
from .stain import (
    DEFAULT_METHOD,
    RELEASE_STAIN,
    Normaliser,
    Samples,
    StainStatistics,
    measure,
    normaliser,
    out_of_focus,
    sample_crops,
)

if TYPE_CHECKING:
    from .cells import FieldCell, Outline
    from .scale import Scale


# The first nine are those of every cells.csv, so that training, prediction and reports can read it.
CELL_COLUMNS = (
    "path",
    "label",
    "subject",
    "part",
    "source",
    "name",
    "sha256",
    "width",
    "height",
    "field",
    "number",
    "left",
    "top",
    "right",
    "bottom",
    "centre_x",
    "centre_y",
    "area_um2",
    "nucleus_um2",
    "sharpness",
    "flags",
    "um_per_px",
    "scale",
    "outline",
)
FIELD_COLUMNS = ("field", "width", "height", "cells", "flagged", "um_per_px", "um_low", "um_high", "scale", "problem")


def cell_row(
    cell: FieldCell, *, crop: Path, folder: Path, field: str, subject: str, scale: Scale, side: int
) -> dict[str, Any]:
    """Return one row of cells.csv; the crop's path is written relative to `folder`."""
    left, top, right, bottom = cell.box
    return {
        "path": crop.relative_to(folder).as_posix(),
        "label": "",
        "subject": subject,
        "part": "",
        "source": "field",
        "name": crop.stem,
        "sha256": sha256_of(crop),
        "width": side,
        "height": side,
        "field": field,
        "number": cell.number,
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "centre_x": f"{cell.centre[0]:.1f}",
        "centre_y": f"{cell.centre[1]:.1f}",
        "area_um2": f"{cell.area_um2:.1f}",
        "nucleus_um2": f"{cell.nucleus_um2:.1f}",
        "sharpness": f"{cell.sharpness:.3f}",
        "flags": "; ".join(cell.flags),
        "um_per_px": f"{scale.um_per_px:.5g}",
        "scale": scale.source,
        "outline": outline_text(cell.outline),
    }


def field_row(
    field: str, *, size: tuple[int, int], cells: int, flagged: int, scale: Scale | None, problem: str
) -> dict[str, Any]:
    """Return one row of fields.csv; `size` is width and height in pixels."""
    row = {"field": field, "width": size[0], "height": size[1], "cells": cells, "flagged": flagged, "problem": problem}
    if scale is None:
        return row | {"um_per_px": "", "um_low": "", "um_high": "", "scale": ""}
    numbers = {"um_per_px": scale.um_per_px, "um_low": scale.low, "um_high": scale.high}
    return row | {name: f"{value:.5g}" for name, value in numbers.items()} | {"scale": scale.source}


def write_cells(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write cells.csv, whole or not at all."""
    write_csv(path, rows, columns=CELL_COLUMNS)


def write_fields(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write fields.csv, whole or not at all."""
    write_csv(path, rows, columns=FIELD_COLUMNS)


def outline_text(outline: Outline, *, points: int = 64) -> str:
    """Return at most `points` points of an outline as 'x,y x,y …', in pixels of the field."""
    chosen = outline[np.linspace(0, len(outline), min(points, len(outline)), endpoint=False).astype(int)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in chosen)


def outline_of(text: str) -> Outline:
    """Read back what outline_text wrote."""
    return np.array([[float(value) for value in point.split(",")] for point in text.split()])


_SAMPLE = 24  # fields whose estimates are pooled; more would not move their median
_STAINED = 12  # fields whose cells are pooled for the stain: they have to be found first
_CELLS = 20  # of each of them, so that no crowded field decides
_FEWEST = 3
_FAR = 2.5  # times that a stated scale may differ from the one that the cells show

Group = tuple[Path | None, int, int]  # folder, or None where folders do not count; width, height


class SharedScales:
    """The scales of a set of fields, each group measured when its first field comes."""

    def __init__(self, files: Sequence[Path], *, one_folder: bool = False) -> None:
        """Group the files by folder and size; `one_folder`: by size alone, as if they lay in one folder."""
        self._files, self._one_folder = list(files), one_folder
        self._known: dict[Group, Scale | None] = {}

    def open(self, path: Path, *, um_per_px: float | None = None) -> Field:
        """Open a field; its scale is stated by user or file, else shared by three or more like it, else its own.

        Raises:
            ImageError: the file cannot be read, or is not a stained smear.
        """
        return open_field(path, um_per_px=um_per_px, shared=partial(self.shared, path))

    def shared(self, path: Path, size: tuple[int, int]) -> Scale | None:
        """Return the scale that fields of this width and height share; None where there are fewer than three."""
        key = _group_of(path, size, one_folder=self._one_folder)
        if key not in self._known:
            self._known[key] = self._pooled(key)
        return self._known[key]

    def _pooled(self, group: Group) -> Scale | None:
        chosen = _sample_files(self._files, group, most=_SAMPLE)
        scales = [scale for path in chosen if (scale := _estimated(path)) is not None]
        return common_scale(scales) if len(scales) >= _FEWEST else None


class SharedStains:
    """The stains of a set of fields, each group measured on cells of some of its fields when its first one comes."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        um_per_px: float | None = None,
        one_folder: bool = False,
        scales: SharedScales | None = None,
    ) -> None:
        """Group the files as SharedScales does; `scales` of the same files are measured once where they are given."""
        self._files, self._um_per_px, self._one_folder = list(files), um_per_px, one_folder
        self._scales = scales or SharedScales(files, one_folder=one_folder)
        self._known: dict[Group, StainStatistics | None] = {}

    def of(self, path: Path, field: Field) -> StainStatistics | None:
        """Return the stain shared by three or more fields like this one, or None where there are fewer with cells."""
        height, width = field.pixels.shape[:2]
        key = _group_of(path, (width, height), one_folder=self._one_folder)
        if key not in self._known:
            if self._um_per_px is None:
                self._scales.shared(path, (width, height))  # measured once, before the threads ask for it
            self._known[key] = self._pooled(key)
        return self._known[key]

    def _pooled(self, group: Group) -> StainStatistics | None:
        chosen = _sample_files(self._files, group, most=_STAINED)
        samples = [found for found in in_parallel(self._sampled, chosen) if len(found)]
        return measure(np.concatenate(samples)) if len(samples) >= _FEWEST else None

    def _sampled(self, path: Path) -> Samples:
        def sample() -> Samples:
            field = self._scales.open(path, um_per_px=self._um_per_px)
            whole = [cell for cell in find_cells(field) if "cut off" not in cell.flags]
            return sample_crops(cut_crop(field, cell) for cell in whole[:_CELLS])

        found = attempt(sample)  # what is wrong with a file is reported when its own turn comes
        return sample_crops([]) if isinstance(found, Exception) else found


def _group_of(path: Path, size: tuple[int, int], *, one_folder: bool) -> Group:
    return None if one_folder else path.parent, *size


def _sample_files(files: Sequence[Path], group: Group, *, most: int) -> list[Path]:
    """Return some of the files that are like this, from the first to the last."""
    folder, *size = group
    same_size = [path for path in files if folder in (None, path.parent) and _size(path) == tuple(size)]
    return [
        same_size[place] for place in np.linspace(0, len(same_size) - 1, min(most, len(same_size))).round().astype(int)
    ]


def _size(path: Path) -> tuple[int, int] | None:
    size = attempt(lambda: read_size(path))
    return None if isinstance(size, Exception) else size


def _estimated(path: Path) -> Scale | None:
    """Return the scale measured on a field; None where it is stated in the file, or the field cannot be used."""
    scale = attempt(lambda: open_field(path).scale)
    return None if isinstance(scale, Exception) or scale.source == "file" else scale


_BLURRED = "out of focus: take it again"
_NAMED = 3  # damaged tiles of a slide that are named one by one
_SMALL = 30_000_000  # pixels; a slide no larger than this is read whole, as a field

Report = Callable[[str, bool], None]  # a line, and whether it reports a problem
Also = Callable[[Path, str, Sequence[FieldCell]], None]  # another format: source, name for its files, cells
Foreign = Callable[[Path], Slide]  # opens what is not an ordinary image, such as DICOM


@dataclass(frozen=True)
class FieldOptions:
    """Options of the extraction."""

    um_per_px: float | None = None
    each_scale: bool = False
    subject: str = ""
    method: str = DEFAULT_METHOD
    whole_only: bool = False
    jobs: int = 1
    tile: int = TILE


@dataclass(frozen=True)
class Extracted:
    """What came of one field or slide; `problem` is empty unless it could not be used, or not be trusted."""

    path: Path
    name: str
    size: tuple[int, int] = (0, 0)  # width, height in pixels
    scale: Scale | None = None
    cells: tuple[FieldCell, ...] = ()
    crops: tuple[Path, ...] = ()  # one for each cell
    problem: str = ""
    notes: tuple[str, ...] = ()  # what was done to the values of the file, and what of it was not believed

    @property
    def flagged(self) -> int:
        """Return how many cells carry a flag."""
        return sum(bool(cell.flags) for cell in self.cells)

    def __str__(self) -> str:
        if self.scale is None:
            return self.problem
        flagged = f" ({self.flagged} flagged)" if self.flagged else ""
        more = "".join(f"; {text}" for text in (self.problem, *self.notes) if text)
        return f"{self.path.name}: {count_words(len(self.cells))}{flagged}, {self.scale}{more}"


def extract(
    files: Sequence[Path],
    output: Path,
    *,
    options: FieldOptions,
    report: Report,
    also: Sequence[Also] = (),
    foreign: Mapping[Path, Foreign] | None = None,
) -> list[Extracted]:
    """Cut out the cells of all fields and slides into `output`; call `report` with one line for each, after the tables.

    `foreign` names, by path, what opens the files that are not ordinary images.
    """
    openers = {path: opener for path in files if (opener := opener_of(path, foreign or {})) is not None}
    plain = [path for path in files if path not in openers]
    shared = () if options.each_scale else plain
    scales, stains = SharedScales(shared), SharedStains(shared, um_per_px=options.um_per_px)
    results: list[Extracted] = []

    def extracted(path: Path, name: str) -> Extracted:
        if path in openers:
            return _slide(openers[path], path, name=name, output=output, options=options)
        field = replace(scales.open(path, um_per_px=options.um_per_px), name=name)
        source = stains.of(path, field) if options.method != "none" else None
        return _field(field, path, output, options=options, source=source)

    for path, name in track(list(zip(files, names_of(files), strict=True)), "Fields", total=len(files)):
        try:
            result = usable(partial(extracted, path, name), name=str(path))
        except ImageError as refusal:
            result = Extracted(path, name, problem=str(refusal))
        try:
            usable(partial(_write_also, result, also), name=str(path))
        except ImageError as unwritten:
            problem = "; ".join(filter(None, (result.problem, str(unwritten))))
            result = replace(result, problem=problem)
        results.append(result)
    written = attempt(lambda: _write_tables(results, output, options=options))
    for result in results:  # a terminal that is gone must not cost a table, nor a full disk the answers
        report(str(result), bool(result.problem))
    if isinstance(written, Exception):
        raise written
    return results


def _write_also(result: Extracted, also: Sequence[Also]) -> None:
    """Write the other formats of a field that could be used."""
    for write in also if result.scale is not None else ():
        write(result.path, result.name, result.cells)


def count_words(cells: int) -> str:
    """Return the number of white cells in words."""
    return f"{cells} white cell{'s' * (cells > 1)}" if cells else "no white cells"


def opener_of(path: Path, foreign: Mapping[Path, Foreign]) -> Open | None:
    """Return what opens a file that is read piece by piece; None for an ordinary image."""
    if path in foreign:
        return partial(foreign[path], path)
    return partial(TiffSlide, path) if is_slide(path) else None


def _slide(opener: Open, path: Path, *, name: str, output: Path, options: FieldOptions) -> Extracted:
    """Extract a slide; one that is no larger than a field is treated as a field."""
    slide = opener()
    if (field := small_field(slide, um_per_px=options.um_per_px)) is not None:
        return _field(replace(field, name=name), path, output, options=options)
    found = extract_slide(
        opener,
        output,
        name=name,
        um_per_px=options.um_per_px,
        method=options.method,
        tile=options.tile,
        jobs=options.jobs,
    )
    kept = [(cell, crop) for cell, crop in zip(found.cells, found.crops, strict=True) if _wanted(cell, options)]
    cells, crops = zip(*kept, strict=True) if kept else ((), ())
    return Extracted(path, name, found.size, found.measures.scale, cells, crops, slide_problem(found), found.notes)


def _field(
    field: Field, path: Path, output: Path, *, options: FieldOptions, source: StainStatistics | None = None
) -> Extracted:
    """Write crops and outlines of one field."""
    cells = tuple(cell for cell in find_cells(field) if _wanted(cell, options))
    pictures = normalised_crops(field, cells, method=options.method, source=source)
    crops = tuple(output / "crops" / field.name / f"{field.name}-{cell.number:03d}.png" for cell in cells)
    for crop, picture in zip(crops, pictures, strict=True):
        write_png(crop, picture)
    write_png(output / "outlines" / f"{field.name}.png", draw_outlines(field, cells))
    height, width = field.pixels.shape[:2]
    return Extracted(path, field.name, (width, height), field.scale, cells, crops, field_problem(field), field.notes)


def small_field(slide: Slide, *, um_per_px: float | None) -> Field | None:
    """Return a slide that is no larger than a field as one; None where it has to be read by tiles."""
    if slide.size[0] * slide.size[1] > _SMALL:
        return None
    known = um_per_px or slide.um_per_px
    scale = Scale.exact(known, source="user" if um_per_px else "file") if known else None
    pixels = slide.read(0, 0, *slide.size)
    return replace(field_of(pixels, name=slide.name, scale=scale), notes=slide.notes)


def field_problem(field: Field) -> str:
    """Say why the cells of a field are not to be trusted, or nothing."""
    if not out_of_focus(field.pixels, field.stain, um_per_px=field.scale.um_per_px):
        return ""
    return _wrong_scale(field) or _BLURRED


def _wrong_scale(field: Field) -> str:
    """Return that the scale of the file is at fault, where a field is sharp by the scale that its cells show."""
    if field.scale.source != "file":
        return ""
    measured = estimate_scale(field.pixels, field.stain)
    if measured is None or 1 / _FAR < field.scale.um_per_px / measured.um_per_px < _FAR:
        return ""
    if out_of_focus(field.pixels, field.stain, um_per_px=measured.um_per_px):
        return ""
    return (
        f"the file states {field.scale.um_per_px:.3g} µm per pixel, but the {measured.source} show about "
        f"{measured.um_per_px:.2g}: give the right scale with --um-per-px"
    )


def slide_problem(found: SlideResult) -> str:
    """Say what of a slide could not be read, or not be trusted, or nothing."""
    blurred = [_BLURRED] if 2 * found.measures.blurred > found.measures.windows else []
    more = [f"and {len(found.problems) - _NAMED} more tiles like these"] if len(found.problems) > _NAMED else []
    return "; ".join([*blurred, *found.problems[:_NAMED], *more])


def _wanted(cell: FieldCell, options: FieldOptions) -> bool:
    return not (options.whole_only and "cut off" in cell.flags)


def _write_tables(results: Sequence[Extracted], output: Path, *, options: FieldOptions) -> None:
    rows = [
        cell_row(
            cell,
            crop=crop,
            folder=output,
            field=result.name,
            subject=options.subject,
            scale=result.scale,
            side=CROP_SIDE,
        )
        for result in results
        if result.scale is not None
        for cell, crop in zip(result.cells, result.crops, strict=True)
    ]
    write_cells(output / "cells.csv", rows)
    write_fields(
        output / "fields.csv",
        [
            field_row(
                result.path.name,
                size=result.size,
                cells=len(result.cells),
                flagged=result.flagged,
                scale=result.scale,
                problem=result.problem,
            )
            for result in results
        ],
    )
    write_json(output / "cells.json", provenance() | {"detector": ClassicalDetector.name, "stain": options.method})


def field_normaliser(
    field: Field,
    cells: Sequence[FieldCell],
    *,
    method: str = DEFAULT_METHOD,
    source: StainStatistics | None = None,
    target: StainStatistics = RELEASE_STAIN,
) -> Normaliser:
    """Return what brings the crops of a field to the training stain, judged on all its cells, or on a known source."""
    if method == "none":
        return lambda crop: crop
    if source is None:
        whole = [cell for cell in cells if "cut off" not in cell.flags] or list(cells)
        source = measure(sample_crops(cut_crop(field, cell) for cell in whole[:60]))
    return normaliser(method, source, target=target)


def normalised_crops(
    field: Field, cells: Sequence[FieldCell], *, method: str = DEFAULT_METHOD, source: StainStatistics | None = None
) -> list[Pixels]:
    """Return the crops of a field's cells as the model knows them: its scale, its stain, black around each cell."""
    stain = field_normaliser(field, cells, method=method, source=source)
    return [stain(cut_crop(field, cell)) for cell in cells]


def names_of(files: Sequence[Path]) -> list[str]:
    """Return a name for each file's results, unlike that of any other, also where upper and lower case are one.

    It is the stem, with a number where two share one; a long one is cut and ends in a digest of the whole, so that
    what is added to it does not make a name that no disk takes.

    >>> names_of([Path("a.png"), Path("b/A.tif"), Path("a-2.png")])
    ['a', 'A-2', 'a-2-2']
    """
    taken: set[str] = set()
    names = []
    for file in files:
        stem = short_name(file.stem)
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
