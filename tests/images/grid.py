"""The grid of TIFF files on which the reader is proven: every way in which tifffile writes one picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

DEPTHS = {"8": np.uint8, "10": np.uint16, "12": np.uint16, "14": np.uint16, "16": np.uint16, "float": np.float32}
PLANES = ("contiguous", "separate", "CYX", "ImageJ", "pages")
CODECS: dict[str, Any] = {
    "none": None,
    "lzw": "lzw",
    "deflate": "zlib",
    "packbits": "packbits",
    "zstd": "zstd",
    "lzma": "lzma",
    "lerc": "lerc",
    "jpeg": "jpeg",
    "jpeg2000": "jpeg2000",
    "aperio33005": 33005,
    "webp": "webp",
    "jpegxl": "jpegxl",
    "png": "png",
    "jpegxr": "jpegxr",
}
_LOSSLESS_ARGS = {
    "webp": {"lossless": True},
    "jpegxl": {"lossless": True},
    "jpegxr": {"level": 1.0},
    "jpeg": {"level": 100},
}
_WITH_PREDICTOR = {"lzw", "deflate", "zstd", "lzma"}
_EIGHT_ONLY = {"jpeg", "webp", "packbits"}


@dataclass(frozen=True)
class Way:
    """One way to write a picture."""

    depth: str
    planes: str
    codec: str
    predictor: bool = False
    alpha: bool = False
    big_endian: bool = False
    layout: str = "strips"  # strips, tiles, BigTIFF

    def __str__(self) -> str:
        more = [name for name, is_so in (("predictor", self.predictor), ("alpha", self.alpha)) if is_so]
        ends = "big" if self.big_endian else "little"
        return "-".join([self.depth, self.planes, self.codec, *more, ends, self.layout])


def ways() -> Iterator[Way]:
    """Yield every way that tifffile knows how to write."""
    for depth, planes, codec, big, layout in product(
        DEPTHS, PLANES, CODECS, (False, True), ("strips", "tiles", "BigTIFF")
    ):
        for predictor, alpha in product((False, True), (False, True)):
            way = Way(depth, planes, codec, predictor, alpha, big, layout)
            if _possible(way):
                yield way


def _possible(way: Way) -> bool:
    apart, deep = way.planes not in ("contiguous", "separate"), way.depth != "8"
    imagej = way.codec != "none" or way.layout != "strips" or not way.big_endian
    impossible = (
        (way.predictor and way.codec not in _WITH_PREDICTOR)
        or (way.alpha and (apart or way.codec in ("jpeg", "jpegxr")))
        or (deep and way.codec in _EIGHT_ONLY)
        or (way.depth == "float" and way.codec in ("png", "jpeg2000", "aperio33005", "jpegxr", "jpegxl"))
        or (way.planes != "contiguous" and way.codec in ("webp", "jpeg", "jpegxr", "aperio33005"))
        or (way.planes == "ImageJ" and imagej)
        # tifffile refuses these, or writes the bytes of JPEG 2000 in the wrong order
        or (way.big_endian and deep and way.codec in ("png", "jpegxl", "jpegxr", "jpeg2000", "aperio33005"))
        or (way.codec == "lerc" and way.big_endian)
    )
    return not impossible


def stored(eight: NDArray[np.uint8], depth: str) -> NDArray[Any]:
    """Return a picture of 8 bits at another depth."""
    if depth == "float":
        return (eight / 255).astype(np.float32)
    if depth == "8":
        return eight
    return (eight.astype(np.uint32) * (2 ** int(depth) - 1) // 255).astype(np.uint16)


def write(path: Path, eight: NDArray[np.uint8], way: Way) -> Path:
    """Write a picture in one way; returns the path, whose suffix tells OME-TIFF."""
    values = stored(eight, way.depth)
    if way.alpha:
        full = np.full((*values.shape[:2], 1), 1 if way.depth == "float" else 2 ** int(way.depth) - 1, values.dtype)
        values = np.concatenate([values, full], axis=2)
    options: dict[str, Any] = {"byteorder": ">" if way.big_endian else "<", "bigtiff": way.layout == "BigTIFF"}
    options |= {"compression": CODECS[way.codec], "predictor": way.predictor}
    if args := _LOSSLESS_ARGS.get(way.codec):
        options["compressionargs"] = args
    options |= {"tile": (64, 64)} if way.layout == "tiles" else {"rowsperstrip": 20}
    apart = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    if way.planes == "contiguous":
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"] * way.alpha, **options)
    elif way.planes == "separate":
        tifffile.imwrite(
            path, apart, photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"] * way.alpha, **options
        )
    elif way.planes == "CYX":
        path = path.with_suffix(".ome.tif")
        tifffile.imwrite(path, apart, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    elif way.planes == "ImageJ":
        tifffile.imwrite(path, apart, imagej=True, metadata={"axes": "CYX", "mode": "composite"})
    else:
        bigtiff, order = options.pop("bigtiff"), options.pop("byteorder")
        with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=order) as writer:
            for plane, name in zip(apart, ("Red", "Green", "Blue"), strict=True):
                tags = [(285, "s", 0, name, True)]  # PageName
                writer.write(plane, photometric="minisblack", metadata=None, extratags=tags, **options)
    return path
