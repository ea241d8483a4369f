"""Whatever is given to a predictor, answered: cells, fields and slides, as files, folders, arrays or PIL images."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from ..bundle.manifest import REFUSED
from ..errors import ImageError, UsageError, attempt, installed
from ..progress import in_parallel
from .opinion import Opinion
from .sources import SUFFIXES, Kind, Look, gather, kind_of, look_for, ready_for, shows_a_field

if TYPE_CHECKING:
    from .fields import JudgedCell, Reader
    from .predictor import Image, Predictor


@dataclass(frozen=True)
class _Item:
    """One image, whatever brought it."""

    image: "Image"
    name: str
    kind: Kind
    subject: str = ""


def answer_all(
    predictor: "Predictor",
    images: "Iterable[Image]",
    *,
    point: str,
    kind: Look = "auto",
    um_per_px: float | None = None,
    with_crops: bool = False,
) -> Iterator[Opinion]:
    """Yield one opinion per cell, in the order of the images; Predictor.predict says what may be given.

    Raises:
        UsageError: a path does not exist.
        DataError: a folder holds no image, or a table has no column path.
        MissingExtraError: an image shows a smear field, and the extra `fields` is not installed.
    """
    items = list(_items(images, kind=look_for(predictor.manifest, kind)))
    reader = _LazyReader(predictor, items, point=point, um_per_px=um_per_px, with_crops=with_crops)
    for shown, group in groupby(items, key=lambda item: item.kind):
        if shown == "crop":
            pairs = ((item, item.image) for item in group)
            for item, opinion in predictor.stream(pairs, point=point, with_crops=with_crops):
                yield replace(opinion, name=item.name, subject=item.subject)
        else:
            for item in group:
                yield from reader.answer(item)


def _items(images: "Iterable[Image]", *, kind: Look) -> Iterator[_Item]:
    for number, image in enumerate(images, start=1):
        if isinstance(image, str | os.PathLike):
            if not os.fspath(image):
                raise UsageError(f"The path of image {number} is empty. Check the list.")
            yield from _of_path(Path(image), kind=kind)
        else:
            yield _Item(image, f"image {number}", _kind_of_pixels(image, kind))


def _of_path(path: Path, *, kind: Look) -> Iterator[_Item]:
    try:
        missing = not path.exists()
    except OSError:  # a name too long for the file system
        missing = True
    if missing:
        raise UsageError(f"{path} does not exist. Check the path.")
    sources = gather([path], suffixes=SUFFIXES, dicom=True).sources
    kinds = in_parallel(lambda source: kind_of(source.path, look=kind), sources)
    for source, shown in zip(sources, kinds, strict=True):
        yield _Item(source.path, str(source.path), shown, source.subject)


def _kind_of_pixels(image: Any, look: Look) -> Kind:
    pixels = image
    if isinstance(image, PIL.Image.Image) and image.mode == "RGB":
        pixels = attempt(lambda: np.asarray(image))  # Pillow may read the file only now
    right = isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    if not right or not pixels.size or look == "crops":
        return "crop"  # what is wrong with it is reported by name
    return "field" if look == "fields" or (installed("cv2") and shows_a_field(pixels)) else "crop"


class _LazyReader:
    """Opens fields and slides, which needs OpenCV, when the first one comes."""

    def __init__(
        self, predictor: "Predictor", items: Iterable[_Item], *, point: str, um_per_px: float | None, with_crops: bool
    ) -> None:
        self._predictor, self._point, self._um_per_px, self._crops = predictor, point, um_per_px, with_crops
        self._files = [item.image for item in items if item.kind != "crop" and isinstance(item.image, Path)]
        self._reader: Reader | None = None

    def answer(self, item: _Item) -> Iterator[Opinion]:
        """Yield the opinions on the cells of a field or slide; or one refusal, where it cannot be used."""
        ready_for(item.kind)
        try:
            for judged in self._cells(item):
                yield replace(judged.opinion, subject=item.subject, field=item.name, found=judged.cell)
        except ImageError as unusable:
            yield Opinion(item.name, REFUSED, unusable.sentence, readable=False, subject=item.subject)

    def _cells(self, item: _Item) -> "Iterator[JudgedCell]":
        if isinstance(item.image, Path):
            return self._opened().open(item.image).cells
        from ..fields.cells import field_of
        from ..fields.scale import Scale
        from .fields import judge_cells

        scale = Scale.exact(self._um_per_px, source="user") if self._um_per_px else None
        field = field_of(np.asarray(item.image), name=item.name, scale=scale)
        return judge_cells(field, self._predictor, point=self._point, with_crops=self._crops)

    def _opened(self) -> "Reader":
        if self._reader is None:
            from ..fields.extraction import FieldOptions
            from .fields import Reader

            self._reader = Reader(
                self._predictor,
                self._files,
                options=FieldOptions(self._um_per_px),
                point=self._point,
                with_crops=self._crops,
            )
        return self._reader
