"""One reader, one contract: uint8 RGB in sRGB, upright. Proven on every way in which a picture can be written."""

import io
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, ImageOps

from leukoscope.errors import ImageError
from leukoscope.images.read import read_image, read_picture, read_size, upright
from leukoscope.images.tiff import Tiff

from .grid import DEPTHS, Way, stored, ways, write

LOSSY = ("jpeg", "jpegxr")


@pytest.fixture(scope="module")
def eight() -> np.ndarray:
    """A smooth picture in which every channel reaches 0 and 255."""
    y, x = np.mgrid[:90, :100] / 90
    waves = [np.sin(7 * x + 3 * y), np.sin(5 * x * y + 1), np.cos(9 * y - 4 * x)]
    picture = np.stack([127.5 + 127.5 * wave for wave in waves], axis=-1).round().astype(np.uint8)
    picture[0, :2] = [[255, 255, 255], [0, 0, 0]]
    return picture


def own_array(path: Path) -> np.ndarray:
    """Return what tifffile reads, colours last and without alpha, as fractions of white."""
    values = np.squeeze(tifffile.imread(path))
    if values.shape[0] in (3, 4):
        values = np.moveaxis(values, 0, -1)
    return values[..., :3].astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_way_to_write_a_tiff_is_read_as_tifffile_reads_it(eight: np.ndarray, tmp_path: Path, depth: str) -> None:
    white = 1 if depth == "float" else 2 ** int(depth) - 1
    tried = 0
    for way in (way for way in ways() if way.depth == depth):
        path = write(tmp_path / f"{way}.tif", eight, way)
        read = read_image(path)
        assert np.array_equal(read, np.floor(own_array(path) / white * 255 + 0.5)), way
        if way.codec not in LOSSY:
            assert np.array_equal(read, eight), way
        with Tiff(path, name="slide") as tiff:  # as a slide is read, by rectangles
            part, _ = tiff.read(31, 17, 50, 60)
            assert np.array_equal(part, read[17:77, 31:81]), way
        assert read_size(path) == (100, 90), way
        path.unlink()
        tried += 1
    assert tried > 90


FORMATS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "JPEG": {"quality": 95},
    "AVIF": {},
    "BMP": {},
    "JPEG2000": {},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_as_pillow_reads_eight_bits(eight: np.ndarray, kind: str) -> None:
    content = io.BytesIO()
    Image.fromarray(eight).save(content, kind, **FORMATS[kind])
    want = np.asarray(Image.open(io.BytesIO(content.getvalue())).convert("RGB"))
    assert np.array_equal(read_image(content.getvalue()), want)


@pytest.mark.parametrize(("kind", "orientation"), [*product(["PNG", "WEBP", "JPEG", "TIFF", "AVIF"], range(1, 9))])
def test_orientation_is_one_rule(eight: np.ndarray, kind: str, orientation: int) -> None:
    content = io.BytesIO()
    if kind == "TIFF":
        tifffile.imwrite(content, eight, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(eight).save(content, kind, exif=exif, **FORMATS[kind])
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content.getvalue()))).convert("RGB"))
    assert np.array_equal(read_image(content.getvalue()), want)
    assert read_size(content.getvalue()) == want.shape[1::-1]


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_turning_four_times_changes_nothing(pixels: np.ndarray) -> None:
    turned = pixels
    for _ in range(4):
        turned = upright(turned, 6)
    assert np.array_equal(turned, pixels)
    assert np.array_equal(upright(upright(pixels, 6), 8), pixels)
    assert all(np.array_equal(upright(upright(pixels, mirror), mirror), pixels) for mirror in (2, 3, 4, 5, 7))


@settings(max_examples=40)
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40), st.just(3))),
    depth=st.sampled_from([10, 12, 14, 16]),
    planar=st.booleans(),
    big=st.booleans(),
)
def test_a_picture_of_any_depth_is_the_same_as_with_eight_bits(
    pixels: np.ndarray, depth: int, planar: bool, big: bool
) -> None:
    pixels[0, 0] = 255  # a camera's white, by which its depth is known
    deep = stored(pixels, str(depth))
    content = io.BytesIO()
    values = np.moveaxis(deep, -1, 0) if planar else deep
    tifffile.imwrite(
        content,
        values,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        byteorder=">" if big else "<",
    )
    picture = read_picture(content.getvalue())
    assert np.array_equal(picture.pixels, pixels)
    assert picture.notes == (f"{depth} bits per channel, estimated from the brightest pixel",)


def test_bits_and_ranges_that_the_file_states_are_obeyed(eight: np.ndarray, tmp_path: Path) -> None:
    dark = (eight.astype(np.uint16) * 4095 // 255) // 8  # a camera of 12 bits, far too dark: the data cannot tell
    for values, dtype, stated in ((dark, 3, 4095), ((eight / 2000).astype(np.float32), 11, 255 / 2000)):
        tags = [(340, dtype, 3, (0, 0, 0), True), (341, dtype, 3, (stated,) * 3, True)]
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
        picture = read_picture(tmp_path / "a.tif")
        assert "as the file states" in picture.notes[0]
        assert np.abs(picture.pixels.astype(float) - values / stated * 255).max() <= 0.5001


def display_p3() -> bytes:
    """Return a profile with the primaries of a phone's screen."""
    return (Path(__file__).parent / "display-p3-like.icc").read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "deep PNG", "deep TIFF", "AVIF"])
def test_a_colour_profile_is_applied_as_littlecms_applies_it(eight: np.ndarray, kind: str) -> None:
    content = io.BytesIO()
    plain = kind.removeprefix("deep ")
    if kind == "deep TIFF":
        tifffile.imwrite(content, eight.astype(np.uint16) * 257, photometric="rgb", iccprofile=display_p3())
    elif kind == "deep PNG":
        content.write(deep_png(eight, display_p3()))
    else:
        Image.fromarray(eight).save(content, plain, icc_profile=display_p3(), **FORMATS[plain])
    image = Image.fromarray(eight) if "deep" in kind else Image.open(io.BytesIO(content.getvalue())).convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    want = np.asarray(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), renderingIntent=1))
    picture = read_picture(content.getvalue())
    assert np.array_equal(picture.pixels, want)
    assert np.abs(want.astype(int) - np.asarray(image)).max() > 20
    assert any("sRGB" in note for note in picture.notes)


def deep_png(eight: np.ndarray, profile: bytes) -> bytes:
    """Return a PNG of 16 bits per channel with a profile."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in eight.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", eight.shape[1], eight.shape[0], 16, 2, 0, 0, 0)
    body = chunk(b"iCCP", b"p3\0\0" + zlib.compress(profile)) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_a_profile_of_srgb_changes_no_pixel(eight: np.ndarray) -> None:
    content = io.BytesIO()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(eight).save(content, "PNG", icc_profile=srgb)
    picture = read_picture(content.getvalue())
    assert np.array_equal(picture.pixels, eight)
    assert picture.notes == ()


def test_a_damaged_profile_is_said_and_srgb_assumed(eight: np.ndarray) -> None:
    content = io.BytesIO()
    Image.fromarray(eight).save(content, "PNG", icc_profile=b"nonsense" * 40)
    picture = read_picture(content.getvalue())
    assert np.array_equal(picture.pixels, eight)
    assert "damaged" in picture.notes[0]


def several(kind: str, eight: np.ndarray) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(eight)
    if kind == "TIFF pages":
        tifffile.imwrite(content, np.stack([eight] * 5), photometric="rgb")
    elif kind == "TIFF of two sizes":
        with tifffile.TiffWriter(content) as writer:
            writer.write(eight, photometric="rgb")
            writer.write(eight[:60], photometric="rgb")
    elif kind == "OME in time":
        tifffile.imwrite(content, np.stack([eight] * 4), photometric="rgb", ome=True, metadata={"axes": "TYXS"})
    elif kind == "ImageJ stack":
        tifffile.imwrite(content, np.stack([eight[..., 0]] * 7), imagej=True, metadata={"axes": "ZYX"})
    else:
        image.save(content, kind, save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("TIFF pages", 5),
        ("TIFF of two sizes", 2),
        ("OME in time", 4),
        ("ImageJ stack", 7),
        ("GIF", 3),
        ("PNG", 3),
        ("WEBP", 3),
        ("AVIF", 3),
    ],
)
def test_several_pictures_are_refused_with_their_number(eight: np.ndarray, kind: str, number: int) -> None:
    with pytest.raises(ImageError, match=rf"several pictures.*{number}"):
        read_image(several(kind, eight))


def test_levels_thumbnails_and_phones_second_pictures_are_no_pages(eight: np.ndarray, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "levels.tif") as writer:
        writer.write(eight, photometric="rgb", tile=(16, 16))
        writer.write(eight[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
        writer.write(eight[::4, ::4], photometric="rgb", tile=(16, 16), subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "untagged.tif") as writer:
        for step in (1, 2, 4):
            writer.write(eight[::step, ::step], photometric="rgb", tile=(16, 16))
    with tifffile.TiffWriter(tmp_path / "sub.ome.tif") as writer:
        writer.write(eight, photometric="rgb", tile=(16, 16), subifds=1, metadata={"axes": "YXS"})
        writer.write(eight[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
    for name in ("levels.tif", "untagged.tif", "sub.ome.tif"):
        assert np.array_equal(read_image(tmp_path / name), eight), name
        with Tiff(tmp_path / name, name=name) as tiff:
            assert tiff.level_sizes[:2] == [(100, 90), (50, 45)]
    image, content = Image.fromarray(eight), io.BytesIO()
    image.save(content, "MPO", save_all=True, append_images=[image.rotate(180)], quality=95)
    want = np.asarray(Image.open(io.BytesIO(content.getvalue())).convert("RGB"))
    assert np.array_equal(read_image(content.getvalue()), want)


def test_planes_of_named_colours_are_put_in_order(eight: np.ndarray, tmp_path: Path) -> None:
    apart = np.moveaxis(eight, -1, 0)
    path = tmp_path / "planes.ome.tif"
    blue_first = {"axes": "CYX", "Channel": {"Name": ["Blue", "Green", "Red"]}}
    tifffile.imwrite(path, apart[::-1], photometric="minisblack", metadata=blue_first)
    assert np.array_equal(read_image(path), eight)
    for names in (["B", "G", "R"], ["Camera_b", "Camera_g", "Camera_r"]):
        tifffile.imwrite(
            path, apart[::-1], photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}}
        )
        assert np.array_equal(read_image(path), eight), names
    dyes = {"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}
    tifffile.imwrite(path, apart, photometric="minisblack", metadata=dyes)
    with pytest.raises(ImageError, match="fluorescence"):
        read_image(path)
    stains = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "FITC", "Cy5"], "Color": [0x0000FFFF, 0x00FF00FF, 0x00FFFFFF]},
    }
    tifffile.imwrite(path, apart, photometric="minisblack", metadata=stains)
    with pytest.raises(ImageError, match="fluorescence"):
        read_image(path)


def pages(path: Path, planes: np.ndarray, *, names: list[str] | None = None, photometric: str = "minisblack") -> Path:
    """Write one page for each plane; `names` become PageName."""
    with tifffile.TiffWriter(path) as writer:
        for number, plane in enumerate(planes):
            tags = [(285, "s", 0, names[number], True)] if names else []
            writer.write(plane, photometric=photometric, metadata=None, extratags=tags)
    return path


def test_three_pages_are_colours_where_the_file_says_so(eight: np.ndarray, tmp_path: Path) -> None:
    apart = np.ascontiguousarray(np.moveaxis(eight, -1, 0))
    labels = {"axes": "ZYX", "Labels": ["Blue", "Green", "Red"]}  # ImageJ's RGB Stack names its slices so
    tifffile.imwrite(tmp_path / "labels.tif", apart[::-1], imagej=True, metadata=labels)
    tifffile.imwrite(tmp_path / "composite.tif", apart, imagej=True, metadata={"axes": "CYX", "mode": "composite"})
    tifffile.imwrite(tmp_path / "axes.tif", apart, photometric="minisblack", metadata={"axes": "CYX"})
    pages(tmp_path / "names.tif", apart[::-1], names=["scan_blue", "scan_green", "scan_red"])
    for name in ("labels", "composite", "axes", "names"):
        picture = read_picture(tmp_path / f"{name}.tif")
        assert np.array_equal(picture.pixels, eight), name
        guessed = name in ("composite", "axes")  # channels, but in an order that is not told
        assert ("three channels without names" in " ".join(picture.notes)) == guessed, name


def unnamed(kind: str, eight: np.ndarray, path: Path) -> Path:
    """Write three grey pages of which nothing says that they are red, green and blue."""
    apart = np.ascontiguousarray(np.moveaxis(eight, -1, 0))
    if kind == "bare pages":
        return pages(path, apart)
    if kind == "pages of other names":
        return pages(path, apart, names=["focus 1", "focus 2", "focus 3"])
    if kind == "tifffile without axes":
        tifffile.imwrite(path, apart, photometric="minisblack")
    elif kind == "ImageJ in grey":
        tifffile.imwrite(path, apart, imagej=True, metadata={"axes": "CYX"})
    elif kind == "ImageJ in depth":
        tifffile.imwrite(path, apart, imagej=True, metadata={"axes": "ZYX"})
    else:
        planes = [Image.fromarray(plane) for plane in apart]
        planes[0].save(path, save_all=True, append_images=planes[1:])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "bare pages",
        "pages of other names",
        "tifffile without axes",
        "ImageJ in grey",
        "ImageJ in depth",
        "Pillow",
    ],
)
def test_three_grey_pages_that_nothing_calls_colours_are_refused(eight: np.ndarray, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"several pictures \(3 pages\)\. Save it as RGB, or one picture per file\."):
        read_image(unnamed(kind, eight, tmp_path / "pages.tif"))


def test_channels_that_glow_are_no_stain_whatever_their_colours(eight: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "glow.ome.tif"
    apart = np.ascontiguousarray(np.moveaxis(eight, -1, 0))
    colours = [-16776961, 16711935, 65535]  # red, green and blue with alpha, as signed numbers of 32 bits
    tifffile.imwrite(path, apart, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Color": colours}})
    assert np.array_equal(read_image(path), eight)
    for more in (
        {"Fluor": ["a", "b", "c"]},
        {"EmissionWavelength": [460.0, 520.0, 670.0]},
        {"Name": ["DAPI", "a", "b"]},
    ):
        channel = {"Color": colours, **more}
        tifffile.imwrite(path, apart, photometric="minisblack", metadata={"axes": "CYX", "Channel": channel})
        with pytest.raises(ImageError, match="fluorescence"):
            read_image(path)


def test_three_samples_that_the_file_calls_grey_are_read_and_that_is_said(eight: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, eight, photometric="minisblack", planarconfig="contig", metadata=None)
    picture = read_picture(path)
    assert np.array_equal(picture.pixels, eight)
    assert "stated to be grey" in picture.notes[0]


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("codec", [None, "lzw", "zlib", "jpeg", "zstd"])
def test_a_tiff_that_ends_early_is_never_read_in_part(eight: np.ndarray, codec: str | None, cut: float) -> None:
    content = io.BytesIO()
    tifffile.imwrite(content, np.tile(eight, (3, 3, 1)), photometric="rgb", compression=codec, rowsperstrip=16)
    whole = content.getvalue()
    with pytest.raises(ImageError, match="damaged"):
        read_image(whole[: int(cut * len(whole))])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grey", "grey"),
        ("veil", "transparent"),
        ("cmyk", "CMYK"),
        ("four", "channel"),
        ("negative", "below zero"),
        ("nan", "NaN"),
        ("mask", "grey"),
        ("empty", "0 bytes"),
        ("noise", "unknown"),
    ],
)
def test_what_cannot_be_read_right_is_refused_in_words(eight: np.ndarray, tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / f"{name}.tif"
    made = {
        "grey": (eight[..., 0], {"photometric": "minisblack"}),
        "mask": (eight[..., 0] > 99, {"photometric": "minisblack", "tile": (16, 16)}),
        "veil": (np.dstack([eight, eight[..., 0]]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "cmyk": (np.dstack([eight, eight[..., 0]]), {"photometric": "separated"}),
        "four": (
            np.moveaxis(np.dstack([eight, eight[..., 0]]), -1, 0),
            {"photometric": "minisblack", "metadata": None},
        ),
        "negative": (eight.astype(np.int16) - 99, {"photometric": "rgb"}),
        "nan": (np.where(eight == 0, np.nan, eight).astype(np.float32), {"photometric": "rgb"}),
    }
    if name in made:
        tifffile.imwrite(path, made[name][0], **made[name][1])
    else:
        path.write_bytes(b"" if name == "empty" else bytes(range(128, 256)))
    with pytest.raises(ImageError, match=said) as refused:
        read_image(path)
    assert str(path) in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "emove it" not in str(refused.value)


def test_a_file_that_merely_cannot_be_decoded_is_not_called_damaged(tmp_path: Path, eight: np.ndarray) -> None:
    Image.fromarray(eight).save(tmp_path / "a.tga")
    with pytest.raises(ImageError, match="TGA file, which is not supported"):
        read_image(tmp_path / "a.tga")
    content = io.BytesIO()
    tifffile.imwrite(content, eight, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content.getvalue())) as file:
        at = file.pages[0].tags["Compression"].valueoffset
    strange = bytearray(content.getvalue())
    strange[at : at + 2] = (34713).to_bytes(2, "little")  # Nikon NEF
    with pytest.raises(ImageError, match="encoding that is not supported"):
        read_image(bytes(strange))


WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("tifffile", "imagecodecs", "cv2", "pi_heif"))
from pathlib import Path
from leukoscope.errors import ImageError
from leukoscope.images.read import read_image
for path in sys.argv[1:]:
    try:
        pixels = read_image(Path(path))
        print(pixels.sum(), pixels[3, 5].tolist() if "turned" in path else "", end="\\n")
    except ImageError as refused:
        print(refused)
"""


def test_the_small_install_names_the_extra_for_what_it_cannot_read(eight: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", eight, photometric="rgb", compression="zlib")
    tifffile.imwrite(tmp_path / "deep.tif", eight.astype(np.uint16) * 257, photometric="rgb")
    (tmp_path / "deep.png").write_bytes(deep_png(eight, display_p3()))
    Image.fromarray(eight).save(tmp_path / "plain.png")
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "turned.tif", eight, photometric="rgb", compression="zlib", extratags=turned)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    names = ["plain.tif", "deep.tif", "deep.png", "plain.png", "phone.heic", "turned.tif"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    lines = done.stdout.splitlines()
    assert lines[0].strip() == lines[3].strip() == str(eight.sum())
    assert "leukoscope[fields]" in lines[1]
    assert "leukoscope[fields]" in lines[2]
    assert "leukoscope[heic]" in lines[4]
    assert lines[5] == f"{eight.sum()} {np.rot90(eight, -1)[3, 5].tolist()}"


def test_no_library_writes_to_the_terminal(eight: np.ndarray, tmp_path: Path) -> None:
    paths = []
    rng = np.random.default_rng(3)
    for kind, more in (*FORMATS.items(), ("zlib", {}), ("jpeg", {}), ("png", {}), ("jpegxr", {}), ("deep png", {})):
        content = io.BytesIO()
        if kind == "deep png":
            content.write(deep_png(eight, display_p3()))
        elif kind.islower():
            tifffile.imwrite(content, eight, photometric="rgb", compression=kind)
        else:
            Image.fromarray(eight).save(content, kind, **more)
        for number in range(12):
            damaged = bytearray(content.getvalue())
            for place in rng.integers(8, len(damaged), 6):
                damaged[place] = rng.integers(256)
            paths.append(tmp_path / f"{kind}-{number}")
            paths[-1].write_bytes(damaged)
    code = WITHOUT.split("from pathlib")[1]
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nfrom pathlib" + code, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_a_way_has_a_name() -> None:
    assert str(Way("8", "CYX", "lzw", predictor=True)) == "8-CYX-lzw-predictor-little-strips"


def test_a_phones_heic_is_read_in_srgb(eight: np.ndarray) -> None:
    pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    picture = read_picture(Path(__file__).parent / "phone.heic")  # `eight` in Display P3 at quality 90
    profile = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    srgb = ImageCms.createProfile("sRGB")
    want = np.asarray(ImageCms.profileToProfile(Image.fromarray(eight), profile, srgb, renderingIntent=1))
    assert np.abs(picture.pixels.astype(int) - want).mean() < 5 < np.abs(eight.astype(int) - want).mean()
    assert "sRGB" in picture.notes[0]


def test_a_page_with_endless_tags_is_refused_at_once(eight: np.ndarray) -> None:
    content = io.BytesIO()
    tifffile.imwrite(content, eight, photometric="rgb")
    damaged = bytearray(content.getvalue())
    page = int.from_bytes(damaged[4:8], "little")
    damaged[page : page + 2] = (60_000).to_bytes(2, "little")
    with pytest.raises(ImageError, match="60,000 tags"):
        read_image(bytes(damaged))
    circle = bytearray(content.getvalue())
    after = page + 2 + 12 * int.from_bytes(circle[page : page + 2], "little")
    circle[after : after + 4] = page.to_bytes(4, "little")
    with pytest.raises(ImageError, match="is circular"):
        read_image(bytes(circle))


def test_a_palette_keeps_its_white_however_it_was_written(eight: np.ndarray) -> None:
    indices = eight[..., 0]
    eights = np.random.default_rng(2).integers(0, 256, (3, 256))
    eights[:, 7] = 255
    for factor in (257, 256):  # white is 65,535, or, as some programs write it, 65,280
        content = io.BytesIO()
        tifffile.imwrite(content, indices, photometric="palette", colormap=(eights * factor).astype(np.uint16))
        assert np.array_equal(read_image(content.getvalue()), eights.T[indices].astype(np.uint8)), factor


@pytest.mark.parametrize(("dtype", "bits"), [(np.int8, 7), (np.int16, 15), (np.int32, 31)])
def test_numbers_with_a_sign_have_one_bit_less(eight: np.ndarray, dtype: type, bits: int) -> None:
    content = io.BytesIO()
    values = np.round(eight / 255 * (2**bits - 1)).astype(dtype)
    tifffile.imwrite(content, values, photometric="rgb")
    picture = read_picture(content.getvalue())
    assert np.array_equal(picture.pixels, np.floor(values / (2.0**bits - 1) * 255 + 0.5))
    assert picture.notes == (f"{bits} bits per channel, estimated from the brightest pixel",)


def test_white_is_zero_in_three_channels_is_refused(eight: np.ndarray) -> None:
    content = io.BytesIO()
    tifffile.imwrite(content, eight, photometric="miniswhite", planarconfig="contig")
    with pytest.raises(ImageError, match="0 is white"):
        read_image(content.getvalue())


def test_a_jpeg_that_pillow_cannot_decode_is_named_and_not_called_damaged(eight: np.ndarray) -> None:
    deep = imagecodecs.jpeg_encode(eight.astype(np.uint16) * 16, bitspersample=12)
    for content, said in (
        (deep, "JPEG of 12 bits per channel"),
        (imagecodecs.jpegls_encode(eight), "JPEG-LS"),
        (imagecodecs.jpegxr_encode(eight), "JPEG XR"),
        (imagecodecs.jpegxl_encode(eight), "JPEG XL"),
        (b"ZISRAWFILE" + bytes(500), "Zeiss CZI"),
        (b"8BPS" + bytes(500), "Photoshop"),
        (b"%PDF-1.4\n", "PDF"),
    ):
        with pytest.raises(ImageError, match=f"is a {said}") as refused:
            read_image(content)
        assert "damaged" not in str(refused.value)


def test_ycbcr_without_jpeg_is_read_or_refused_by_name(eight: np.ndarray) -> None:
    stored = np.asarray(Image.fromarray(eight).convert("YCbCr"))

    def written(values: np.ndarray, **more: object) -> bytes:
        content = io.BytesIO()
        tifffile.imwrite(content, values, photometric="ycbcr", **more)
        return content.getvalue()

    for orientation, want in ((1, eight), (6, np.rot90(eight, -1))):
        content = written(stored, extratags=[(274, 3, 1, orientation, True)])
        assert np.abs(read_image(content).astype(int) - want).max() <= 3
        assert read_size(content) == want.shape[1::-1]
    for content in (
        written(stored.astype(np.uint16) * 257),
        written(np.moveaxis(stored, -1, 0), planarconfig="separate"),
    ):
        with pytest.raises(ImageError, match="has YCbCr colours in a layout that is not supported"):
            read_image(content)
