"""Pictures that cost far more than they weigh: each is decoded in a process with bounded memory and time."""

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

from leukoscope.errors import ImageError
from leukoscope.server.sandbox import MIB, DecodedImage, Sandbox
from leukoscope.server.settings import RoomSettings
from tests.interop.test_dicom import write_field
from tests.server.conftest import Place, cell_picture, opened, png, synthetic
from tests.server.test_reading import smear
from tests.server.test_uploads import stripped

HOW: dict[str, Any] = {"suffix": ".png", "kind": "auto", "um_per_px": None, "most_pixels": 100_000_000}


@pytest.fixture
def database() -> str:
    """Decoding is the same whatever the database: SQLite is enough."""
    return ""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(heavy_bytes=1536 * MIB, seconds=40)
    yield made
    made.close()


class Memory:
    """The most that this process and its children have in memory at a moment, looked at again and again."""

    def __enter__(self) -> "Memory":
        self.start = self.most = _resident()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self.most = max(self.most, _resident())

    @property
    def more(self) -> float:
        """How much more it was than at the start, in MiB."""
        return (self.most - self.start) / MIB


def _resident() -> int:
    """Return what this process and its children hold, in bytes.

    A child that has not started its program yet shares the memory of this process, which is counted once.
    """
    own = Path("/proc/self/cmdline").read_bytes()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in (Path("/proc") / process for process in children):
            try:
                if child.joinpath("cmdline").read_bytes() != own:
                    pages += int(child.joinpath("statm").read_text().split()[1])
            except OSError:
                continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def black(width: int, height: int) -> bytes:
    """A PNG of one colour: a hundred megapixels weigh 300 kB."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def deflated_dicom(folder: Path, *, mib: int) -> bytes:
    """A deflated DICOM field that unpacks to so many MiB of nothing more."""
    write_field(folder / "plain.dcm", smear(), mm=0.0001)
    dataset, files = pydicom.dcmread(folder / "plain.dcm"), []
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        dataset.file_meta.TransferSyntaxUID = syntax
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
        files.append(stream.getvalue())
    plain, deflated = files
    deflate = zlib.compressobj(9, wbits=-15)
    parts = [deflate.compress(plain[_end_of_meta(plain) :])]
    parts.append(deflate.compress(struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, mib * MIB)))
    parts.extend(deflate.compress(bytes(MIB)) for _ in range(mib))
    return deflated[: _end_of_meta(deflated)] + b"".join([*parts, deflate.flush()])


def _end_of_meta(content: bytes) -> int:
    (length,) = struct.unpack_from("<I", content, 140)
    return 144 + length


def test_a_picture_comes_out_as_it_went_in(sandbox: Sandbox) -> None:
    sent = cell_picture(1)
    taken = sandbox.take(lambda: sent, **HOW)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(taken.picture))), synthetic(1))
    assert (taken.width, taken.height) == (160, 160)


def test_a_large_picture_is_taken_and_costs_a_bounded_amount(sandbox: Sandbox) -> None:
    large = black(10_000, 8_000)
    sandbox.seconds = 600  # a busy machine may take its time: memory is what is bounded here
    with Memory() as used, ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(lambda _: sandbox.take(lambda: large, **HOW).width, range(4)))
    assert sizes == [10_000] * 4
    assert used.more < 2 * 320 + 1536 + 200, "four at once take no more than the bound of all together"


def test_a_deflated_dicom_is_refused_before_it_is_unpacked(sandbox: Sandbox, tmp_path: Path) -> None:
    bomb = deflated_dicom(tmp_path, mib=3000)
    assert len(bomb) < 6 * MIB
    with Memory() as used, pytest.raises(ImageError):
        sandbox.take(lambda: bomb, **HOW)
    assert used.more < 900


def test_a_tiff_whose_strips_are_larger_than_its_picture_is_refused(sandbox: Sandbox) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((256, 320, 3), np.uint8), photometric="rgb", tile=(16, 16), compression="zlib")
    content = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        page = file.pages[0]
        places = {code: page.tags[code].valueoffset for code in (322, 323)}  # type: ignore[union-attr]
        types = {code: page.tags[code].dtype for code in (322, 323)}  # type: ignore[union-attr]
    for code, place in places.items():
        struct.pack_into("<H" if types[code] == 3 else "<I", content, place, 23168)
    with Memory() as used, pytest.raises(ImageError):
        sandbox.take(lambda: bytes(content), **(HOW | {"suffix": ".tif"}))
    assert used.more < 900


def ihdr(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def packed_in_png(kind: bytes, head: bytes) -> bytes:
    """A PNG with 600 MiB of zeros in a chunk beside its pixels."""
    content, deflate = cell_picture(1), zlib.compressobj(9)
    body = head + b"".join([*(deflate.compress(bytes(MIB)) for _ in range(600)), deflate.flush()])
    return content[:33] + chunk(kind, body) + content[33:]


def film(kind: str) -> bytes:
    """Two thousand frames."""
    frames = [Image.new("P", (64, 64), number % 7) for number in range(2000)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=10)
    return stream.getvalue()


def endless_tiff() -> bytes:
    """A TIFF whose second directory is its first."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.full((64, 64, 3), 90, np.uint8), photometric="rgb")
    content = bytearray(stream.getvalue())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    return bytes(content)


def laughing_ome() -> bytes:
    """An OME-TIFF whose description would unfold to three gigabytes."""
    entities = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, 10))
    head = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "lol">{entities}]>'
    stream = io.BytesIO()
    text = f'{head}<OME><Image ID="&e9;"><Pixels/></Image></OME>'
    tifffile.imwrite(stream, np.full((64, 64, 3), 90, np.uint8), photometric="rgb", description=text, metadata=None)
    return stream.getvalue()


def claimed_jpeg_2000() -> bytes:
    """A JPEG 2000 of a few bytes that claims four thousand million pixels in tiles of one."""
    stream = io.BytesIO()
    Image.fromarray(synthetic(1)).save(stream, "JPEG2000")
    content = bytearray(stream.getvalue())
    size, box = content.index(b"\xff\x51"), content.index(b"ihdr")
    struct.pack_into(">II", content, size + 6, 65_535, 65_535)
    struct.pack_into(">II", content, size + 22, 1, 1)
    struct.pack_into(">II", content, box + 4, 65_535, 65_535)
    return bytes(content)


def shredded_dicom(folder: Path) -> bytes:
    """A JPEG in a DICOM object, followed by two million empty fragments."""
    write_field(folder / "plain.dcm", smear(), mm=0.0001)
    dataset, picture = pydicom.dcmread(folder / "plain.dcm"), io.BytesIO()
    Image.fromarray(smear()).save(picture, "JPEG")
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([picture.getvalue() + b"\0" * (len(picture.getvalue()) % 2)])
    dataset["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    content, end = stream.getvalue(), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert content.endswith(end)
    return content[: -len(end)] + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 2_000_000 + end


LARGE_INSIDE: dict[str, Callable[[Path], bytes]] = {
    "size": lambda folder: ihdr(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", zlib.compress(bytes(100))),
    "zTXt": lambda folder: packed_in_png(b"zTXt", b"a\0\0"),
    "iCCP": lambda folder: packed_in_png(b"iCCP", b"a\0\0"),
    "iTXt": lambda folder: packed_in_png(b"iTXt", b"a\0\1\0\0\0"),
    "gif": lambda folder: film("GIF"),
    "webp": lambda folder: film("WEBP"),
    "apng": lambda folder: film("PNG"),
    "pages": lambda folder: film("TIFF"),
    "endless": lambda folder: endless_tiff(),
    "entities": lambda folder: laughing_ome(),
    "jpeg 2000": lambda folder: claimed_jpeg_2000(),
    "fragments": shredded_dicom,
}


@pytest.mark.parametrize("kind", LARGE_INSIDE)
def test_whatever_is_larger_inside_costs_a_bounded_amount(sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    """Each is taken or refused in one sentence, quickly, and with the memory of the small processes at most."""
    content, started = LARGE_INSIDE[kind](tmp_path), time.monotonic()
    with Memory() as used:
        try:
            taken: DecodedImage | str = sandbox.take(lambda: content, **HOW)
        except ImageError as refused:
            taken = str(refused)
    assert used.more < 2 * 320 + 200, taken
    assert time.monotonic() - started < 60
    if isinstance(taken, str):
        assert taken.endswith(".")
        assert "fault" not in taken
    else:
        assert (taken.width, taken.height) in ((64, 64), (160, 160), (640, 480))


def test_a_process_that_dies_is_replaced(sandbox: Sandbox) -> None:
    sent = cell_picture(1)
    sandbox.take(lambda: sent, **HOW)
    for process in sandbox._light._all:
        if process._running:
            process._running.kill()
    assert sandbox.take(lambda: sent, **HOW).width == 160


def test_what_takes_too_long_is_ended() -> None:
    hasty = Sandbox(seconds=0.01)
    large = black(9_000, 9_000)
    started = time.monotonic()
    with pytest.raises(ImageError, match="seconds"):
        hasty.take(lambda: large, **HOW)
    assert time.monotonic() - started < 20
    hasty.close()


def test_too_many_at_once_are_told_to_come_back(laboratory: Place) -> None:
    laboratory.room.sandbox = Sandbox(wait_seconds=0.0)
    pool = laboratory.room.sandbox._light
    held = [pool._free.get() for _ in pool._all]
    ada = laboratory.visitor("ada")
    case = ada.case()
    busy = ada.send(case, cell_picture(1))
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    for each in held:
        pool._free.put(each)
    assert ada.send(case, cell_picture(1)).status_code == 202


def test_analysis_has_a_bound_of_memory_and_one_large_field_costs_no_other_picture_its_answer(
    settings: RoomSettings,
) -> None:
    """A field that needs 500 MiB where 256 are allowed."""
    tight = settings.model_copy(update={"apart": True, "analysis_bytes": 256 * MIB})
    large = png(np.tile(smear(), (8, 6, 1)), compress_level=1)
    for place in opened(tight):
        me = place.local()
        case = me.case()
        me.send(case, cell_picture(1), large, cell_picture(2), wait=0)
        until = time.monotonic() + 240
        while not me.get(f"/cases/{case}/progress").json()["finished"] and time.monotonic() < until:
            time.sleep(0.5)
        progress = me.get(f"/cases/{case}/progress").json()
        assert (progress["done"], progress["failed"]) == (2, 1)
        assert "Needs more memory than the 256 MiB that analysis may take" in progress["failures"][0]["error"]


def test_a_box_beyond_the_picture_is_cut_to_it(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    case = ada.case(pictures=[cell_picture(1)])
    image = ada.cells(case)[0]["image"]
    whole = ada.get(f"/images/{image}/picture?box=0,0,20000,20000")
    assert whole.status_code == 200
    with Image.open(io.BytesIO(whole.content)) as picture:
        assert picture.size == (160, 160)
    outside = ada.get(f"/images/{image}/picture?box=5000,5000,10,10")
    assert (outside.status_code, outside.json()["error"]["code"]) == (422, "outside")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


SECRET = b"MUSTERMANN^ERIKA"


def hidden_in_png(where: str) -> bytes:
    """A PNG of a synthetic cell with a name where decoders do not look."""
    content = cell_picture(1)
    start = content.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", content, start)
    if where == "palette":
        return content[:start] + chunk(b"PLTE", (SECRET * 48)[: 3 * 255]) + content[start:]
    if where == "behind the pixels":
        (body,) = struct.unpack_from(f"{length}s", content, start + 8)
        return content[:start] + chunk(b"IDAT", body + SECRET) + content[start + 12 + length :]
    return content + SECRET


def hidden_in_jpeg(where: str) -> bytes:
    """A JPEG of a synthetic cell with a name where decoders do not look."""
    stream = io.BytesIO()
    Image.fromarray(synthetic(1)).save(stream, "JPEG", quality=90, progressive=True)
    content = stream.getvalue()

    def segment(marker: int) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, 2 + len(SECRET)) + SECRET

    if where == "APP0":
        return content[:2] + segment(0xE0) + content[2:]
    if where == "APP14":
        return content[:20] + segment(0xEE) + content[20:]
    second = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    tables = content.rindex(b"\xff\xc4", 0, second)
    place = tables if where == "between scans" else len(content) - 2
    return content[:place] + (segment(0xFE) if where == "between scans" else SECRET) + content[place:]


@pytest.mark.parametrize(
    "content",
    [
        *(hidden_in_png(where) for where in ("palette", "behind the pixels", "behind the file")),
        *(hidden_in_jpeg(where) for where in ("APP0", "APP14", "between scans", "behind the pixels")),
    ],
    ids=["plte", "idat", "end", "app0", "app14", "scans", "entropy"],
)
def test_nothing_but_pixels_is_kept(content: bytes) -> None:
    assert SECRET[:15] in content
    kept = stripped(content)
    assert b"MUSTERMANN" not in kept
    assert b"MUSTERMANN" not in zlib.decompress(b"".join(_idat(kept)))
    before, after = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (content, kept))
    assert np.array_equal(before, after)


def _idat(content: bytes) -> Iterator[bytes]:
    place = 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            yield content[place + 8 : place + 8 + length]
        place += 12 + length
