"""Cells in smear fields, for the worker and for a reader who draws one: the program's own way, kept in the store."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from ..errors import require
from ..images.crop import cell_mask
from ..images.read import RGB
from ..inference.predictor import Predictor
from .analysis import Drawn
from .tables import FIELD, Picture

if TYPE_CHECKING:
    from ..inference.fields import JudgedCell

_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out, as in quality
_CERTAIN_CROP = 640 * 480  # pixels; the release's crops have fewer, cameras take more
_POINTS = 96  # of an outline that is kept


def is_field(image: RGB, path: Path) -> bool:
    """Tell whether an image shows more than one cell cut out on black."""
    mask = cell_mask(image)
    if float(np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1])).mean()) > _FRAMED:
        return True
    if mask.size < _CERTAIN_CROP:
        return False
    from ..inference.sources import kind_of  # also knows a round field of view on black

    return kind_of(path) == "field"


def cells_of_field(
    path: Path, predictor: Predictor, *, um_per_px: float | None, point: str
) -> tuple[Any, list["JudgedCell"]]:
    """Find and judge the cells of a field in the store; return its scale and them.

    Raises:
        ImageError: it is no stained smear, or has no scale; the words say which.
        MissingExtraError: the extra `fields` is not installed.
    """
    field = _open(path, um_per_px=um_per_px)
    from ..inference.fields import judge_cells

    return field.scale, list(judge_cells(field, predictor, point=point))


def cell_of_outline(
    path: Path, outline: Sequence[Sequence[float]], others: Sequence[Sequence[Sequence[float]]], predictor: Predictor,
    *, um_per_px: float | None, point: str,
) -> "JudgedCell":  # fmt: skip
    """Judge one cell that a reader has drawn, in the stain of all the field's cells; x and y in pixels."""
    field = _open(path, um_per_px=um_per_px)
    from ..fields.cells import describe
    from ..fields.detection import Found
    from ..fields.extraction import field_normaliser
    from ..inference.fields import judge_cell, stain_of

    drawn, *rest = (describe(Found(np.array(each, float), 0.5, False), field) for each in (outline, *others))
    stain = field_normaliser(field, [drawn, *rest], target=stain_of(predictor.manifest))
    return judge_cell(field, drawn, predictor, stain=stain, point=point)


def _open(path: Path, *, um_per_px: float | None) -> Any:
    for module in ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")
    from ..fields.cells import open_field

    return open_field(path, um_per_px=um_per_px)


def keep_scale(session: Session, image_id: int, scale: Any) -> None:
    """Note the scale that was used, so that a cell added later is cut out like these."""
    facts = {"scale": scale.source, "um_low": scale.low, "um_high": scale.high}
    values = {"um_per_px": scale.um_per_px, "facts": facts, "kind": FIELD}
    session.execute(update(Picture).where(Picture.id == image_id).values(**values))


def drawn_of(cell: Any, digest: str, *, origin: str = "model") -> Drawn:
    """Return what is stored of a found cell."""
    left, top, right, bottom = (int(each) for each in cell.box)
    step = max(1, len(cell.outline) // _POINTS)
    outline = [[round(float(x), 1), round(float(y), 1)] for x, y in cell.outline[::step]]
    facts = {
        "area_um2": round(float(cell.area_um2), 2), "nucleus_um2": round(float(cell.nucleus_um2), 2),
        "sharpness": round(float(cell.sharpness), 4), "flags": list(cell.flags),
    }  # fmt: skip
    return Drawn(digest, [left, top, right - left, bottom - top], outline, facts, origin)


def png(image: RGB) -> bytes:
    """Return an image as PNG, pixels alone."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
