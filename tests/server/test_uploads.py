"""What is sent: hostile archives, huge pictures, metadata. Nothing half-written, a clear answer each time."""

import contextlib
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from leukoscope.errors import ImageError
from leukoscope.server.sandbox import take
from leukoscope.server.settings import Limits, RoomSettings
from leukoscope.server.uploads import shown
from tests.server.conftest import Place, cell_picture, opened, synthetic

SECRET = b"Mustermann"


@pytest.fixture
def database() -> str:
    """Uploads do the same whatever the database: SQLite is enough."""
    return ""


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


def stored(place: Place) -> list[Path]:
    return [
        path for path in place.room.settings.data.rglob("*") if path.is_file() and path.parent.parent.name == "pictures"
    ]


def test_a_zip_is_opened_in_memory_and_its_names_lead_nowhere(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case()
    names = ("../../../../tmp/evil.png", "/etc/cron.d/evil.png", "a/b/../../../x.png", "C:\\evil.png", "nul\x00.png")
    sent = archive(**{name: cell_picture(number) for number, name in enumerate(names)})
    answer = me.send(case, sent, names=("cells.zip",)).json()
    assert len(answer["accepted"]) == len(names)
    assert len(stored(place)) == len(names)
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil.png").exists()
    assert not Path("/etc/cron.d/evil.png").exists()


@pytest.mark.parametrize(
    ("name", "written", "want"),
    [
        ("Müller.png", "utf-8", "Müller.png"),  # as macOS writes it, without saying that it is UTF-8
        ("涂片.png", "utf-8", "涂片.png"),
        ("Müller.png", "cp437", "Müller.png"),
        ("患者.png", "gbk", "%xbb%xbc%xd5%xdf.png"),
        ("スメア.png", "cp932", "%x83X%x83%x81%x83A.png"),
    ],
)
def test_no_name_in_a_zip_is_garbled(place: Place, name: str, written: str, want: str) -> None:
    raw = name.encode(written)
    placeholder = "x" * (len(raw) - 4) + ".png"
    sent = archive(**{placeholder: cell_picture(1)}).replace(placeholder.encode(), raw)
    me = place.local()
    answer = me.send(me.case(), sent, names=("cells.zip",)).json()
    assert [each["name"] for each in answer["accepted"]] == [want]


def test_bombs_are_refused_before_they_unpack(place: Place) -> None:
    me = place.local()
    case = me.case()
    flat = archive(**{"bomb.png": b"\0" * (60 << 20), "cell.png": cell_picture(1)})
    answer = me.send(case, flat, names=("bomb.zip",)).json()
    assert "bomb" in answer["refused"][0]["error"]
    assert [each["name"] for each in answer["accepted"]] == ["cell.png"]
    liar = bytearray(archive(**{"liar.png": b"\0" * (60 << 20)}))
    for place_ in (liar.find(b"PK\x01\x02") + 24, 22):  # both headers promise a small file
        liar[place_ : place_ + 4] = struct.pack("<I", 1000)
    assert me.send(case, bytes(liar), names=("liar.zip",)).json()["accepted"] == []
    huge = me.send(case, png_header(40_000, 40_000), names=("huge.png",)).json()["refused"][0]
    assert "million allowed" in huge["error"]
    assert len(stored(place)) == 1


def test_too_much_at_once_is_refused(tmp_path: Path, bundle: Path) -> None:
    limits = Limits(upload_bytes=2_000_000, file_bytes=500_000, files=5, pixels=1_000_000)
    for place in opened(RoomSettings(data=tmp_path / "room", model=bundle, limits=limits)):
        me = place.local()
        case = me.case()
        assert me.send(case, b"x" * 2_100_000).status_code == 413
        assert "larger than" in me.send(case, b"x" * 600_000).json()["refused"][0]["error"]
        assert me.send(case, *[cell_picture(1)] * 6).status_code in (413, 422)
        many = archive(**{f"{number}.png": b"x" for number in range(9)})
        assert "Split it" in me.send(case, many).json()["refused"][0]["error"]
        wide = io.BytesIO()
        Image.new("RGB", (2000, 1000)).save(wide, "PNG")
        assert "million allowed" in me.send(case, wide.getvalue()).json()["refused"][0]["error"]
        assert me.client.post("/api/v1/session", content=b"x" * 2_000_000).status_code == 413

        def endless() -> "object":
            for _ in range(40):
                yield b"x" * 100_000

        chunked = me.client.post(f"/api/v1/cases/{case}/images", content=endless(), headers={"X-CSRF-Token": me.csrf})
        assert chunked.status_code in (413, 422), "a body without a length is counted as it comes"
        assert stored(place) == []


def test_an_upload_that_breaks_off_leaves_nothing(place: Place) -> None:
    me = place.local()
    case = me.case()
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + cell_picture(1)[:500]
    headers = {"X-CSRF-Token": me.csrf, "Content-Type": "multipart/form-data; boundary=b"}
    answer = me.client.post(f"/api/v1/cases/{case}/images", content=body, headers=headers)
    assert answer.status_code == 422
    assert stored(place) == []
    assert me.get(f"/cases/{case}/images").json()["total"] == 0
    cut = me.send(case, cell_picture(1)[:-30])
    assert "ends early" in cut.json()["refused"][0]["error"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def stripped(content: bytes) -> bytes:
    """Return what is stored of a picture."""
    return take(content, suffix="", kind="auto", um_per_px=None, most_pixels=10**6).picture


def with_metadata(kind: str) -> bytes:
    image, stream = Image.fromarray(synthetic(3)), io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()  # ImageDescription
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET.decode())
    more = {"PNG": {"pnginfo": text, "exif": exif}, "TIFF": {"description": SECRET.decode()}, "BMP": {}}
    image.save(stream, kind, **more.get(kind, {"exif": exif, "lossless": True, "comment": SECRET, "xmp": SECRET}))
    return stream.getvalue() + (SECRET if kind in ("PNG", "JPEG", "WEBP", "BMP") else b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_metadata_go_and_every_pixel_stays(kind: str) -> None:
    sent = with_metadata(kind)
    kept = stripped(sent)
    assert SECRET in sent
    assert SECRET not in kept
    before, after = (np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in (sent, kept))
    assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@given(cut=st.floats(0, 1), noise=st.binary(max_size=40))
def test_whatever_is_damaged_is_named_and_never_breaks_the_program(kind: str, cut: float, noise: bytes) -> None:
    content = with_metadata(kind)
    place = int(cut * len(content))
    damaged = content[:place] + noise + content[place + len(noise) :]
    with contextlib.suppress(ImageError):  # and no other error
        stripped(damaged)


@given(st.text(max_size=400))
def test_a_shown_name_is_text_of_one_line(name: str) -> None:
    clean = shown(name)
    assert 0 < len(clean) <= 300
    assert clean.isprintable()
    clean.encode()


def test_a_deep_tiff_keeps_its_scale_and_loses_its_tags(place: Place) -> None:
    me = place.local()
    case = me.case()
    deep = io.BytesIO()
    pixels = synthetic(3).astype(np.uint16) * 16  # twelve bits, as cameras give them
    resolution = (10_000 / 0.2, 10_000 / 0.2)
    tifffile.imwrite(
        deep, pixels, photometric="rgb", description=SECRET.decode(), resolution=resolution, resolutionunit="CENTIMETER"
    )
    me.send(case, deep.getvalue(), names=("deep.tif",))
    image = me.get(f"/cases/{case}/images").json()["images"][0]
    assert (image["width"], image["um_per_px"]) == (160, 0.2)
    kept = stored(place)[0].read_bytes()
    assert SECRET not in kept
    with Image.open(io.BytesIO(kept)) as picture:
        assert np.abs(np.asarray(picture).astype(int) - synthetic(3)).max() <= 1


def test_a_wrong_kind_or_scale_is_said(place: Place) -> None:
    me = place.local()
    case = me.case()
    assert me.send(case, cell_picture(1), kind="bananas").status_code == 422
    assert me.send(case, cell_picture(1), um_per_px="wide").status_code == 422
    assert me.post(f"/cases/{case}/images").status_code == 422


def test_what_was_done_to_a_file_stands_with_its_image(place: Place) -> None:
    me = place.local()
    case = me.case()
    deep, turned = io.BytesIO(), io.BytesIO()
    ome = {"axes": "YXS", "PhysicalSizeX": 5, "PhysicalSizeXUnit": "mm"}
    tifffile.imwrite(deep, synthetic(3).astype(np.uint16) * 16, photometric="rgb", ome=True, metadata=ome)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(synthetic(4)).save(turned, "PNG", exif=exif)
    me.send(case, deep.getvalue(), turned.getvalue(), cell_picture(1), names=("a.ome.tif", "b.png", "c.png"))
    images = {image["name"]: image["notes"] for image in me.get(f"/cases/{case}/images").json()["images"]}
    assert images["a.ome.tif"][0] == "12 bits per channel, estimated from the brightest pixel"
    assert "OME PhysicalSizeX states 5" in images["a.ome.tif"][1]
    assert images["b.png"] == ["turned upright (orientation 6)"]
    assert images["c.png"] == []
