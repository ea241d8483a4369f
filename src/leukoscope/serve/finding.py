"""Cells in smear fields, for the worker and for a reader who draws one: the program's own way, kept in the store."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from ..data.images import RGB
from ..data.prepare import cell_mask
from ..errors import require
from .analysis import Drawn
from .tables import Picture

_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out, as in quality
_POINTS = 96  # of an outline that is kept


def is_field(image: RGB) -> bool:
    """Tell whether an image shows more than one cell cut out on black."""
    mask = cell_mask(image)
    return float(np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1])).mean()) > _FRAMED


@dataclass(frozen=True)
class Found:
    """The cells of one field: `images` as the model sees them, `crops` the same as PNG."""

    cells: Sequence[Any]
    images: list[RGB]
    scale: Any

    @property
    def crops(self) -> list[bytes]:
        """The crops as files."""
        return [png(image) for image in self.images]

    def drawn(self, digests: Sequence[str]) -> list[Drawn]:
        """Return where the cells lie, with their crops in the store."""
        return [drawn_of(cell, digest) for cell, digest in zip(self.cells, digests, strict=True)]

    def keep(self, session: Session, image_id: int) -> None:
        """Note the scale that was used, so that a cell added later is cut out like these."""
        facts = {"scale": self.scale.source, "um_low": self.scale.low, "um_high": self.scale.high}
        values = {"um_per_px": self.scale.um_per_px, "facts": facts, "kind": "field"}
        session.execute(update(Picture).where(Picture.id == image_id).values(**values))


def cells_of_field(path: Path, *, um_per_px: float | None) -> Found:
    """Find and cut out the cells of a field in the store.

    Raises:
        ImageError: it is no stained smear, or has no scale; the words say which.
        MissingExtraError: the extra `fields` is not installed.
    """
    require("cv2", feature="Finding cells in fields", extra="fields")
    from ..fields.cells import find_cells
    from ..fields.extraction import normalised_crops

    field = open_stored(path, um_per_px=um_per_px)
    cells = find_cells(field)
    return Found(cells, normalised_crops(field, cells) if cells else [], field.scale)


def cell_of_outline(
    path: Path, outline: Sequence[Sequence[float]], others: Sequence[Sequence[Sequence[float]]], *,
    um_per_px: float | None,
) -> Found:  # fmt: skip
    """Cut out one cell that a reader has drawn, in the stain of all the field's cells; x and y in pixels."""
    require("cv2", feature="Finding cells in fields", extra="fields")
    from ..fields.cells import describe
    from ..fields.crops import cut_crop
    from ..fields.detection import Found as Outlined
    from ..fields.extraction import field_normaliser

    field = open_stored(path, um_per_px=um_per_px)
    drawn, *rest = (describe(Outlined(np.array(each, float), 0.5, False), field) for each in (outline, *others))
    image = field_normaliser(field, [drawn, *rest], method="reinhard")(cut_crop(field, drawn))
    return Found([drawn], [image], field.scale)


def open_stored(path: Path, *, um_per_px: float | None) -> Any:
    """Open a field of the store."""
    from ..fields.cells import open_field

    return open_field(path, um_per_px=um_per_px)


def drawn_of(cell: Any, digest: str, *, origin: str = "model") -> Drawn:
    """Return what is stored of a found cell."""
    left, top, right, bottom = (int(each) for each in cell.box)
    step = max(1, len(cell.outline) // _POINTS)
    outline = [[round(float(x), 1), round(float(y), 1)] for x, y in cell.outline[::step]]
    facts = {
        "area_um2": round(cell.area_um2, 2), "nucleus_um2": round(cell.nucleus_um2, 2),
        "sharpness": round(cell.sharpness, 4), "flags": list(cell.flags),
    }  # fmt: skip
    return Drawn(digest, [left, top, right - left, bottom - top], outline, facts, origin)


def png(image: RGB) -> bytes:
    """Return an image as PNG, pixels alone."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
