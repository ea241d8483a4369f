"""Mutated files through every reader, in one process: `make fuzz`, or python -m tests.images.fuzz --number 10000.

Each file is made from its seed, so that a run that was stopped goes on where it was, and any file can be made again:
python -m tests.images.fuzz --reader tiff --only 4711 --keep here. Nothing but our own error may come out, nothing may
take ten seconds, and the process may not grow beyond 2 GiB.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from PIL import Image

from leukoscope.errors import LeukoscopeError
from leukoscope.images.listing import read_table
from leukoscope.images.read import read_picture, read_size
from leukoscope.images.scale import stated_scale
from leukoscope.images.tiff import Tiff

from .grid import ways, write
from .test_stated_colour import P3, bmp, gamma_chunk, png, primaries_chunk, with_box

LONGEST_S, MOST_BYTES = 10, 2 << 30
SIDE = 96
Read = Callable[[Path], object]


def picture() -> np.ndarray:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def tiffs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield one TIFF of each depth, order of planes and codec."""
    seen: set[object] = set()
    for way in ways():
        key = (way.depth, way.planes, way.codec)
        if key not in seen and way.layout != "BigTIFF":
            seen.add(key)
            yield ".tif", write(folder / "seed.tif", picture(), way).read_bytes()
    sizes = {"axes": "YXS", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm"}
    for name, more in (
        ("a.ome.tif", {"metadata": sizes}),
        ("a.tif", {"description": "Aperio Image Library\n9x9|MPP = 0.1", "metadata": None, "tile": (32, 32)}),
        ("b.tif", {"iccprofile": (Path(__file__).parent / "display-p3-like.icc").read_bytes()}),
        ("lab.tif", {"photometric": "cielab"}),
    ):
        tifffile.imwrite(folder / name, picture(), **{"photometric": "rgb"} | more)
        yield ".tif", (folder / name).read_bytes()


def pictures(folder: Path) -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = (Path(__file__).parent / "display-p3-like.icc").read_bytes()
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "JPEG2000", "AVIF", "GIF"):
        content = io.BytesIO()
        more = {"exif": exif, "icc_profile": icc} if kind in ("PNG", "JPEG", "WEBP", "AVIF") else {}
        Image.fromarray(picture()).save(content, kind, **more)
        yield "", content.getvalue()
    yield "", png(picture(), (b"cICP", bytes([12, 13, 0, 1])))
    yield "", png(picture(), gamma_chunk(1.0), primaries_chunk(P3))
    yield "", bmp(picture(), icc)
    yield "", with_box(picture(), b"\2\0\0" + icc)
    yield ".heic", (Path(__file__).parent / "phone.heic").read_bytes()


def dicoms(folder: Path) -> Iterator[tuple[str, bytes]]:
    from tests.interop.test_dicom import write_field, write_slide

    yield ".dcm", write_field(folder / "f.dcm", picture(), mm=1e-4).read_bytes()
    for jpeg in (False, True):
        yield ".dcm", write_slide(folder / "s.dcm", picture(), mm=1e-4, side=32, jpeg=jpeg).read_bytes()


def tables(folder: Path) -> Iterator[tuple[str, bytes]]:
    text = 'path;label;subject\n"cells/a.bmp";all;Müller\ncells\\b.bmp;hem;H2\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        yield ".csv", text.encode(encoding)


def read_pixels(path: Path) -> object:
    with contextlib.suppress(LeukoscopeError):
        read_size(path)
    with contextlib.suppress(LeukoscopeError):
        stated_scale(path)
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    return pixels.shape[2] == 3


def read_slide(path: Path) -> object:
    with Tiff(path, name=str(path)) as tiff:
        width, height = tiff.size
        if width * height > 64_000_000:
            return None
        return tiff.read(0, 0, min(width, 40), min(height, 40))


def read_dicom(path: Path) -> object:
    from leukoscope.interop.dicom import DicomImage

    image = DicomImage(path)
    return image.read(0, 0, min(image.size[0], 40), min(image.size[1], 40))


def read_rows(path: Path) -> object:
    return read_table(path).columns(("path",), ("label", "subject"))


READERS: dict[str, tuple[Callable[[Path], Iterator[tuple[str, bytes]]], Read]] = {
    "pictures": (pictures, read_pixels),
    "tiff": (tiffs, read_pixels),
    "slide": (tiffs, read_slide),
    "dicom": (dicoms, read_dicom),
    "table": (tables, read_rows),
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with some bytes changed, moved, cut off or put in; headers are hit more often."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        end = min(len(data), 512) if rng.random() < 0.6 else len(data)
        place = int(rng.integers(0, max(end, 1)))
        how = rng.integers(6)
        if how == 0:
            data[place : place + 1] = bytes([int(rng.integers(256))])
        elif how == 1:
            data[place : place + 4] = rng.choice([0, 1, 255, 0x7FFFFFFF, 0xFFFFFFFF]).astype("<u4").tobytes()
        elif how == 2:
            data[place : place + 1] = bytes([data[place] ^ (1 << int(rng.integers(8)))]) if place < len(data) else b""
        elif how == 3:
            del data[place : place + int(rng.integers(1, 40))]
        elif how == 4:
            data[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8))
        elif rng.random() < 0.3:
            del data[int(rng.integers(len(data))) :]
        if not data:
            break
    return bytes(data)


def look(read: Read, path: Path) -> str:
    """Return what came of one file."""
    started = time.monotonic()
    faulthandler.dump_traceback_later(3 * LONGEST_S, exit=True)
    try:
        read(path)
        outcome = "read"
    except LeukoscopeError:
        outcome = "refused"
    finally:
        faulthandler.cancel_dump_traceback_later()
    took = time.monotonic() - started
    if took > LONGEST_S:
        raise TimeoutError(f"{took:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > MOST_BYTES:
        raise MemoryError(f"{peak / 2**30:.1f} GiB")
    return outcome


def run(reader: str, *, number: int, state: Path, only: int | None, keep: Path | None) -> int:
    """Try mutated files of one reader; return how many faults there were."""
    make, read = READERS[reader]
    done = json.loads(state.read_text()) if state.exists() else {}
    mine = done.setdefault(reader, {"next": 0, "faults": [], "outcomes": {}})
    outcomes = Counter(mine["outcomes"])
    with TemporaryDirectory() as folder:
        seeds = list(make(Path(folder)))
        whole = Path(folder) / f"whole{seeds[0][0]}"
        whole.write_bytes(seeds[0][1])
        read(whole)  # so that imports are not counted
        for seed in [only] if only is not None else range(mine["next"], number):
            rng = np.random.default_rng([seed, 17])
            suffix, content = seeds[int(rng.integers(len(seeds)))]
            path = Path(keep or folder) / f"{reader}-{seed}{suffix}"
            path.write_bytes(mutated(content, rng))
            try:
                outcomes[look(read, path)] += 1
            except Exception:  # noqa: BLE001 - what this is for: anything else is a fault
                outcomes["fault"] += 1
                mine["faults"].append(seed)
                print(f"{reader} {seed}", traceback.format_exc(limit=-4), file=sys.stderr)
            if not keep:
                path.unlink()
            mine |= {"next": seed + 1, "outcomes": dict(outcomes)}
            if only is None and (seed % 200 == 199 or seed + 1 == number):
                state.parent.mkdir(parents=True, exist_ok=True)
                state.write_text(json.dumps(done))
    print(f"{reader}: {dict(outcomes)}")
    return outcomes["fault"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--state", type=Path, default=Path("build/fuzz.json"))
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    faults = sum(
        run(reader, number=given.number, state=given.state, only=given.only, keep=given.keep)
        for reader in given.reader or READERS
    )
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
