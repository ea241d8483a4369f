"""The whole way for one slide: look, find cells tile by tile, cut them out; killed runs go on where they were."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from ..files import fingerprint, read_json, write_json
from ..images.type_crop import Table
from ..progress import track
from .cells import FieldCell, cut_crop, numbered
from .detection import ClassicalDetector
from .drawing import draw_marks, write_png
from .slides import Look, Slide, Tile, look_at, sample_cells, tile_cells, tiles_of, window_field
from .stain import DEFAULT_METHOD, RELEASE_STAIN, Normaliser, StainStatistics, measure, normaliser, sample_crops
from .type_crops import frame, shown, table_of_field

TILE = 2048  # pixels; with its margin one tile takes about 100 MB while it is worked on

Open = Callable[[], Slide]  # opens the slide; picklable, so that every process has its own file


@dataclass(frozen=True)
class Work:
    """What every tile of one slide needs; plain data that processes can share."""

    look: Look
    name: str
    state: Path
    crops: Path
    method: str
    source: StainStatistics | None
    target: StainStatistics
    colours: Table | None = None
    """Brings crops for types to their colours; None where these are not wanted."""


@dataclass(frozen=True)
class SlideResult:
    """The cells of a slide in its pixels, numbered in reading order, and what could not be read."""

    look: Look
    size: tuple[int, int]
    cells: list[FieldCell]
    crops: list[Path]  # one for each cell
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was done to the values of the file, and what of it was not believed."""
    type_crops: tuple[Path, ...] = ()
    """One for each cell, as fields.type_crops makes them, where they were asked for."""


def extract_slide(
    open_slide: Open,
    output: Path,
    *,
    name: str,
    um_per_px: float | None = None,
    method: str = DEFAULT_METHOD,
    target: StainStatistics = RELEASE_STAIN,
    tile: int = TILE,
    jobs: int = 1,
    type_crops: bool = False,
) -> SlideResult:
    """Cut out the cells of a slide into `output`/crops/`name`, with a picture of where they lie.

    type_crops: also write the crops from which their types are told, into `output`/type-crops/`name`.

    Raises:
        ImageError: the slide cannot be opened, is blank, or has no scale. A damaged tile does not raise: it is named.
    """
    slide = open_slide()
    look = look_at(slide, um_per_px=um_per_px)
    work = _prepare(slide, look, output=output, name=name, method=method, target=target, type_crops=type_crops)
    tiles = tiles_of(slide, tile=tile, um_per_px=look.scale.um_per_px)
    cells, problems = [], []
    for done in track(_all_tiles(open_slide, work, tiles, jobs=jobs), name, total=len(tiles)):
        cells += done.cells
        problems += [done.problem] if done.problem else []
    ordered = numbered(cells)
    write_png(output / "outlines" / f"{name}.png", draw_marks(slide.thumbnail(1024), slide.size, ordered))
    crops = [crop_path(work, cell) for cell in ordered]
    types = tuple(type_crop_path(work, cell) for cell in ordered) if type_crops else ()
    return SlideResult(look, slide.size, ordered, crops, tuple(problems), slide.notes, types)


def crop_path(work: Work, cell: FieldCell) -> Path:
    """Return where a cell's crop lies: named by its middle, so that names do not depend on the tiles."""
    return work.crops / f"{work.name}-x{round(cell.centre[0]):06d}-y{round(cell.centre[1]):06d}.png"


def type_crop_path(work: Work, cell: FieldCell) -> Path:
    """Return where the crop lies from which a cell's type is told."""
    return work.crops.parent.parent / "type-crops" / work.name / crop_path(work, cell).name


@dataclass(frozen=True)
class _Done:
    cells: list[FieldCell]
    problem: str = ""


def _prepare(
    slide: Slide, look: Look, *, output: Path, name: str, method: str, target: StainStatistics, type_crops: bool
) -> Work:
    """Settle the stain normalisation and the folder in which finished tiles are remembered."""
    sampled = list(sample_cells(slide, look))
    crops = [cut_crop(field, cell) for field, cells in sampled for cell in cells[:20]]
    source = measure(sample_crops(crops)) if method != "none" else None
    tables = [table_of_field(field) for field, _ in sampled] if type_crops else []
    colours = np.median(tables, axis=0) if tables else None
    known = [asdict(look), slide.size, method, target.to_json(), ClassicalDetector.name]
    key = fingerprint([*known, "types"] if type_crops else known)[:16]
    state, crops_folder = output / "state" / f"{name}-{key}", output / "crops" / name
    return Work(look, name, state, crops_folder, method, source, target, colours)


def _all_tiles(open_slide: Open, work: Work, tiles: list[Tile], *, jobs: int) -> Iterator[_Done]:
    if jobs == 1:
        slide = open_slide()
        yield from (_tile(slide, work, tile) for tile in tiles)
        return
    with ProcessPoolExecutor(jobs, initializer=_open_in_worker, initargs=(open_slide,)) as pool:
        yield from pool.map(_tile_in_worker, [(work, tile) for tile in tiles])


_slide_of_worker: list[Slide] = []  # one open slide per process


def _open_in_worker(open_slide: Open) -> None:
    _slide_of_worker[:] = [open_slide()]


def _tile_in_worker(job: tuple[Work, Tile]) -> _Done:
    return _tile(_slide_of_worker[0], *job)


def _tile(slide: Slide, work: Work, tile: Tile) -> _Done:
    """Find and cut out the cells of a tile, or read what an earlier run has left of it."""
    path = work.state / f"tile-{tile.left}-{tile.top}-{tile.right}-{tile.bottom}.json"
    if path.exists():
        return _Done([_from_json(cell) for cell in read_json(path)])
    try:
        cells = [_from_json(_to_json(cell)) for cell in tile_cells(slide, work.look, tile)]
        _write_crops(slide, work, cells)
    except ImageError as problem:
        return _Done([], str(problem))
    write_json(path, [_to_json(cell) for cell in cells])  # last: its presence says that the tile is done
    return _Done(cells)


def _write_crops(slide: Slide, work: Work, cells: list[FieldCell]) -> None:
    stain: Normaliser = normaliser(work.method, work.source, target=work.target)
    for cell in cells:
        field, inside = window_field(slide, work.look, cell)
        write_png(crop_path(work, cell), stain(cut_crop(field, inside)))
        if work.colours is not None:
            write_png(type_crop_path(work, cell), shown(*frame(field, inside), work.colours))


def _to_json(cell: FieldCell) -> dict[str, Any]:
    numbers = {"area_um2": cell.area_um2, "nucleus_um2": cell.nucleus_um2, "sharpness": cell.sharpness}
    return {
        "box": list(cell.box),
        "centre": [round(value, 3) for value in cell.centre],
        "outline": cell.outline.round(2).tolist(),
        "flags": list(cell.flags),
    } | {name: round(value, 4) for name, value in numbers.items()}


def _from_json(value: dict[str, Any]) -> FieldCell:
    """Return the cell, its outline thinned to 64 points so that a slide full of cells stays small in memory."""
    outline = np.array(value["outline"], dtype=np.float32)
    thin = outline[np.linspace(0, len(outline), min(64, len(outline)), endpoint=False).astype(int)]
    left, top, right, bottom = value["box"]
    cell = FieldCell(0, (left, top, right, bottom), (value["centre"][0], value["centre"][1]), thin, 0, 0, 0, ())
    numbers = {name: value[name] for name in ("area_um2", "nucleus_um2", "sharpness")}
    return replace(cell, flags=tuple(value["flags"]), **numbers)
