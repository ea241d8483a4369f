"""Write docs/reference/formats.md from files that are written and read here and now: `make formats`."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import imagecodecs
import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from PIL import Image

from leukoscope.errors import ImageError
from leukoscope.images.read import read_picture
from leukoscope.images.tiff import Tiff
from leukoscope.interop.dicom import DicomImage

from .grid import CODECS, DEPTHS, PLANES, ways, write
from .test_read import FORMATS, deep_png, display_p3, own_array
from .test_stated_colour import (
    ADOBE,
    P3,
    SRGB,
    bmp,
    brought,
    by_littlecms,
    gamma_chunk,
    png,
    primaries_chunk,
    tiff_of_primaries,
    with_box,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "formats.md"
LIBRARIES = ("pillow", "tifffile", "imagecodecs", "pydicom", "highdicom", "pi-heif")
EIGHT, LOSSY = "8 bits", ("jpeg", "jpegxr")


def picture() -> NDArray[np.uint8]:
    y, x = np.mgrid[:64, :80] / 64
    waves = [np.sin(7 * x + 3 * y), np.sin(5 * x * y + 1), np.cos(9 * y - 4 * x)]
    pixels = np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).round().astype(np.uint8)
    pixels[0, :2] = [[255, 255, 255], [0, 0, 0]]
    return pixels


def grid() -> tuple[str, int]:
    """Return which depths come out as tifffile's own array, by codec and planes, and how many files were tried."""
    right: dict[tuple[str, str], set[str]] = defaultdict(set)
    wrong: Counter[tuple[str, str]] = Counter()
    tried = 0
    with TemporaryDirectory() as folder:
        for way in ways():
            path = write(Path(folder) / f"{way}.tif", picture(), way)
            white = 1 if way.depth == "float" else 2 ** int(way.depth) - 1
            read = read_picture(path).pixels
            with Tiff(path, name="slide") as tiff:
                part, _ = tiff.read(7, 9, 40, 30)
            same = np.array_equal(read, np.floor(own_array(path) / white * 255 + 0.5))
            same = same and np.array_equal(part, read[9:39, 7:47])
            tried += 1
            right[way.codec, way.planes].add(way.depth)
            wrong[way.codec, way.planes] += not same
            path.unlink()
    rows = [[codec, *(_cell(right, wrong, codec, planes) for planes in PLANES)] for codec in CODECS]
    lines = [["codec", *PLANES], ["---"] * (1 + len(PLANES)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines), tried


def _cell(right: dict[tuple[str, str], set[str]], wrong: Counter[tuple[str, str]], codec: str, planes: str) -> str:
    if wrong[codec, planes]:
        return f"{wrong[codec, planes]} wrong"
    depths = [depth for depth in DEPTHS if depth in right[codec, planes]]
    return " ".join(depths) or "–"


def said(work: Callable[[], object]) -> str:
    """Return what is said when a file is read, or 'read'."""
    try:
        work()
    except ImageError as refused:
        return refused.sentence
    return "read"


def of_pillow() -> str:
    rows = ["| kind | read | colour profile applied | turned upright |", "|---|---|---|---|"]
    eight = picture()
    for kind, more in FORMATS.items():
        plain, profiled, turned = io.BytesIO(), io.BytesIO(), io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.fromarray(eight)
        image.save(plain, kind, **more)
        same = np.array_equal(
            read_picture(plain.getvalue()).pixels, np.asarray(Image.open(io.BytesIO(plain.getvalue())).convert("RGB"))
        )
        if kind in ("BMP", "JPEG2000"):
            made = bmp(eight, display_p3()) if kind == "BMP" else with_box(eight, b"\2\0\0" + display_p3())
            profile = any("sRGB" in note for note in read_picture(made).notes)
            rows.append(f"| {kind} | {'pixel for pixel' if same else 'WRONG'} | {_yes(profile)} | – |")
            continue
        image.save(profiled, kind, icc_profile=display_p3(), **more)
        if kind == "TIFF":
            tifffile.imwrite(turned, eight, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
        else:
            image.save(turned, kind, exif=exif, **more)
        profile = any("sRGB" in note for note in read_picture(profiled.getvalue()).notes)
        upright = read_picture(turned.getvalue()).pixels.shape[:2] == (80, 64)
        rows.append(f"| {kind} | {'pixel for pixel' if same else 'WRONG'} | {_yes(profile)} | {_yes(upright)} |")
    deep = read_picture(deep_png(eight, display_p3()))
    rows.append(f"| PNG, 16 bits | {deep.notes[0]} | {_yes('sRGB' in deep.notes[-1])} | – |")
    heic = read_picture(Path(__file__).parent / "phone.heic")
    rows.append(f"| HEIC (extra `heic`) | by libheif | {_yes('sRGB' in heic.notes[-1])} | by libheif |")
    return "\n".join(rows)


def colours() -> str:
    """Return how far the colours of each way to state them lie from their formula, in grey levels."""
    rows = ["| colours are stated by | read | furthest from the formula |", "|---|---|---|"]
    pixels = np.random.default_rng(5).integers(20, 236, (40, 50, 3), dtype=np.uint8)
    lab = by_littlecms(pixels, to_lab=True)
    lab[..., 1:] *= 256
    deep = np.dstack([lab[..., :1] * 655.35, lab[..., 1:]]).round().astype(int).astype(np.uint16)
    content = io.BytesIO()
    tifffile.imwrite(content, deep, photometric="cielab")
    ways = {
        "PNG cICP, Display P3": (png(pixels, (b"cICP", bytes([12, 13, 0, 1]))), brought(pixels, P3, None)),
        "PNG gAMA 1": (png(pixels, gamma_chunk(1.0)), brought(pixels, SRGB, 1)),
        "PNG cHRM, Display P3": (png(pixels, gamma_chunk(0.45455), primaries_chunk(P3)), brought(pixels, P3, None)),
        "TIFF primaries, Adobe RGB": (tiff_of_primaries(pixels, ADOBE), brought(pixels, ADOBE, 2.2)),
        "TIFF CIELab, 16 bits": (content.getvalue(), pixels),
    }
    for name, (written, want) in ways.items():
        picture = read_picture(written)
        rows.append(f"| {name} | {picture.notes[0]} | {np.abs(picture.pixels - want).max():.1f} |")
    for name, points in (("PNG cICP, PQ", [9, 16, 0, 1]), ("PNG cICP, narrow range", [1, 13, 0, 0])):
        refused = said(lambda points=points: read_picture(png(pixels, (b"cICP", bytes(points)))))
        rows.append(f"| {name} | refused: {refused.removeprefix('The image ')} | |")
    return "\n".join(rows)


def _yes(value: object) -> str:
    return "yes" if value else "NO"


def refused() -> str:
    """Return the table of what is refused, in the words that the program says."""
    eight = picture()
    rows = ["| file | message |", "|---|---|"]

    def tiff(values: NDArray[np.generic], **options: object) -> bytes:
        content = io.BytesIO()
        tifffile.imwrite(content, values, **options)
        return content.getvalue()

    def pillow(kind: str, **more: object) -> bytes:
        content = io.BytesIO()
        Image.fromarray(eight).save(content, kind, **more)
        return content.getvalue()

    veiled = np.dstack([eight, eight[..., 0]])
    turned = [Image.fromarray(eight[::-1])]
    made = {
        "TIFF of five pages": tiff(np.stack([eight] * 5), photometric="rgb"),
        "TIFF of three grey pages": tiff(np.moveaxis(eight, -1, 0).copy(), photometric="minisblack", metadata=None),
        "PNG, GIF or WebP animation": pillow("WEBP", save_all=True, append_images=turned),
        "grey TIFF, mask, heat map": tiff(eight[..., 0], photometric="minisblack"),
        "four channels": tiff(np.stack([eight[..., 0]] * 4), photometric="minisblack", metadata=None),
        "transparent": tiff(veiled, photometric="rgb", extrasamples=["unassalpha"]),
        "CMYK without a profile": tiff(veiled, photometric="separated"),
        "values below zero": tiff(eight.astype(np.int16) - 99, photometric="rgb"),
        "not numbers": tiff(np.where(eight == 0, np.nan, eight).astype(np.float32), photometric="rgb"),
        "cut short": tiff(eight, photometric="rgb", compression="zlib")[:3000],
        "text": b"no image\n",
        "TGA, PSD, PPM …": pillow("TGA"),
        "GIF": pillow("GIF"),
        "JPEG of 12 bits": imagecodecs.jpeg_encode(eight.astype(np.uint16) * 16, bitspersample=12),
        "JPEG-LS": imagecodecs.jpegls_encode(eight),
        "JPEG XL": imagecodecs.jpegxl_encode(eight),
        "three channels in which 0 is white": tiff(eight, photometric="miniswhite", planarconfig="contig"),
        "Zeiss CZI, Nikon ND2, Leica LIF …": b"ZISRAWFILE" + bytes(99),
    }
    for name, content in made.items():
        rows.append(f"| {name} | {said(lambda content=content: read_picture(content)).removeprefix('The image ')} |")
    return "\n".join(rows)


def dicom() -> str:
    from tests.interop.test_dicom import write_field, write_slide

    rows = ["| object | read |", "|---|---|"]
    with TemporaryDirectory() as folder:
        field = write_field(Path(folder) / "a", picture(), mm=1e-4)
        many = pydicom.dcmread(field)
        many.NumberOfFrames, many.PixelData = 3, picture().tobytes() * 3
        many.save_as(Path(folder) / "many")
        spaced = pydicom.dcmread(field)
        spaced.PixelSpacing = [1, 1]
        spaced.save_as(Path(folder) / "spaced")
        bare = pydicom.dcmread(field)
        del bare.file_meta
        bare.preamble = None
        bare.save_as(Path(folder) / "bare", implicit_vr=True, little_endian=True, enforce_file_format=False)
        slide = write_slide(Path(folder) / "slide", picture(), mm=1e-4, side=32, jpeg=True)
        named = {
            "VL Microscopic Image, any file name": field,
            "the same without preamble": Path(folder) / "bare",
            "VL Whole Slide Microscopy, JPEG": slide,
            "three frames": Path(folder) / "many",
        }
        for name, path in named.items():
            rows.append(f"| {name} | {said(lambda path=path: DicomImage(path).read(0, 0, 20, 20))} |")
        for name, values in {
            "12 bits stored at the upper end (HighBit 15)": {
                "BitsAllocated": 16,
                "BitsStored": 12,
                "HighBit": 15,
                "PixelData": (picture().astype(np.uint16) * 256).tobytes(),
            },
            "signed values": {"PixelRepresentation": 1},
            "ARGB": {"PhotometricInterpretation": "ARGB"},
            "MONOCHROME2": {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
            "Secondary Capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        }.items():
            changed = pydicom.dcmread(field)
            for key, value in values.items():
                setattr(changed, key, value)
            changed.save_as(Path(folder) / "changed")
            told = said(lambda: DicomImage(Path(folder) / "changed").read(0, 0, 20, 20))
            rows.append(f"| {name} | {told} |")
        rows.append(f"| PixelSpacing of 1 mm | read; {DicomImage(Path(folder) / 'spaced').stated.note} |")
    return "\n".join(rows)


def main() -> None:
    table, tried = grid()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    template = (Path(__file__).parent / "formats_page.md").read_text(encoding="utf-8")
    text = template.format(
        grid=table,
        tried=f"{tried:,}",
        pillow=of_pillow(),
        colours=colours(),
        refused=refused(),
        dicom=dicom(),
        versions=versions,
    )
    PAGE.write_text(text, encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
