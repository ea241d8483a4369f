"""Faults of a table of cells before training: damaged images, duplicates, leakage."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ImageError, usable
from ..files import read_csv, write_csv
from ..images.crop import bounding_box, cell_mask, cut_square, square_around
from ..images.read import RGB, read_picture
from ..progress import in_parallel, track
from .cells import Cell, natural, relative
from .index import note_of_kind
from .release import SIDES, SOURCE
from .split import joined, sharing_bytes, subject_groups

TRAITS = ("path", "area_px", "mean_red", "mean_green", "mean_blue")

# Two photographs of one cell: 16x16 thumbnails that correlate above this, of cells that differ in size by less than
# this. Of the 519 such pairs among the 4,137 originals at hand, those that were looked at (the pairs between subjects
# that share no bytes, and the six weakest) show the same cell; the strongest pair seen that does not has .979.
_SAME_CELL = 0.985
_SAME_SIZE = 0.05
_SIDE = 16  # of a thumbnail, in pixels
_SHORT = 32  # numbers of a thumbnail that are compared first
_AT_ONCE = 2**21  # pairs compared at once: 8 MiB, of which a cache holds much


@dataclass(frozen=True)
class CellTraits:
    """What is measured on each cell without a model; row i belongs to row i of the table."""

    area_px: NDArray[np.float64]
    """Pixels that are not background, (cells,); NaN where the image cannot be used."""
    colour: NDArray[np.float64]
    """Mean red, green and blue of the cell, 0 to 255, (cells, 3)."""
    sides: NDArray[np.float64]
    """Width and height of the box around the cell, as shares of the image, (cells, 2)."""
    thumbnails: NDArray[np.float32]
    """Grey 16x16 views of the cell, (cells, 256)."""
    problems: dict[int, str]
    """Row -> why its image cannot be used."""
    changes: dict[str, int] = field(default_factory=dict)
    """What the reader did to the values of files, such as to bring them to sRGB -> to how many."""


def measure_traits(cells: Sequence[Cell]) -> CellTraits:
    """Decode every image once and measure the cell in it; what cannot be used is named in `problems`."""
    measured = list(track(in_parallel(_measured, cells), "Auditing", total=len(cells)))
    rows = [row for row, _ in measured]
    changes = Counter(note for _, notes in measured for note in notes)
    problems = {number: row for number, row in enumerate(rows) if isinstance(row, str)}
    blank = np.full(6 + _SIDE**2, np.nan, dtype=np.float64)
    table = np.array([blank if isinstance(row, str) else row for row in rows]).reshape(len(cells), -1)
    return CellTraits(table[:, 0], table[:, 1:4], table[:, 4:6], table[:, 6:].astype(np.float32), problems, changes)


def audit(cells: Sequence[Cell], traits: CellTraits | None) -> dict[str, Any]:
    """Return the content of audit.json: counts, unusable images, duplicates, and the subjects to keep in one group.

    Without traits, the audit contains only what names and digests show.
    """
    near = near_duplicates(cells, traits) if traits else []
    linked = sorted({(a.subject, b.subject) for a, b, _ in near if _across(a, b)})
    groups = subject_groups(cells, linked=linked)
    subjects = sorted({cell.subject for cell in cells}, key=natural)
    problems = traits.problems if traits else {}
    return {
        "format": 1,
        "images_opened": traits is not None,
        "images": len(cells),
        "labelled": sum(bool(cell.label) for cell in cells),
        "classes": dict(sorted(Counter(cell.label for cell in cells if cell.label).items())),
        "subjects": len({cell.subject for cell in cells if cell.subject}),
        "parts": _per_part(cells),
        "sizes": {f"{width}x{height}": n for (width, height), n in Counter((c.width, c.height) for c in cells).items()},
        "changes": dict(Counter(traits.changes).most_common()) if traits else {},
        "unusable": [{"name": cells[row].name, "problem": text} for row, text in problems.items()],
        "exact_duplicates": _exact_duplicates(cells) | {"joins": _several(joined(subjects, sharing_bytes(cells)))},
        "label_conflicts": [[a.name, b.name] for a, b in _identical_pairs(cells) if a.label and b.label != a.label],
        "near_duplicates": _near_summary(near),
        "linked_subjects": [list(pair) for pair in linked],
        "joined_subjects": _several(groups),
        "subjects_of_two_classes": _of_two_classes(cells),
        "warnings": note_of_kind(cells) if traits else [],
    }


def near_duplicates(cells: Sequence[Cell], traits: CellTraits) -> list[tuple[Cell, Cell, float]]:
    """Find images that show the same cell though their bytes differ; return pairs with their correlation.

    None is missed. What keeps it fast: only cells of nearly one size are compared, and by 32 numbers each before the
    256 of their thumbnails decide.
    """
    usable = np.flatnonzero(np.nan_to_num(traits.thumbnails.std(axis=1)) > 1)  # a flat picture resembles them all
    if len(usable) < 2:
        return []
    vectors = traits.thumbnails[usable] - traits.thumbnails[usable].mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sides = np.log(traits.sides[usable])
    pairs = np.concatenate(list(_candidates(_shortened(vectors), np.floor(sides / _SAME_SIZE).astype(int))))
    correlation = np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    same_cell = (correlation >= _SAME_CELL) & (abs(sides[pairs[:, 0]] - sides[pairs[:, 1]]).max(axis=1) < _SAME_SIZE)
    found = zip(usable[pairs[same_cell]], correlation[same_cell], strict=True)
    named = ((cells[a], cells[b], float(value)) for (a, b), value in found)
    return sorted((pair for pair in named if pair[0].sha256 != pair[1].sha256), key=lambda pair: -pair[2])


def _shortened(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, 32) vectors whose products are never below those of the (n, 256) unit vectors given.

    They hold the first principal components and the length of what those leave out (Cauchy and Schwarz).
    """
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    first = vectors @ axes[:, 1 - _SHORT :]
    rest = np.sqrt(np.maximum(1 - (first**2).sum(axis=1, keepdims=True), 0))
    return np.hstack([first, rest])


def _candidates(vectors: NDArray[np.float32], squares: NDArray[np.int_]) -> Iterator[NDArray[np.int_]]:
    """Yield pairs of rows (k, 2), the smaller first, whose product suffices and whose squares are one or touch.

    Rows are sorted by square, column after column, so that a square and the one below it lie in one slice, and the
    three that touch it in the next column in another.
    """
    column, row = (squares - squares.min(axis=0)).T
    height = row.max() + 2  # the last stays empty, so that the ends of two columns never touch
    order = np.argsort(column * height + row, kind="stable")
    number, vectors = (column * height + row)[order], vectors[order]
    reach = np.array([0, 1, 2, height - 1, height + 2])
    for square in np.unique(number):
        start, end, below, low, high = np.searchsorted(number, square + reach)
        for first, last in ((start, below), (low, high)):
            for some in _slices(start, end, step=_AT_ONCE // max(last - first, 1) + 1):
                close = vectors[some] @ vectors[first:last].T > _SAME_CELL - 1e-4  # room for single precision
                a, b = np.divmod(np.flatnonzero(close), last - first)  # fifty times faster than nonzero
                a, b = a + some.start, b + first
                yield np.sort(order[np.column_stack([a, b])[b > a]], axis=1)


def _slices(start: int, end: int, *, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, end)) for first in range(start, end, step))


def write_traits(path: Path, cells: Sequence[Cell], traits: CellTraits) -> None:
    """Write traits.csv: one row per cell in the order of the table; empty values where the image cannot be used."""
    folder = path.parent.resolve()
    values = np.column_stack([traits.area_px, traits.colour])
    rows = (
        {"path": relative(cell.path, folder)}
        | {name: "" if np.isnan(value) else f"{value:.6g}" for name, value in zip(TRAITS[1:], row, strict=True)}
        for cell, row in zip(cells, values, strict=True)
    )
    write_csv(path, rows, columns=TRAITS)


def read_traits(path: Path, cells: Sequence[Cell]) -> NDArray[np.float64]:
    """Read traits.csv as (cells, 4): area in pixels, mean red, green, blue; NaN where a value is empty.

    Raises:
        DataError: the file is missing or belongs to another table.
    """
    rows = read_csv(path, required=TRAITS)
    folder = path.parent.resolve()
    if [row["path"] for row in rows] != [relative(cell.path, folder) for cell in cells]:
        raise DataError(f"{path} belongs to another table of cells. Run leukoscope data audit again.")
    return np.array([[float(row[name] or "nan") for name in TRAITS[1:]] for row in rows])


def _measured(cell: Cell) -> tuple[NDArray[np.float64] | str, tuple[str, ...]]:
    """Return the numbers of a cell, or why its image cannot be used, and what the reader did to its values."""
    try:
        picture = usable(lambda: read_picture(cell.path), name=str(cell.path))
        return usable(lambda: _measure(cell, picture.pixels), name=str(cell.path)), picture.notes
    except ImageError as unusable:
        return str(unusable), ()


def _measure(cell: Cell, image: RGB) -> NDArray[np.float64] | str:
    height, width = image.shape[:2]
    if cell.source == SOURCE and (width not in SIDES or width != height):
        return f"{cell.path} has {width}x{height} pixels; images of the release have 450x450 or 600x600. Replace it."
    mask = cell_mask(image)
    if not mask.any():
        return f"{cell.path} is all black: there is no cell to see. Remove it or replace it."
    left, top, right, bottom = box = bounding_box(mask)
    inside, pixels = mask[top:bottom, left:right], image[top:bottom, left:right]
    thumbnail = cut_square(image, *square_around(box, margin=0), size=_SIDE).mean(axis=2).ravel()
    sides = ((right - left) / width, (bottom - top) / height)
    return np.concatenate([[np.count_nonzero(inside)], _mean_colour(pixels, inside), sides, thumbnail])


def _mean_colour(pixels: RGB, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean red, green and blue of the pixels that lie inside; twice as fast as blackening the others.

    All are summed, and what lies outside, which is black but for a few, is taken off. Whole numbers below 2^24 are
    exact in single precision, and a product with ones is the fastest sum.
    """
    rows = pixels.reshape(len(pixels), -1).astype(np.float32)
    total = (np.ones(len(rows), dtype=np.float32) @ rows).astype(np.float64).reshape(-1, 3).sum(axis=0)
    outside = pixels[_dim(pixels, inside)]
    return np.asarray((total - outside.sum(axis=0, dtype=np.int64)) / np.count_nonzero(inside))


def _dim(pixels: RGB, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where there is light outside, (height, width)."""
    lit = pixels[..., 0] | pixels[..., 1] | pixels[..., 2]
    return np.asarray((lit > 0) & ~inside)


def _several(groups: dict[str, tuple[str, ...]]) -> list[list[str]]:
    """Return the groups of more than one subject."""
    return [list(group) for group in groups.values() if len(group) > 1]


def _across(a: Cell, b: Cell) -> bool:
    """Return whether two images have different subject ids."""
    return bool(a.subject and b.subject and a.subject != b.subject)


def _per_part(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    return {
        part: {
            "images": sum(cell.part == part for cell in cells),
            "subjects": len({cell.subject for cell in cells if cell.part == part and cell.subject}),
            "classes": dict(sorted(Counter(c.label or "unlabelled" for c in cells if c.part == part).items())),
        }
        for part in sorted({cell.part for cell in cells})
    }


def _exact_duplicates(cells: Sequence[Cell]) -> dict[str, Any]:
    pairs = list(_identical_pairs(cells))
    return {
        "pairs": len(pairs),
        "across_subjects": sum(_across(a, b) for a, b in pairs),
        "across_parts": sum(a.part != b.part for a, b in pairs),
        "files": [[a.name, b.name] for a, b in pairs],
    }


def _identical_pairs(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Yield pairs of byte-identical images; in a large group of them, each with the first only."""
    by_digest: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_digest[cell.sha256].append(cell)
    for same in by_digest.values():
        yield from combinations(same, 2) if len(same) <= 10 else ((same[0], other) for other in same[1:])


def _near_summary(near: Sequence[tuple[Cell, Cell, float]]) -> dict[str, Any]:
    return {
        "pairs": len(near),
        "across_subjects": sum(_across(a, b) for a, b, _ in near),
        "across_parts": sum(a.part != b.part for a, b, _ in near),
        "rule": f"thumbnails correlate by {_SAME_CELL} or more and sizes differ by less than {_SAME_SIZE:.0%}",
        "files": [[a.name, b.name, round(value, 4)] for a, b, value in near],
    }


def _of_two_classes(cells: Sequence[Cell]) -> list[str]:
    """Return the subjects that have cells of more than one class: right in a smear, wrong in C-NMC."""
    seen: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if cell.label and cell.subject:
            seen[cell.subject].add(cell.label)
    return sorted((subject for subject, labels in seen.items() if len(labels) > 1), key=natural)
