"""The whole way for a set of fields: scale, cells, crops, outlines, tables. One bad field never stops the others."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..artifacts import provenance, write_json, write_whole
from ..errors import ImageError
from ..progress import track
from .cells import Field, FieldCell, find_cells, open_field
from .crops import CROP_SIDE, cut_crop
from .detection import ClassicalDetector
from .drawing import draw_outlines
from .normalisation import RELEASE_STAIN, Normaliser, measure, normaliser, sample_crops
from .planes import Pixels
from .quality import out_of_focus
from .scale import Scale, common_scale
from .table import cell_row, field_row, write_cells, write_fields

_BLURRED = "out of focus: take the field again"

Report = Callable[[str, bool], None]  # a line, and whether it tells of a problem
Also = Callable[[Field, Sequence[FieldCell]], None]  # another format, written while the field is at hand


@dataclass(frozen=True)
class Wishes:
    """What the user asked for."""

    um_per_px: float | None = None
    each_scale: bool = False
    subject: str = ""
    method: str = "reinhard"
    whole_only: bool = False


@dataclass(frozen=True)
class FieldResult:
    """What came of one field; `problem` is empty unless it could not be used, or not be trusted."""

    name: str
    size: tuple[int, int]  # width, height in pixels
    cells: int = 0
    flagged: int = 0
    scale: Scale | None = None
    problem: str = ""


def extract(
    files: Sequence[Path], output: Path, *, wishes: Wishes, report: Report, also: Sequence[Also] = ()
) -> list[FieldResult]:
    """Cut out the cells of all fields into `output`; tell `report` one line per field, hand each field to `also`."""
    shared = {} if wishes.each_scale or wishes.um_per_px else _shared_scales(files)
    cell_rows: list[dict[str, Any]] = []
    results: list[FieldResult] = []
    for path, name in track(list(zip(files, names_of(files), strict=True)), "Fields", total=len(files)):
        try:
            field = open_field(path, um_per_px=wishes.um_per_px)
        except ImageError as refusal:
            results.append(FieldResult(path.name, (0, 0), problem=str(refusal)))
            report(str(refusal), True)
            continue
        field = replace(field, name=name, scale=shared.get(path, field.scale))
        cells = _wanted(find_cells(field), wishes)
        cell_rows += _write_field(field, cells, output=output, wishes=wishes)
        for write in also:
            write(field, cells)
        results.append(_result(path.name, field, cells))
        report(_line(results[-1]), bool(results[-1].problem))
    write_cells(output / "cells.csv", cell_rows)
    write_fields(output / "fields.csv", [_field_row(result) for result in results])
    write_json(output / "cells.json", provenance() | {"detector": ClassicalDetector.name, "stain": wishes.method})
    return results


def _result(name: str, field: Field, cells: Sequence[FieldCell]) -> FieldResult:
    height, width = field.pixels.shape[:2]
    blurred = out_of_focus(field.pixels, field.stain, um_per_px=field.scale.um_per_px)
    flagged = sum(bool(cell.flags) for cell in cells)
    return FieldResult(name, (width, height), len(cells), flagged, field.scale, _BLURRED if blurred else "")


def _line(result: FieldResult) -> str:
    flagged = f" ({result.flagged} flagged)" if result.flagged else ""
    problem = f"; {result.problem}" if result.problem else ""
    return f"{result.name}: {count_words(result.cells)}{flagged}, {result.scale}{problem}"


def _field_row(result: FieldResult) -> dict[str, Any]:
    return field_row(
        result.name, size=result.size, cells=result.cells, flagged=result.flagged, scale=result.scale,
        problem=result.problem,
    )  # fmt: skip


def count_words(cells: int) -> str:
    """Return the number of white cells in words."""
    return f"{cells} white cell{'s' * (cells > 1)}" if cells else "no white cells"


def field_normaliser(field: Field, cells: Sequence[FieldCell], *, method: str) -> Normaliser:
    """Return what brings the crops of a field to the training stain, judged on all its cells together."""
    if method == "none":
        return lambda crop: crop
    whole = [cell for cell in cells if "cut off" not in cell.flags] or list(cells)
    source = measure(sample_crops(cut_crop(field, cell) for cell in whole[:60]))
    return normaliser(method, source, target=RELEASE_STAIN)


def names_of(files: Sequence[Path]) -> list[str]:
    """Return a name for each file, its stem, made unique with a number where two share one."""
    seen: dict[str, int] = defaultdict(int)
    names = []
    for file in files:
        seen[file.stem] += 1
        names.append(file.stem if seen[file.stem] == 1 else f"{file.stem}-{seen[file.stem]}")
    return names


def _wanted(cells: list[FieldCell], wishes: Wishes) -> list[FieldCell]:
    return [cell for cell in cells if not (wishes.whole_only and "cut off" in cell.flags)]


def _shared_scales(files: Sequence[Path]) -> dict[Path, Scale]:
    """Return one scale for each group of fields of one folder and size whose files do not state it."""
    groups: dict[tuple[Path, tuple[int, ...]], list[tuple[Path, Scale]]] = defaultdict(list)
    for path, field in _readable(files):
        if field.scale.source in ("red cells", "nuclei"):
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


def _write_field(field: Field, cells: Sequence[FieldCell], *, output: Path, wishes: Wishes) -> list[dict[str, Any]]:
    """Write crops and outlines of one field; return the rows of its cells."""
    stain = field_normaliser(field, cells, method=wishes.method)
    rows = []
    for cell in cells:
        name = f"{field.name}-{cell.number:03d}"
        crop = output / "crops" / field.name / f"{name}.png"
        _write_png(crop, stain(cut_crop(field, cell)))
        rows.append(
            cell_row(
                cell, crop=crop, folder=output, field=field.name, name=name, subject=wishes.subject,
                scale=field.scale, side=CROP_SIDE,
            )
        )  # fmt: skip
    _write_png(output / "outlines" / f"{field.name}.png", draw_outlines(field, cells))
    return rows


def _write_png(path: Path, pixels: Pixels) -> None:
    """Write pixels and nothing else: no tag of the source goes along."""
    with write_whole(path) as beside:
        Image.fromarray(np.ascontiguousarray(pixels)).save(beside, format="PNG")
