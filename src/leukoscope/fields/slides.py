"""Whole slides: read by tiles in constant memory, every cell counted once, picked up again where a run was killed.

A tile is read with a margin wider than any cell. A cell belongs to the tile that holds its middle; the margin shows
it whole, and the tile next door sees the same cell and leaves it. Stain and scale are settled once for the slide, on
windows that do not depend on the tiles, so the list of cells does not depend on the size of the tiles either.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import ImageError, attempt
from ..files import fingerprint, read_json, write_json
from ..images.crop import ColourTable
from ..images.read import file_format, stored_box, tiff_readable, turned_size, turned_upright, upright
from ..images.scale import scale_of_tiff
from ..progress import track
from .blood_count import BloodCount, count_blood
from .cells import (
    ClassicalDetector,
    Field,
    FieldCell,
    Outline,
    describe,
    draw_marks,
    find_cells,
    numbered,
    write_png,
)
from .crops import crop_of_frame, cut_crop, frame, table_of_field
from .images import Pixels, darkest, rescaled
from .scale import Scale, common_scale, estimate_scale
from .stain import (
    DEFAULT_METHOD,
    RELEASE_STAIN,
    Normaliser,
    Stain,
    StainStatistics,
    learn_stain,
    measure,
    normaliser,
    out_of_focus,
    sample_crops,
    why_not_a_smear,
)

SUFFIXES = (".svs", ".ndpi", ".scn", ".bif")
MARGIN_UM = 40.0  # wider than the largest cell
_WINDOWS = 9  # places from which stain, scale and focus are learned
_WINDOW = 1024  # pixels
_THUMBNAIL = 1024  # pixels
_LARGE = 30_000_000  # pixels of a tiled TIFF above which it is read by tiles
_EDGE = 8  # pixels around a cell that its crop needs for resampling
_STAINED = 28  # grey levels that something stained is darker than glass


Rectangle = tuple[int, int, int, int]  # left, top, width, height in pixels of the slide


class Slide(Protocol):
    """A large image that is read piece by piece."""

    name: str
    size: tuple[int, int]  # width, height in pixels
    um_per_px: float | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the values of the file, and what of it was not believed."""
        ...

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        """Return a rectangle at full resolution, uint8 RGB, (height, width, 3)."""
        ...

    def thumbnail(self, longest: int) -> Pixels:
        """Return the whole slide, shrunk to about `longest` pixels."""
        ...


class TiffSlide:
    """A pyramidal or tiled TIFF, SVS, NDPI, or OME-TIFF; reads pixels and scale and no other tag."""

    def __init__(self, path: Path) -> None:
        """Open a slide.

        Raises:
            ImageError: the file is not a slide, is black and white, or its directory of tiles is broken.
            MissingExtraError: the extra `fields` is not installed.
        """
        from ..images.tiff import Tiff

        self.name = path.name
        self._tiff = Tiff(path, name=str(path))
        self._orientation = self._tiff.orientation
        self.size = turned_size(self._tiff.size, self._orientation)
        stated = scale_of_tiff(self._tiff)
        self.um_per_px = stated.um_per_px
        self._scale_note = stated.note
        self._colours = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to depth, colours and orientation, and what was not believed of the scale."""
        turned = turned_upright(self._orientation)
        return tuple(note for note in (self._tiff.note, self._colours, turned, self._scale_note) if note)

    def read(self, left: int, top: int, width: int, height: int) -> Pixels:
        """Return a rectangle at full resolution, uint8 sRGB, upright."""
        box = stored_box((left, top, width, height), self._tiff.size, self._orientation)
        return self._part(*box, level=0)

    def thumbnail(self, longest: int) -> Pixels:
        """Return the whole slide from its smallest level that is large enough, else strip by strip."""
        levels = self._tiff.level_sizes
        fitting = [level for level, size in enumerate(levels) if longest / 2 <= max(size) <= 8 * longest]
        if fitting:
            whole = self._part(0, 0, *levels[fitting[-1]], level=fitting[-1])
            return rescaled(whole, longest / max(whole.shape[:2]))
        return _by_strips(self, longest)

    def _part(self, left: int, top: int, width: int, height: int, *, level: int) -> Pixels:
        pixels, self._colours = self._tiff.read(left, top, width, height, level=level)
        return upright(pixels, self._orientation)


@dataclass(frozen=True)
class SlideMeasures:
    """What was learned of a slide before cells are sought in it; plain data that processes can share."""

    stain: Stain
    scale: Scale
    blurred: int  # of the windows looked at
    windows: int


@dataclass(frozen=True)
class Tile:
    """A rectangle of a slide: the part that owns cells, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def is_slide(path: Path) -> bool:
    """Return whether a file is to be read by tiles: a slide's suffix, or a TIFF too large to be read whole."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if not tiff_readable():
        return False

    def by_content() -> bool:
        from ..images.tiff import Tiff

        if file_format(path) != "TIFF":
            return False
        with Tiff(path, name=str(path)) as tiff:
            return tiff.tiled and tiff.size[0] * tiff.size[1] > _LARGE

    return attempt(by_content) is True  # what cannot be read is not a slide: the reader of fields reports why


def measure_slide(slide: Slide, *, um_per_px: float | None = None) -> SlideMeasures:
    """Learn stain, scale and focus of a slide from windows where most is stained.

    Raises:
        ImageError: nothing stained is on the slide, or its scale cannot be determined.
    """
    windows = [pixels for _, pixels in _windows(slide)]
    mosaic = np.concatenate([_square(rescaled(window, 0.4)) for window in windows])
    stain = learn_stain(mosaic)
    if (reason := why_not_a_smear(mosaic, stain)) is not None:
        raise ImageError(reason, path=slide.name)
    scale = _scale_of(slide, windows, stain, um_per_px=um_per_px)
    blurred = sum(out_of_focus(window, stain, um_per_px=scale.um_per_px) for window in windows)
    return SlideMeasures(stain, scale, blurred, len(windows))


def tiles_of(slide: Slide, *, tile: int, um_per_px: float) -> list[Tile]:
    """Return the tiles of a slide, row by row; corners lie on the detector's grid."""
    step = ClassicalDetector().grid(um_per_px)
    side = max(step, tile // step * step)
    width, height = slide.size
    return [
        Tile(left, top, min(left + side, width), min(top + side, height))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def tile_cells(slide: Slide, measures: SlideMeasures, tile: Tile) -> list[FieldCell]:
    """Return the cells whose middle lies in a tile, in pixels of the slide."""
    left, top, pixels = read_with_margin(slide, tile, um_per_px=measures.scale.um_per_px)
    if not _anything_stained(pixels, measures.stain):
        return []
    field = Field(slide.name, pixels, measures.stain, measures.scale)
    found = ClassicalDetector()(pixels, measures.stain, um_per_px=measures.scale.um_per_px)
    near = [one for one in found if _reaches(one.outline + np.array([left, top]), tile)]
    cells = [moved(describe(one, field), right=left, down=top) for one in near]
    return [cell for cell in cells if _owns(tile, cell)]


def read_with_margin(slide: Slide, tile: Tile, *, um_per_px: float) -> tuple[int, int, Pixels]:
    """Return left, top and the pixels of a tile with its margin; the corner lies on the detector's grid."""
    step = ClassicalDetector().grid(um_per_px)
    margin = math.ceil(MARGIN_UM / um_per_px / step) * step
    left, top = max(0, tile.left - margin), max(0, tile.top - margin)
    right, bottom = min(slide.size[0], tile.right + margin), min(slide.size[1], tile.bottom + margin)
    return left, top, slide.read(left, top, right - left, bottom - top)


def window_field(slide: Slide, measures: SlideMeasures, cell: FieldCell) -> tuple[Field, FieldCell]:
    """Return the surroundings of one cell as a field of its own, and the cell in its pixels."""
    left, top = max(0, cell.box[0] - _EDGE), max(0, cell.box[1] - _EDGE)
    right, bottom = min(slide.size[0], cell.box[2] + _EDGE), min(slide.size[1], cell.box[3] + _EDGE)
    pixels = slide.read(left, top, right - left, bottom - top)
    return Field(slide.name, pixels, measures.stain, measures.scale), moved(cell, right=-left, down=-top)


def sample_cells(slide: Slide, measures: SlideMeasures) -> Iterator[tuple[Field, list[FieldCell]]]:
    """Yield the windows from which the slide was learned, with their cells."""
    for _, pixels in _windows(slide):
        field = Field(slide.name, pixels, measures.stain, measures.scale)
        yield field, find_cells(field)


def count_slide(open_slide: "Open", measures: SlideMeasures) -> Iterator[BloodCount]:
    """Yield red cells and platelets of the windows from which the slide was learned; nothing of a coarse slide."""
    slide = open_slide()
    for (left, top, width, height), pixels in _windows(slide):
        field = Field(slide.name, pixels, measures.stain, measures.scale)
        if (counted := count_blood(field, find_cells(field))) is not None:
            yield replace(counted, area=(left, top, left + width, top + height))


def moved(cell: FieldCell, *, right: int, down: int) -> FieldCell:
    box = (cell.box[0] + right, cell.box[1] + down, cell.box[2] + right, cell.box[3] + down)
    centre = (cell.centre[0] + right, cell.centre[1] + down)
    return replace(cell, box=box, centre=centre, outline=cell.outline + np.array([right, down]))


def _reaches(outline: Outline, tile: Tile) -> bool:
    """Return whether a cell lies in a tile at least in part: others are not worth measuring."""
    (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
    return bool(left < tile.right and right > tile.left and top < tile.bottom and bottom > tile.top)


def _owns(tile: Tile, cell: FieldCell) -> bool:
    # A thousandth of a pixel decides ties the same way for both neighbours, whatever their rounding.
    x, y = (round(value, 3) for value in cell.centre)
    return tile.left <= x < tile.right and tile.top <= y < tile.bottom


def _anything_stained(pixels: Pixels, stain: Stain) -> bool:
    return bool((darkest(pixels[::4, ::4]) < min(stain.background) - _STAINED).mean() > 1e-4)


def _windows(slide: Slide) -> list[tuple[Rectangle, Pixels]]:
    """Return the windows to learn from, and where they lie; damaged ones are left out as long as one is whole."""
    windows, damage = [], ImageError("is blank: nothing stained is on it. Choose another slide.", path=slide.name)
    for place in _places(slide):
        try:
            windows.append((place, slide.read(*place)))
        except ImageError as problem:
            damage = problem
    if not windows:
        raise damage
    return windows


def _places(slide: Slide) -> list[Rectangle]:
    """Return left, top, width, height of windows with many stained pixels, spread over the slide."""
    small = slide.thumbnail(_THUMBNAIL)
    zoom = max(slide.size) / max(small.shape[:2])
    levels = darkest(small).astype(int)
    stained = (levels < np.percentile(levels, 90) - _STAINED).astype(float)
    cell = min(max(1, round(_WINDOW / zoom)), *small.shape[:2])
    rows, columns = (max(1, side // cell) for side in small.shape[:2])
    share = stained[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean(axis=(1, 3))
    usable = [place for place in np.argsort(-share, axis=None) if share.flat[place] > 0.02]
    middle = usable[: max(_WINDOWS, len(usable) * 3 // 4)]  # the emptiest quarter only where little else is there
    chosen = [middle[round(step)] for step in np.linspace(0, len(middle) - 1, min(_WINDOWS, len(middle)))]
    places = []
    for place in dict.fromkeys(int(one) for one in chosen):
        row, column = divmod(place, columns)
        left, top = round(column * cell * zoom), round(row * cell * zoom)
        places.append((left, top, min(_WINDOW, slide.size[0] - left), min(_WINDOW, slide.size[1] - top)))
    return places


def _scale_of(slide: Slide, windows: Sequence[Pixels], stain: Stain, *, um_per_px: float | None) -> Scale:
    if um_per_px:
        return Scale.exact(um_per_px, source="user")
    if slide.um_per_px:
        return Scale.exact(slide.um_per_px, source="file")
    scales = [scale for window in windows if (scale := estimate_scale(window, stain)) is not None]
    if not scales:
        raise ImageError(
            "shows no red cell and no nucleus to take the scale from. Give it with --um-per-px.", path=slide.name
        )
    return common_scale(scales)


def _by_strips(slide: Slide, longest: int) -> Pixels:
    """Return a thumbnail of a slide without levels, read in strips so that memory stays small."""
    width, height = slide.size
    factor = longest / max(width, height)
    strips = [(top, min(1024, height - top)) for top in range(0, height, 1024)]
    return np.concatenate([rescaled(slide.read(0, top, width, high), factor) for top, high in strips])


def _square(window: Pixels) -> Pixels:
    """Return a window padded with its own border to a common width, so that windows can be stacked."""
    side = round(_WINDOW * 0.4)
    height, width = window.shape[:2]
    return np.pad(window, ((0, 0), (0, max(0, side - width)), (0, 0)), mode="reflect" if width > side // 2 else "edge")[
        : min(height, side), :side
    ]


TILE = 2048  # pixels; with its margin one tile takes about 100 MB while it is worked on

Open = Callable[[], Slide]  # opens the slide; picklable, so that every process has its own file


@dataclass(frozen=True)
class Work:
    """What every tile of one slide needs; plain data that processes can share."""

    measures: SlideMeasures
    name: str
    state: Path
    crops: Path
    method: str
    source: StainStatistics | None
    target: StainStatistics
    colours: ColourTable | None = None
    """Brings crops for types to their colours; None where these are not wanted."""


@dataclass(frozen=True)
class SlideResult:
    """The cells of a slide in its pixels, numbered in reading order, and what could not be read."""

    measures: SlideMeasures
    size: tuple[int, int]
    cells: list[FieldCell]
    crops: list[Path]  # one for each cell
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was done to the values of the file, and what of it was not believed."""
    type_crops: tuple[Path, ...] = ()
    """One for each cell, from fields.crops, if requested."""


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

    type_crops: also write the crops for the model of types, into `output`/type-crops/`name`.

    Raises:
        ImageError: the slide cannot be opened, is blank, or has no scale. A damaged tile does not raise: it is named.
    """
    slide = open_slide()
    measures = measure_slide(slide, um_per_px=um_per_px)
    work = _prepare(slide, measures, output=output, name=name, method=method, target=target, type_crops=type_crops)
    tiles = tiles_of(slide, tile=tile, um_per_px=measures.scale.um_per_px)
    cells, problems = [], []
    for done in track(_all_tiles(open_slide, work, tiles, jobs=jobs), name, total=len(tiles)):
        cells += done.cells
        problems += [done.problem] if done.problem else []
    ordered = numbered(cells)
    write_png(output / "outlines" / f"{name}.png", draw_marks(slide.thumbnail(1024), slide.size, ordered))
    crops = [crop_path(work, cell) for cell in ordered]
    types = tuple(type_crop_path(work, cell) for cell in ordered) if type_crops else ()
    return SlideResult(measures, slide.size, ordered, crops, tuple(problems), slide.notes, types)


def crop_path(work: Work, cell: FieldCell) -> Path:
    """Return where a cell's crop lies: named by its middle, so that names do not depend on the tiles."""
    return work.crops / f"{work.name}-x{round(cell.centre[0]):06d}-y{round(cell.centre[1]):06d}.png"


def type_crop_path(work: Work, cell: FieldCell) -> Path:
    """Return the path of the crop for the model of types."""
    return work.crops.parent.parent / "type-crops" / work.name / crop_path(work, cell).name


@dataclass(frozen=True)
class _Done:
    cells: list[FieldCell]
    problem: str = ""


def _prepare(
    slide: Slide,
    measures: SlideMeasures,
    *,
    output: Path,
    name: str,
    method: str,
    target: StainStatistics,
    type_crops: bool,
) -> Work:
    """Settle the stain normalisation and the folder in which finished tiles are remembered."""
    sampled = list(sample_cells(slide, measures))
    crops = [cut_crop(field, cell) for field, cells in sampled for cell in cells[:20]]
    source = measure(sample_crops(crops)) if method != "none" else None
    tables = [table_of_field(field) for field, _ in sampled] if type_crops else []
    colours = np.median(tables, axis=0) if tables else None
    known = [asdict(measures), slide.size, method, target.to_json(), ClassicalDetector.name]
    key = fingerprint([*known, "types"] if type_crops else known)[:16]
    state, crops_folder = output / "state" / f"{name}-{key}", output / "crops" / name
    return Work(measures, name, state, crops_folder, method, source, target, colours)


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
        cells = [_from_json(_to_json(cell)) for cell in tile_cells(slide, work.measures, tile)]
        _write_crops(slide, work, cells)
    except ImageError as problem:
        return _Done([], str(problem))
    write_json(path, [_to_json(cell) for cell in cells])  # last: its presence means that the tile is done
    return _Done(cells)


def _write_crops(slide: Slide, work: Work, cells: list[FieldCell]) -> None:
    stain: Normaliser = normaliser(work.method, work.source, target=work.target)
    for cell in cells:
        field, inside = window_field(slide, work.measures, cell)
        write_png(crop_path(work, cell), stain(cut_crop(field, inside)))
        if work.colours is not None:
            write_png(type_crop_path(work, cell), crop_of_frame(*frame(field, inside), work.colours))


def _to_json(cell: FieldCell) -> dict[str, Any]:
    numbers = {"area_um2": cell.area_um2, "nucleus_um2": cell.nucleus_um2, "sharpness": cell.sharpness}
    numbers["nucleus_round"] = cell.nucleus_round
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
    numbers = {name: value[name] for name in ("area_um2", "nucleus_um2", "sharpness", "nucleus_round")}
    return replace(cell, flags=tuple(value["flags"]), **numbers)
