"""cells.csv and fields.csv: what was found, one row per cell and one per field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import sha256_of, write_csv

if TYPE_CHECKING:
    from .cells import FieldCell
    from .detection import Outline
    from .scale import Scale

# The first nine are those of every cells.csv, so that training, prediction and reports can read it.
CELL_COLUMNS = (
    "path", "label", "subject", "part", "source", "name", "sha256", "width", "height",
    "field", "number", "left", "top", "right", "bottom", "centre_x", "centre_y",
    "area_um2", "nucleus_um2", "sharpness", "flags", "um_per_px", "scale", "outline",
)  # fmt: skip
FIELD_COLUMNS = ("field", "width", "height", "cells", "flagged", "um_per_px", "um_low", "um_high", "scale", "problem")


def cell_row(
    cell: FieldCell, *, crop: Path, folder: Path, field: str, subject: str, scale: Scale, side: int
) -> dict[str, Any]:
    """Return one row of cells.csv; the crop's path is written relative to `folder`."""
    left, top, right, bottom = cell.box
    return {
        "path": crop.relative_to(folder).as_posix(),
        "label": "", "subject": subject, "part": "", "source": "field", "name": crop.stem,
        "sha256": sha256_of(crop), "width": side, "height": side,
        "field": field, "number": cell.number, "left": left, "top": top, "right": right, "bottom": bottom,
        "centre_x": f"{cell.centre[0]:.1f}", "centre_y": f"{cell.centre[1]:.1f}",
        "area_um2": f"{cell.area_um2:.1f}", "nucleus_um2": f"{cell.nucleus_um2:.1f}",
        "sharpness": f"{cell.sharpness:.3f}", "flags": "; ".join(cell.flags),
        "um_per_px": f"{scale.um_per_px:.5g}", "scale": scale.source, "outline": outline_text(cell.outline),
    }  # fmt: skip


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
