"""The one reader of scale: micrometres per pixel as files state them, judged by one rule.

Units of OME: the schema's UnitsLength (OME data model, 2016-06). A value that no microscope gives is reported and left
out, and the scale is measured on the red cells instead.
"""

import html
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ..errors import ImageError, attempt
from .read import format_of, quietly, tiff_readable

PLAUSIBLE_UM_PER_PX = (0.015, 1.6)  # finer than any objective resolves, coarser than a white cell of eight pixels
INCH_UM, CM_UM, MM_UM, M_UM = 25_400.0, 10_000.0, 1_000.0, 1e6
_PRINT_DPI = (30, 4800)  # what cameras and programs write for printers, and nobody means
_SQUARE = 1.05  # width of a pixel over its height, above which they are not square

_PREFIXES = {
    "Y": 24,
    "Z": 21,
    "E": 18,
    "P": 15,
    "T": 12,
    "G": 9,
    "M": 6,
    "k": 3,
    "h": 2,
    "da": 1,
    "": 0,
    "d": -1,
    "c": -2,
    "m": -3,
    "µ": -6,
    "n": -9,
    "p": -12,
    "f": -15,
    "a": -18,
    "z": -21,
    "y": -24,
}
UNITS_UM = {f"{prefix}m": M_UM * 10.0**power for prefix, power in _PREFIXES.items()} | {
    "Å": 1e-4,
    "thou": INCH_UM / 1e3,
    "mil": INCH_UM / 1e3,
    "li": INCH_UM / 12,
    "in": INCH_UM,
    "inch": INCH_UM,
    "ft": 12 * INCH_UM,
    "yd": 36 * INCH_UM,
    "mi": 63_360 * INCH_UM,
    "ua": 1.495978707e17,
    "ly": 9.4607304725808e21,
    "pc": 3.0856776e22,
    "pt": INCH_UM / 72,
}
_OTHER_NAMES = {
    "um": "µm",
    "micron": "µm",
    "microns": "µm",
    "micrometer": "µm",
    "micrometre": "µm",
    "micrometers": "µm",
    "micrometres": "µm",
    "\\u00b5m": "µm",
    "nanometer": "nm",
    "nanometre": "nm",
    "nanometers": "nm",
    "millimeter": "mm",
    "millimetre": "mm",
    "millimeters": "mm",
    "centimeter": "cm",
    "centimetre": "cm",
    "meter": "m",
    "metre": "m",
    "inches": "in",
    "angstrom": "Å",
    "a": "Å",
}
_NO_LENGTH = ("pixel", "pixels", "reference frame", "px", "")


@dataclass(frozen=True)
class Stated:
    """What a file states about its scale."""

    um_per_px: float | None = None
    """None where it states none that a microscope gives."""
    note: str = ""
    """What it states and why that is not believed, as a sentence; empty where nothing is wrong."""


@dataclass(frozen=True)
class Claim:
    """One statement: where it is found, what is written there, and the micrometres that it means."""

    where: str
    written: str
    x: float | None
    y: float | None = None
    printed: bool = False
    """It may be meant for a printer, and is then left out without a word."""


def stated_scale(source: Path | BinaryIO) -> Stated:
    """Return the scale that an image file states: OME, ImageJ, Aperio, Leica, Ventana, Philips, or its resolution.

    A HEIC states none.

    Raises:
        ImageError: it cannot be opened as an image.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return stated_scale(stream)
    source.seek(0)
    head = source.read(4096)
    source.seek(0)
    if format_of(head) == "TIFF" and tiff_readable():
        from .tiff import Tiff

        with Tiff(source, name=getattr(source, "name", "The image")) as tiff:
            return scale_of_tiff(tiff)
    if format_of(head) == "HEIF":
        return Stated()  # of phones, which know nothing of a microscope
    found = quietly(lambda: believed(_claims_by_pillow(source)))
    if isinstance(found, Exception):
        raise ImageError("The scale cannot be read: this is not an image that can be opened.") from None
    return found


def scale_of_tiff(tiff: Any) -> Stated:
    """Return the scale that an open TIFF (`images.tiff.Tiff`) states."""
    return believed(_claims_of_tiff(tiff.file, tiff.page))


def believed(claims: Iterable[Claim]) -> Stated:
    """Return the first claim that a microscope may have made, and what is wrong with those before it."""
    wrong: list[str] = []
    for claim in claims:
        problem = _problem(claim)
        if not problem:
            return Stated(claim.x, " ".join(wrong))
        if not (claim.printed and _for_printers(claim)):
            wrong.append(f"{claim.where} states {claim.written}, {problem}; it is ignored.")
    return Stated(None, " ".join(wrong))


def length_um(value: str, unit: str) -> float | None:
    """Return a length in micrometres; None where value or unit is none.

    >>> length_um("81,8", "nm"), length_um("1", "pixel")
    (0.0818, None)
    """
    factor = unit_um(unit)
    number = number_of(value)
    return None if factor is None or number is None else number * factor


def unit_um(unit: str) -> float | None:
    """Return the micrometres of a unit of the OME schema, or as ImageJ and others write it; None if not a length."""
    unit = html.unescape(unit).strip().replace("μ", "µ").replace("Å", "Å")
    return UNITS_UM.get(unit) or UNITS_UM.get(_OTHER_NAMES.get(unit.lower(), ""))


def number_of(text: str) -> float | None:
    """Return a number with a decimal point or comma; None where it is none.

    >>> number_of(" 0,0818 "), number_of("unknown")
    (0.0818, None)
    """
    text = str(text).strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    value = attempt(lambda: float(text))
    return value if isinstance(value, float) and math.isfinite(value) else None


def _problem(claim: Claim) -> str:
    low, high = PLAUSIBLE_UM_PER_PX
    if claim.x is None:
        return "which is not a length"
    if not low <= claim.x <= high:
        return f"{claim.x:.4g} µm per pixel, which is impossible for a microscope"
    if claim.y and not 1 / _SQUARE < claim.x / claim.y < _SQUARE:
        return f"but {claim.y:.4g} µm for the height of a pixel, which is not square"
    return ""


def _for_printers(claim: Claim) -> bool:
    low, high = _PRINT_DPI
    return claim.x is None or claim.x <= 0 or low <= INCH_UM / claim.x <= high


def _claims_by_pillow(stream: BinaryIO) -> Iterator[Claim]:
    image = Image.open(stream)
    tags: Any = getattr(image, "tag_v2", {})
    description = str(tags.get(270, ""))
    yield from _ome(description)
    yield from _imagej(description, tags.get(282), tags.get(283))
    yield from _aperio(description)
    dpi = image.info.get("dpi")
    if dpi and image.format != "TIFF":
        across = attempt(lambda: [INCH_UM / float(side) for side in dpi])
        if not isinstance(across, Exception):
            yield Claim("Its resolution", f"{float(dpi[0]):.4g} dots per inch", across[0], across[-1], printed=True)
    yield from _resolution(tags.get(282), tags.get(283), tags.get(296))


def _claims_of_tiff(file: Any, page: Any) -> Iterator[Claim]:
    description = str(_tag(file.pages[0], 270) or "")
    yield from _ome(description)
    yield from _imagej(description, _tag(page, 282), _tag(page, 283))
    yield from _aperio(description)
    yield from _leica(description, int(page.imagewidth))
    yield from _philips(description)
    yield from _ventana(_tag(file.pages[0], 700))
    ndpi = bool(getattr(file, "is_ndpi", False))
    yield from _resolution(_tag(page, 282), _tag(page, 283), _tag(page, 296), always=ndpi)


def _tag(page: Any, code: int) -> Any:
    tag = page.tags.get(code)
    value = attempt(lambda: tag.value) if tag is not None else None
    return None if isinstance(value, Exception) else value


def _ome(description: str) -> Iterator[Claim]:
    found = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if not found:
        return
    sizes = dict(re.findall(r"""(PhysicalSize[XY](?:Unit)?)\s*=\s*["']([^"']*)["']""", found[0]))
    if "PhysicalSizeX" not in sizes:
        return
    units = {axis: html.unescape(sizes.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"}
    if units["X"].strip().lower() in _NO_LENGTH:
        return  # states that it is not calibrated
    x = length_um(sizes["PhysicalSizeX"], units["X"])
    y = length_um(sizes.get("PhysicalSizeY", ""), units["Y"])
    yield Claim("OME PhysicalSizeX", f"{sizes['PhysicalSizeX']} {units['X']}", x, y)


def _imagej(description: str, x_resolution: Any, y_resolution: Any) -> Iterator[Claim]:
    if not description.startswith("ImageJ="):
        return
    unit = re.search(r"^unit=(.*)$", description, re.MULTILINE)
    if unit is None or unit[1].strip().lower() in _NO_LENGTH:
        return
    factor = unit_um(unit[1])
    x, y = (_per_unit(value, factor) for value in (x_resolution, y_resolution))
    yield Claim("ImageJ", f"{_number(x_resolution):.6g} pixels per {unit[1].strip()}", x, y)


def _aperio(description: str) -> Iterator[Claim]:
    found = re.search(r"\bMPP\s*=\s*([^|;\r\n]*)", description)
    if found:
        value, unit = re.fullmatch(r"([-+.,\dEe]*)(.*)", found[1].replace(" ", ""), re.DOTALL).groups()  # type: ignore[union-attr]
        yield Claim("Aperio MPP", found[1].strip() or "nothing", length_um(value, unit or "µm"))


def _leica(description: str, width: int) -> Iterator[Claim]:
    """SCN states the width of each view in nanometres."""
    if "leica-microsystems" not in description[:400]:
        return
    for image in re.findall(r"<image\b.*?</image>", description, re.DOTALL):
        pixels = re.search(r'<pixels\b[^>]*\bsizeX="(\d+)"', image)
        view = re.search(r'<view\b[^>]*\bsizeX="(\d+)"', image)
        if pixels and view and int(pixels[1]) == width:
            yield Claim("Leica view", f"{view[1]} nm for {width} pixels", int(view[1]) / 1000 / width)


def _philips(description: str) -> Iterator[Claim]:
    if "DPUfsImport" not in description:
        return
    found = re.search(r'DICOM_PIXEL_SPACING"[^>]*>\s*(?:&quot;|")([^"&\s]+)', description)
    if found:
        yield Claim("Philips pixel spacing", f"{found[1]} mm", length_um(found[1], "mm"))


def _ventana(packet: Any) -> Iterator[Claim]:
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet or "")
    found = re.search(r'\bScanRes\s*=\s*"([^"]*)"', text)
    if found:
        yield Claim("Ventana ScanRes", found[1], length_um(found[1], "µm"))


def _resolution(x: Any, y: Any, unit: Any, *, always: bool = False) -> Iterator[Claim]:
    name = {2: "inch", 3: "centimetre"}.get(attempt(lambda: int(unit)) if unit is not None else 2)  # type: ignore[arg-type]
    if x is None or name is None:
        return
    if _number(x) == 1:
        return  # nobody set it
    factor = INCH_UM if name == "inch" else CM_UM
    written = f"{_number(x):.4g} pixels per {name}"
    yield Claim("Its resolution", written, _per_unit(x, factor), _per_unit(y, factor), printed=not always)


def _per_unit(resolution: Any, factor: float | None) -> float | None:
    """Return the size of a pixel from pixels per unit; None where there are none."""
    number = _number(resolution)
    return factor / number if factor and number > 0 and math.isfinite(number) else None


def _number(value: Any) -> float:
    """Return a resolution, which is a fraction in tifffile and a number in Pillow, as a number; 0 if it is none."""

    def read() -> float:
        return float(value[0] / value[1]) if isinstance(value, tuple) and len(value) == 2 else float(value)

    number = attempt(read)
    return number if isinstance(number, float) and math.isfinite(number) else 0.0
