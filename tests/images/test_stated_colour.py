"""Colours that a file states otherwise than by an embedded profile: brought to sRGB as LittleCMS does, or refused."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from leukoscope.errors import ImageError
from leukoscope.images.read import Picture, read_picture
from leukoscope.images.tiff import Tiff

P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
D65 = (0.3127, 0.329)


@pytest.fixture(scope="module")
def eight() -> np.ndarray:
    return np.random.default_rng(5).integers(20, 236, (40, 50, 3), dtype=np.uint8)


def linear(pixels: np.ndarray, curve: float | None) -> np.ndarray:
    """Return light from values by a gamma, or by the curve of sRGB (IEC 61966-2-1)."""
    share = pixels / 255
    return share**curve if curve else np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def brought(pixels: np.ndarray, primaries: tuple[float, ...], curve: float | None) -> np.ndarray:
    """Return colours of white D65 as sRGB, by the matrices of their primaries alone: no profile, no library."""

    def matrix(points: tuple[float, ...]) -> np.ndarray:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in np.reshape(points, (3, 2))]).T
        x, y = D65
        return columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])

    light = linear(pixels, curve) @ (np.linalg.inv(matrix(SRGB)) @ matrix(primaries)).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with further chunks before its pixels."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    whole = content.getvalue()
    return whole[:33] + b"".join(chunk(*each) for each in chunks) + whole[33:]


def primaries_chunk(primaries: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 1e5) for value in (*D65, *primaries)))


def gamma_chunk(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 1e5))


def is_brought(picture: Picture, want: np.ndarray, said: str) -> None:
    assert np.abs(picture.pixels - want).max() < 1.01
    assert any(f"from {said} to sRGB" in note for note in picture.notes)


def test_code_points_of_a_png_come_before_its_profile(eight: np.ndarray) -> None:
    is_brought(read_picture(png(eight, (b"cICP", bytes([12, 13, 0, 1])))), brought(eight, P3, None), "Display P3")
    is_brought(
        read_picture(png(eight, (b"cICP", bytes([1, 8, 0, 1])))),
        brought(eight, SRGB, 1),
        "sRGB",
    )
    for plain in ([1, 13, 0, 1], [2, 2, 0, 1], [1, 1, 0, 1]):
        picture = read_picture(png(eight, (b"cICP", bytes(plain)), (b"iCCP", b"p3\0\0" + zlib.compress(b"nonsense"))))
        assert np.array_equal(picture.pixels, eight)
        assert picture.notes == ()


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([9, 16, 0, 1], "high dynamic range .PQ."),
        ([9, 18, 0, 1], "HLG"),
        ([1, 13, 0, 0], "narrow"),
        ([77, 13, 0, 1], "primaries 77"),
    ],
)
def test_code_points_that_cannot_be_shown_in_srgb_are_refused(eight: np.ndarray, points: list[int], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_picture(png(eight, (b"cICP", bytes(points))))


def test_gamma_and_primaries_of_a_png_are_obeyed_unless_it_says_srgb(eight: np.ndarray) -> None:
    is_brought(read_picture(png(eight, gamma_chunk(1.0))), brought(eight, SRGB, 1), "gamma 1")
    is_brought(
        read_picture(png(eight, gamma_chunk(0.45455), primaries_chunk(P3))),
        brought(eight, P3, None),
        "the stated primaries",
    )
    for plain in ((gamma_chunk(0.45455), primaries_chunk(SRGB)), (gamma_chunk(1.0), (b"sRGB", b"\0"))):
        assert np.array_equal(read_picture(png(eight, *plain)).pixels, eight)


@pytest.mark.parametrize("stated", [(2, None), (0xFFFF, "R03")])
def test_a_camera_that_says_adobe_rgb_in_exif_alone_is_believed(
    eight: np.ndarray, stated: tuple[int, str | None]
) -> None:
    exif, content = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8769)[0xA001] = stated[0]
    if stated[1]:
        exif.get_ifd(0x8769)[0xA005] = {1: stated[1]}
    smooth = np.asarray(Image.fromarray(eight).resize((8, 8)).resize((64, 48), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(content, "JPEG", quality=100, subsampling=0, exif=exif)
    decoded = np.asarray(Image.open(io.BytesIO(content.getvalue())))
    is_brought(read_picture(content.getvalue()), brought(decoded, ADOBE, 2.2), "Adobe RGB")
    plain = io.BytesIO()
    exif.get_ifd(0x8769)[0xA001] = 1
    exif.get_ifd(0x8769).pop(0xA005, None)
    Image.fromarray(smooth).save(plain, "JPEG", quality=100, subsampling=0, exif=exif)
    assert np.array_equal(read_picture(plain.getvalue()).pixels, decoded)


def profile() -> bytes:
    return (Path(__file__).parent / "display-p3-like.icc").read_bytes()


def with_box(pixels: np.ndarray, box: bytes, **how: object) -> bytes:
    """Return a JP2 file whose colours are stated by this box."""
    whole = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2", reversible=True, **how)
    at, header = whole.find(b"colr") - 4, whole.find(b"jp2h") - 4
    old, length = (int.from_bytes(whole[place : place + 4], "big") for place in (at, header))
    new = struct.pack(">I", 8 + len(box)) + b"colr" + box
    outer = struct.pack(">I", length - old + len(new))
    return whole[:header] + outer + whole[header + 4 : at] + new + whole[at + old :]


def bmp(pixels: np.ndarray, icc: bytes) -> bytes:
    """Return a BMP with a header of version 5 and a profile."""
    height, width = pixels.shape[:2]
    rows = np.pad(pixels[::-1, :, ::-1].reshape(height, -1), ((0, 0), (0, -3 * width % 4))).tobytes()  # from below
    head = struct.pack("<2sIHHI", b"BM", 138 + len(rows) + len(icc), 0, 0, 138)
    head += struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0) + b"DEBM" + bytes(48)
    return head + struct.pack("<4I", 4, 124 + len(rows), len(icc), 0) + rows + icc


def test_a_profile_is_found_where_pillow_does_not_look(eight: np.ndarray) -> None:
    by_library = ImageCms.profileToProfile(
        Image.fromarray(eight),
        ImageCms.ImageCmsProfile(io.BytesIO(profile())),
        ImageCms.createProfile("sRGB"),
        renderingIntent=1,
    )
    want = np.asarray(by_library)
    deep = with_box(eight.astype(np.uint16) * 257, b"\2\0\0" + profile(), bitspersample=16)
    for content in (bmp(eight, profile()), with_box(eight, b"\2\0\0" + profile()), deep):
        picture = read_picture(content)
        assert np.array_equal(picture.pixels, want)
        assert "sRGB" in picture.notes[-1]
    large = np.tile(eight, (20, 20, 1))  # beyond what is looked at of other formats
    assert np.array_equal(read_picture(bmp(large, profile())).pixels, np.tile(want, (20, 20, 1)))
    assert np.array_equal(read_picture(with_box(eight, b"\1\0\0" + struct.pack(">I", 16))).pixels, eight)
    sycc = struct.pack(">I", 18)
    stored = np.asarray(Image.fromarray(eight).convert("YCbCr"))
    assert np.abs(read_picture(with_box(stored, b"\1\0\0" + sycc)).pixels.astype(int) - eight).max() <= 3
    with pytest.raises(ImageError, match="YCC colours of 16 bits"):
        read_picture(with_box(stored.astype(np.uint16) * 257, b"\1\0\0" + sycc, bitspersample=16))
    with pytest.raises(ImageError, match="colour space 14"):  # L*a*b*
        read_picture(with_box(eight, b"\1\0\0" + struct.pack(">I", 14)))


def test_code_points_of_an_avif_are_obeyed(eight: np.ndarray) -> None:
    smooth = np.asarray(Image.fromarray(eight).resize((8, 8)).resize((64, 48), Image.Resampling.BICUBIC))
    content = io.BytesIO()
    Image.fromarray(smooth).save(content, "AVIF", quality=100, subsampling="4:4:4")
    plain = content.getvalue()
    at = plain.find(b"colrnclx") + 8
    decoded = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
    assert np.array_equal(read_picture(plain).pixels, decoded)
    stated = plain[:at] + struct.pack(">HH", 12, 13) + plain[at + 4 :]
    is_brought(read_picture(stated), brought(decoded, P3, None), "Display P3")
    with pytest.raises(ImageError, match="PQ"):
        read_picture(plain[:at] + struct.pack(">HH", 9, 16) + plain[at + 4 :])


def tiff_of_primaries(pixels: np.ndarray, primaries: tuple[float, ...]) -> bytes:
    content = io.BytesIO()
    parts = [part for value in primaries for part in (round(value * 10_000), 10_000)]
    tags = [(318, 5, 2, (3127, 10_000, 3290, 10_000), True), (319, 5, 6, tuple(parts), True)]
    tifffile.imwrite(content, pixels, photometric="rgb", extratags=tags)
    return content.getvalue()


def test_primaries_of_a_tiff_are_obeyed(eight: np.ndarray) -> None:
    is_brought(read_picture(tiff_of_primaries(eight, ADOBE)), brought(eight, ADOBE, 2.2), "the stated primaries")
    assert np.array_equal(read_picture(tiff_of_primaries(eight, SRGB)).pixels, eight)


LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def by_littlecms(values: np.ndarray, *, to_lab: bool) -> np.ndarray:
    """Return sRGB as L*a*b* of white D50 in floating point, or the other way round."""
    srgb = imagecodecs.cms_profile("srgb")
    ends, spaces = ((srgb, LAB), ("rgb", "lab")) if to_lab else ((LAB, srgb), ("lab", "rgb"))
    how = {"colorspace": spaces[0], "outcolorspace": spaces[1], "outdtype": np.float64 if to_lab else np.uint8}
    return imagecodecs.cms_transform(values, *ends, intent=1, **how)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_is_read_as_littlecms_reads_it(
    eight: np.ndarray, tmp_path: Path, photometric: str, dtype: type, *, tiled: bool, planar: bool
) -> None:
    signed, wide = photometric == "cielab", dtype == np.uint16
    white, step = ((65535 if signed else 65280) if wide else 255), 256 if wide else 1
    lab = by_littlecms(eight, to_lab=True)
    light, ab = (lab[..., :1] * white / 100).round(), (lab[..., 1:] * step).round()
    values = np.dstack([light, ab + (0 if signed else 128 * step)]).astype(int).astype(dtype)
    path = tmp_path / "lab.tif"
    tifffile.imwrite(
        path,
        np.moveaxis(values, -1, 0) if planar else values,
        photometric=photometric,
        planarconfig="separate" if planar else "contig",
        compression="zlib",
        tile=(16, 16) if tiled else None,
    )
    picture = read_picture(path)
    want = by_littlecms(np.dstack([light * 100 / white, ab / step]), to_lab=False)
    assert np.abs(picture.pixels.astype(int) - want).max() <= 1
    assert np.abs(picture.pixels.astype(int) - eight).mean() < (0.05 if wide else 1)
    assert picture.notes == ("L*a*b* colours converted to sRGB",)
    with Tiff(path, name="slide") as tiff:
        assert np.array_equal(tiff.read(7, 9, 20, 11)[0], picture.pixels[9:20, 7:27])


def test_lab_of_pillow_is_read(eight: np.ndarray) -> None:
    lab, srgb, content = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), io.BytesIO()
    pale = 150 + (eight.astype(int) - 128) // 4  # no colour so deep that a step of eight bits is seen
    image = ImageCms.profileToProfile(
        Image.fromarray(pale.astype(np.uint8)), srgb, lab, outputMode="LAB", renderingIntent=1
    )
    image.save(content, "TIFF")
    assert np.abs(read_picture(content.getvalue()).pixels.astype(int) - pale).max() <= 3


def test_lab_that_no_light_has_is_brought_to_the_edge_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    content = io.BytesIO()
    values = np.zeros((32, 32, 3), np.uint8)
    values[..., 0], values[..., 2] = 20, 127
    tifffile.imwrite(content, values, photometric="cielab")
    pixels = read_picture(content.getvalue()).pixels
    assert pixels[..., 2].max() == 0
    assert not recwarn.list
