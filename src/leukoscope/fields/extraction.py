"""The whole way for a set of fields: scale, cells, crops, outlines, tables. One bad field never stops the others."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..artifacts import provenance, write_json
from ..errors import ImageError
from ..progress import track
from .cells import Field, FieldCell, field_of, find_cells, open_field
from .crops import CROP_SIDE, cut_crop
from .detection import ClassicalDetector
from .drawing import draw_outlines, write_png
from .normalisation import RELEASE_STAIN, Normaliser, measure, normaliser, sample_crops
from .planes import Pixels
from .quality import out_of_focus
from .scale import Scale, common_scale
from .slide_extraction import TILE, Open, extract_slide
from .slides import Slide, TiffSlide, is_slide
from .table import cell_row, field_row, write_cells, write_fields

_BLURRED = "out of focus: take it again"
_SMALL = 30_000_000  # pixels; a slide no larger than this is read whole, as a field

Report = Callable[[str, bool], None]  # a line, and whether it tells of a problem
Also = Callable[[Path, str, Sequence[FieldCell]], None]  # another format: source, name for its files, cells
Foreign = Callable[[Path], Slide]  # opens what is no ordinary image, such as DICOM


@dataclass(frozen=True)
class Wishes:
    """What the user asked for."""

    um_per_px: float | None = None
    each_scale: bool = False
    subject: str = ""
    method: str = "reinhard"
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

    @property
    def flagged(self) -> int:
        """Return how many cells carry a flag."""
        return sum(bool(cell.flags) for cell in self.cells)

    def __str__(self) -> str:
        if self.scale is None:
            return self.problem
        flagged = f" ({self.flagged} flagged)" if self.flagged else ""
        problem = f"; {self.problem}" if self.problem else ""
        return f"{self.path.name}: {count_words(len(self.cells))}{flagged}, {self.scale}{problem}"


def extract(
    files: Sequence[Path],
    output: Path,
    *,
    wishes: Wishes,
    report: Report,
    also: Sequence[Also] = (),
    foreign: Mapping[Path, Foreign] | None = None,
) -> list[Extracted]:
    """Cut out the cells of all fields and slides into `output`; tell `report` one line for each.

    `foreign` names, by path, what opens the files that are no ordinary images.
    """
    openers = {path: opener for path in files if (opener := _opener(path, foreign or {})) is not None}
    plain = [path for path in files if path not in openers]
    shared = {} if wishes.each_scale or wishes.um_per_px else _shared_scales(plain)
    results: list[Extracted] = []
    for path, name in track(list(zip(files, names_of(files), strict=True)), "Fields", total=len(files)):
        try:
            if path in openers:
                result = _slide(openers[path], path, name=name, output=output, wishes=wishes)
            else:
                result = _field(_opened(path, name=name, wishes=wishes, shared=shared), path, output, wishes=wishes)
            for write in also:
                write(path, name, result.cells)
        except ImageError as refusal:
            result = Extracted(path, name, problem=str(refusal))
        results.append(result)
        report(str(result), bool(result.problem))
    _write_tables(results, output, wishes=wishes)
    return results


def count_words(cells: int) -> str:
    """Return the number of white cells in words."""
    return f"{cells} white cell{'s' * (cells > 1)}" if cells else "no white cells"


def _opener(path: Path, foreign: Mapping[Path, Foreign]) -> Open | None:
    if path in foreign:
        return partial(foreign[path], path)
    return partial(TiffSlide, path) if is_slide(path) else None


def _opened(path: Path, *, name: str, wishes: Wishes, shared: Mapping[Path, Scale]) -> Field:
    field = open_field(path, um_per_px=wishes.um_per_px)
    return replace(field, name=name, scale=shared.get(path, field.scale))


def _slide(opener: Open, path: Path, *, name: str, output: Path, wishes: Wishes) -> Extracted:
    """Extract a slide; one that is no larger than a field is treated as a field."""
    slide = opener()
    if slide.size[0] * slide.size[1] <= _SMALL:
        known = wishes.um_per_px or slide.um_per_px
        scale = Scale.exact(known, source="user" if wishes.um_per_px else "file") if known else None
        field = field_of(slide.read(0, 0, *slide.size), name=path.name, scale=scale)
        return _field(replace(field, name=name), path, output, wishes=wishes)
    found = extract_slide(
        opener, output, name=name, um_per_px=wishes.um_per_px, method=wishes.method, tile=wishes.tile, jobs=wishes.jobs
    )
    blurred = [_BLURRED] if 2 * found.look.blurred > found.look.windows else []
    problem = "; ".join([*blurred, *found.problems])
    kept = [(cell, crop) for cell, crop in zip(found.cells, found.crops, strict=True) if _wanted(cell, wishes)]
    cells, crops = zip(*kept, strict=True) if kept else ((), ())
    return Extracted(path, name, found.size, found.look.scale, cells, crops, problem)


def _field(field: Field, path: Path, output: Path, *, wishes: Wishes) -> Extracted:
    """Write crops and outlines of one field."""
    cells = tuple(cell for cell in find_cells(field) if _wanted(cell, wishes))
    pictures = normalised_crops(field, cells, method=wishes.method)
    crops = tuple(output / "crops" / field.name / f"{field.name}-{cell.number:03d}.png" for cell in cells)
    for crop, picture in zip(crops, pictures, strict=True):
        write_png(crop, picture)
    write_png(output / "outlines" / f"{field.name}.png", draw_outlines(field, cells))
    height, width = field.pixels.shape[:2]
    blurred = out_of_focus(field.pixels, field.stain, um_per_px=field.scale.um_per_px)
    return Extracted(path, field.name, (width, height), field.scale, cells, crops, _BLURRED if blurred else "")


def _wanted(cell: FieldCell, wishes: Wishes) -> bool:
    return not (wishes.whole_only and "cut off" in cell.flags)


def _write_tables(results: Sequence[Extracted], output: Path, *, wishes: Wishes) -> None:
    rows = [
        cell_row(
            cell, crop=crop, folder=output, field=result.name, subject=wishes.subject, scale=result.scale,
            side=CROP_SIDE,
        )
        for result in results
        if result.scale is not None
        for cell, crop in zip(result.cells, result.crops, strict=True)
    ]  # fmt: skip
    write_cells(output / "cells.csv", rows)
    write_fields(
        output / "fields.csv",
        [
            field_row(
                result.path.name, size=result.size, cells=len(result.cells), flagged=result.flagged,
                scale=result.scale, problem=result.problem,
            )
            for result in results
        ],
    )  # fmt: skip
    write_json(output / "cells.json", provenance() | {"detector": ClassicalDetector.name, "stain": wishes.method})


def field_normaliser(field: Field, cells: Sequence[FieldCell], *, method: str) -> Normaliser:
    """Return what brings the crops of a field to the training stain, judged on all its cells together."""
    if method == "none":
        return lambda crop: crop
    whole = [cell for cell in cells if "cut off" not in cell.flags] or list(cells)
    source = measure(sample_crops(cut_crop(field, cell) for cell in whole[:60]))
    return normaliser(method, source, target=RELEASE_STAIN)


def normalised_crops(field: Field, cells: Sequence[FieldCell], *, method: str = "reinhard") -> list[Pixels]:
    """Return the crops of a field's cells as the model knows them: its scale, its stain, black around each cell."""
    stain = field_normaliser(field, cells, method=method)
    return [stain(cut_crop(field, cell)) for cell in cells]


def names_of(files: Sequence[Path]) -> list[str]:
    """Return a name for each file, its stem, made unique with a number where two share one."""
    seen: dict[str, int] = defaultdict(int)
    names = []
    for file in files:
        seen[file.stem] += 1
        names.append(file.stem if seen[file.stem] == 1 else f"{file.stem}-{seen[file.stem]}")
    return names


def _shared_scales(files: Sequence[Path]) -> dict[Path, Scale]:
    """Return one scale for each group of fields of one folder and size whose files do not state it."""
    groups: dict[tuple[Path, tuple[int, ...]], list[tuple[Path, Scale]]] = defaultdict(list)
    for path, field in _readable(files):
        if field.scale.source not in ("user", "file"):
            groups[path.parent, field.pixels.shape].append((path, field.scale))
    return {
        path: common_scale([scale for _, scale in group])
        for group in groups.values()
        if len(group) >= 3
        for path, _ in group
    }


def _readable(files: Sequence[Path]) -> Iterator[tuple[Path, Field]]:
    for path in track(files, "Scale", total=len(files)):
        try:
            yield path, open_field(path)
        except ImageError:
            continue  # named later, when its cells are sought
