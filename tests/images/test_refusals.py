"""Every image that cannot be used is refused with its name and a cure."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.errors import ImageError
from leukoscope.images.read import read_image, read_picture, read_size


def png(width: int, height: int, *, bits: int = 8, rows: bytes = b"\0") -> bytes:
    """Make an RGB PNG by hand, so that its header can claim what no library would write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def picture(side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (side, side, 3), dtype=np.uint8))


def save_animation(path: Path) -> None:
    picture().save(path, save_all=True, append_images=[picture(32).rotate(90)])


BAD = {
    "empty.png": (lambda path: path.write_bytes(b""), "empty"),
    "text.png": (lambda path: path.write_text("not an image"), "not an image"),
    "truncated.bmp": (lambda path: (picture().save(path), path.write_bytes(path.read_bytes()[:500])), "ends early"),
    "truncated.png": (lambda path: (picture().save(path), path.write_bytes(path.read_bytes()[:500])), "ends early"),
    "bomb.png": (lambda path: path.write_bytes(png(40_000, 40_000)), "pixels"),
    "large.png": (lambda path: path.write_bytes(png(11_000, 11_000)), "11000x11000"),
    "tiny.png": (lambda path: picture(8).save(path), "8x8"),
    "grey.png": (lambda path: picture().convert("L").save(path), "grey"),
    "print.tif": (lambda path: picture().convert("CMYK").save(path), "CMYK"),
    "deep.png": (lambda path: Image.fromarray(np.full((32, 32), 999, dtype=np.uint16)).save(path), "16"),
    "moving.png": (save_animation, "several pictures"),
    "pages.tif": (save_animation, "several pictures"),
    "veil.png": (lambda path: picture().convert("RGBA").rotate(20).save(path), "transparent"),
    "missing.png": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_by_name_with_its_reason(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(ImageError, match=reason) as refused:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_a_good_image_is_read_pixel_for_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cell.{suffix}"
    picture().save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_image(path), np.asarray(picture()))
    assert read_size(path) == (32, 32)


def test_the_content_decides_where_the_suffix_names_another_format_and_a_note_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cell.jpg"
    picture().save(path, format="PNG")
    for read in (read_picture(path), read_picture(path.read_bytes(), suffix=".jpg")):
        assert np.array_equal(read.pixels, np.asarray(picture()))
        assert read.notes == ("is a PNG file, read as such, although its name ends in .jpg",)
    assert read_picture(path.read_bytes()).notes == ()


def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path) -> None:
    picture().convert("RGBA").save(tmp_path / "cell.png")
    assert np.array_equal(read_image(tmp_path / "cell.png"), np.asarray(picture()))


def test_a_colour_image_of_16_bits_per_channel_is_scaled_rather_than_cut(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (32, 32, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    (tmp_path / "deep.png").write_bytes(png(32, 32, bits=16, rows=rows))
    assert np.abs(read_image(tmp_path / "deep.png") - deep / 4095 * 255).max() <= 0.5001


def test_a_cut_file_is_told_without_the_state_of_a_buffer(tmp_path: Path) -> None:
    picture().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    with pytest.raises(ImageError, match=r"ends early or is damaged \(image file is truncated\)\."):
        read_image(tmp_path / "cut.jpg")


def test_a_palette_is_read_colour_for_colour(tmp_path: Path) -> None:
    image = picture().convert("P")
    image.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(image.convert("RGB")))
