"""Read DICOM microscope images: VL Microscopic, VL Slide-Coordinates Microscopic and VL Whole Slide Microscopy.

Only pixels, scale and the identity that results must carry are read; the patient's data stay in the source object.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, require

MICROSCOPE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.77.1.2": "VL Microscopic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.3": "VL Slide-Coordinates Microscopic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "VL Whole Slide Microscopy Image",
}
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_PREAMBLE = 128  # bytes before the letters DICM
_UM_PER_MM = 1000.0


class DicomImage:
    """A microscope image in DICOM, read piece by piece; compressed ones are decoded frame by frame."""

    def __init__(self, path: Path) -> None:
        """Open an image.

        Raises:
            ImageError: the file is no DICOM, shows something other than a microscope's field, or has no pixels.
            MissingExtraError: the extra `dicom` is not installed.
        """
        self.path = path
        self.name = path.name
        self._image = _open(path)
        self._whole_slide = str(self._image.SOPClassUID) == _WHOLE_SLIDE
        rows, columns = (
            ("TotalPixelMatrixRows", "TotalPixelMatrixColumns") if self._whole_slide else ("Rows", "Columns")
        )
        self.size = (int(self._image[columns].value), int(self._image[rows].value))
        self.um_per_px = _um_per_px(self._image, width=self.size[0])

    def read(self, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a rectangle at full resolution, uint8 RGB, (height, width, 3)."""
        try:
            if not self._whole_slide:
                return _eight_bits(self._frame())[top : top + height, left : left + width]
            matrix = self._image.get_total_pixel_matrix(
                row_start=top, row_end=top + height, column_start=left, column_end=left + width,
                dtype=np.uint8, as_indices=True, apply_icc_profile=False,
            )  # fmt: skip
        except Exception as broken:  # noqa: BLE001 - decoders raise whatever they raise
            line = (str(broken).splitlines() or [type(broken).__name__])[0][:120]
            raise ImageError(f"{self.path} is damaged at {left}, {top} ({line}). Copy it again.") from None
        return _eight_bits(np.asarray(matrix))

    def thumbnail(self, longest: int) -> NDArray[np.uint8]:
        """Return the whole image shrunk to about `longest` pixels by taking every n-th, read in strips."""
        width, height = self.size
        step = max(1, max(width, height) // longest)
        strips = [self.read(0, top, width, min(1024, height - top)) for top in range(0, height, 1024)]
        return np.concatenate([strip[(-top) % step :: step, ::step] for top, strip in _with_tops(strips)])

    def identity(self) -> Any:
        """Return the source's dataset without its pixels, for results that must carry its identity."""
        pydicom = require("pydicom", feature="DICOM", extra="dicom")
        return pydicom.dcmread(self.path, stop_before_pixels=True)

    def _frame(self) -> NDArray[Any]:
        return np.asarray(self._image.get_frame(1, dtype=np.uint16 if self._image.BitsAllocated > 8 else np.uint8))


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its letters, not its name."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def _open(path: Path) -> Any:
    highdicom = require("highdicom", feature="DICOM", extra="dicom")
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    try:
        head = pydicom.dcmread(path, defer_size=4096)  # pixels stay in the file
    except Exception as broken:  # noqa: BLE001 - parsers raise whatever they raise
        raise ImageError(f"{path} cannot be read as DICOM ({type(broken).__name__}). Export it again.") from None
    kind = str(head.get("SOPClassUID", ""))
    if kind not in MICROSCOPE_CLASSES:
        shown = pydicom.uid.UID(kind).name if kind else "an unknown kind of object"
        raise ImageError(f"{path} is {shown}. Known: {', '.join(MICROSCOPE_CLASSES.values())}.")
    if "Rows" not in head or "PixelData" not in head:
        raise ImageError(f"{path} is a DICOM object without pixels. Export the image, not only its header.")
    if head.get("SamplesPerPixel", 1) != 3:
        raise ImageError(f"{path} is black and white; finding stained cells needs colour. Take the field in colour.")
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # it warns of every image without a colour profile
    try:
        image = highdicom.imread(path, lazy_frame_retrieval=kind == _WHOLE_SLIDE)
    except Exception as broken:  # noqa: BLE001
        line = (str(broken).splitlines() or [type(broken).__name__])[0][:120]
        raise ImageError(f"{path} has no pixels that can be read ({line}). Export it again.") from None
    return image


def _um_per_px(image: Any, *, width: int) -> float | None:
    """Return micrometres per pixel from the pixel spacing, else from the width of the imaged volume (both in mm)."""
    for groups in (image.get("SharedFunctionalGroupsSequence"), image.get("PerFrameFunctionalGroupsSequence")):
        if groups and "PixelMeasuresSequence" in groups[0]:
            return float(groups[0].PixelMeasuresSequence[0].PixelSpacing[0]) * _UM_PER_MM
    spacing = image.get("PixelSpacing") or image.get("ImagerPixelSpacing")
    if spacing:
        return float(spacing[0]) * _UM_PER_MM
    across = image.get("ImagedVolumeWidth")
    return float(across) * _UM_PER_MM / width if across else None


def _with_tops(strips: list[NDArray[np.uint8]]) -> list[tuple[int, NDArray[np.uint8]]]:
    tops = np.cumsum([0, *(len(strip) for strip in strips)])
    return [(int(top), strip) for top, strip in zip(tops, strips, strict=False)]


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    bits = max(8, int(pixels.max()).bit_length())
    return np.asarray(pixels.astype(np.uint32) * 255 // (2**bits - 1), np.uint8)
