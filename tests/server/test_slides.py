"""Slides in the room: taken in without being unpacked, looked at by tiles, analysed where somebody draws."""

import io
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from leukoscope.errors import ImageError
from leukoscope.fields.slides import TiffSlide
from leukoscope.server import slides
from leukoscope.server.refusals import Refusal
from leukoscope.server.settings import Limits, RoomSettings
from tests.interop.test_dicom import write_slide as write_dicom
from tests.server.conftest import Place, Visitor, opened, png
from tests.server.test_reading import smear

tifffile = pytest.importorskip("tifffile", reason="the extra fields is not installed")
imagecodecs = pytest.importorskip("imagecodecs", reason="the extra fields is not installed")

PATIENT = b"Doe^Jane 1970-01-01"
UM = 0.1
MOST = 200_000  # pixels of a picture in these rooms: what has more is a slide


def jpeg_tile(pixels: NDArray[np.uint8], *, comment: bytes = b"") -> bytes:
    stream: bytes = imagecodecs.jpeg_encode(
        pixels, level=95, colorspace="RGB", outcolorspace="YCBCR", subsampling="444"
    )
    said = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment if comment else b""
    return stream[:2] + said + stream[2:]


def tiles(pixels: NDArray[np.uint8], side: int) -> Iterator[bytes]:
    for top in range(0, pixels.shape[0], side):
        for left in range(0, pixels.shape[1], side):
            part = pixels[top : top + side, left : left + side]
            whole = np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)), mode="edge")
            yield jpeg_tile(whole, comment=PATIENT)


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).reduce(2))


def write_slide(path: Path, pixels: NDArray[np.uint8], *, levels: int = 3, side: int = 256, svs: bool = False) -> Path:
    """Write a tiled pyramid of JPEG tiles as scanners do, with a label and a patient in whatever can hold one."""
    pyramid = [pixels]
    while len(pyramid) < levels:
        pyramid.append(halved(pyramid[-1]))
    about = f"Aperio Image\r\n|MPP = {UM}|User = {PATIENT.decode()}" if svs else f"slide of {PATIENT.decode()}"
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for level, each in enumerate(pyramid):
            out.write(
                tiles(each, side),
                shape=each.shape,
                dtype=np.uint8,
                tile=(side, side),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                metadata=None,
                software=PATIENT.decode(),
                description=about if svs or not level else None,
                resolution=(1e4 / UM, 1e4 / UM),
                resolutionunit="CENTIMETER",
                **({} if svs else {"subfiletype": min(level, 1), "subifds": 0 if level else levels - 1}),
            )
        if svs:
            label = np.full((80, 90, 3), 200, np.uint8)
            out.write(label, photometric="rgb", description=f"Aperio\r\nlabel 90x80 {PATIENT.decode()}", subfiletype=1)
    return path


def pattern(width: int, height: int) -> NDArray[np.uint8]:
    """Return pixels of which each says where it lies."""
    y, x = np.mgrid[:height, :width]
    colours = (255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 170) * np.sin(y / 230))
    return np.stack(colours, axis=2).astype(np.uint8)


def decoded(content: bytes) -> NDArray[np.int_]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("svs", [False, True])
def test_a_slide_is_copied_tile_by_tile_without_a_word_of_its_file(tmp_path: Path, svs: bool) -> None:
    source = write_slide(tmp_path / ("a.svs" if svs else "a.tif"), pattern(1500, 1100), svs=svs)
    assert PATIENT in source.read_bytes()
    facts = slides.take_slide(source, tmp_path / "taken", most_pixels=MOST)
    assert facts == slides.SlideFacts(1500, 1100, UM)
    taken = (tmp_path / "taken").read_bytes()
    assert PATIENT not in taken
    assert b"Aperio" not in taken
    before, after = TiffSlide(source), TiffSlide(tmp_path / "taken")
    assert np.array_equal(before.read(300, 200, 700, 600), after.read(300, 200, 700, 600)), "not one bit of a pixel"
    with tifffile.TiffFile(tmp_path / "taken") as file:
        assert len(file.series) == 1, "no label"


def test_what_cannot_be_copied_is_written_anew(tmp_path: Path) -> None:
    """Three planes, one for each colour, are no tiles that a viewer could be given."""
    pixels = pattern(1200, 900)
    with tifffile.TiffWriter(tmp_path / "planes.tif") as out:
        for level, each in enumerate((pixels, halved(pixels))):
            out.write(
                np.moveaxis(each, 2, 0),
                tile=(256, 256),
                photometric="rgb",
                planarconfig="separate",
                metadata=None,
                subfiletype=level,
                subifds=1 - level,
            )
    assert slides.take_slide(tmp_path / "planes.tif", tmp_path / "taken", most_pixels=MOST) is not None
    found = TiffSlide(tmp_path / "taken").read(100, 100, 900, 700).astype(int)
    assert np.abs(found - pixels[100:800, 100:1000]).mean() < 2


def test_tiles_are_those_of_deep_zoom(tmp_path: Path) -> None:
    pixels = pattern(1500, 1100)
    slides.take_slide(write_slide(tmp_path / "a.tif", pixels), tmp_path / "taken", most_pixels=MOST)
    highest = slides.highest_level(1500, 1100)
    assert highest == 11
    for level in range(7, highest + 1):
        factor = 2 ** (highest - level)
        wide, high = math.ceil(1500 / factor), math.ceil(1100 / factor)
        whole = np.zeros((high, wide, 3), int)
        for row in range(math.ceil(high / slides.TILE)):
            for column in range(math.ceil(wide / slides.TILE)):
                part = decoded(slides.tile(tmp_path / "taken", level=level, column=column, row=row))
                top, left = row * slides.TILE, column * slides.TILE
                whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        expected = np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BOX)).astype(int)
        assert np.abs(whole - expected).mean() < 3, level
    for place in ((highest + 1, 0, 0), (highest, 3, 0), (highest, 0, 3)):
        with pytest.raises(Refusal, match="There is no tile"):
            slides.tile(tmp_path / "taken", level=place[0], column=place[1], row=place[2])


def test_a_field_has_the_same_tiles_from_its_pyramid_and_by_itself(tmp_path: Path) -> None:
    pixels = pattern(1300, 700)
    (tmp_path / "a").write_bytes(png(pixels))
    (tmp_path / "pyramid").write_bytes(slides.pyramid(tmp_path / "a"))
    for place in ({"level": 11, "column": 2, "row": 1}, {"level": 10, "column": 0, "row": 0}):
        one = decoded(slides.tile(tmp_path / "pyramid", **place))
        other = decoded(slides.tile_of_picture(tmp_path / "a", **place))
        assert one.shape == other.shape
        assert np.abs(one - other).mean() < 3


@pytest.mark.parametrize(("levels", "side", "words"), [(1, 256, "no smaller levels"), (2, 5120, "too large to open")])
def test_a_slide_that_could_only_be_read_as_a_whole_is_refused_with_the_cure(
    tmp_path: Path, levels: int, side: int, words: str
) -> None:
    path = tmp_path / "flat.tif"
    size = 10_000 if levels == 1 else 5_000
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for level in range(levels):
            each = size // 2**level
            empty = (b"" for _ in range(math.ceil(each / side) ** 2))
            out.write(
                empty,
                shape=(each, each, 3),
                dtype=np.uint8,
                tile=(side, side),
                photometric="rgb",
                metadata=None,
                compression="deflate",
                subfiletype=min(level, 1),
                subifds=0 if level else levels - 1,
            )
    with pytest.raises(ImageError, match=words) as refused:
        slides.take_slide(path, tmp_path / "taken", most_pixels=MOST)
    assert "vips tiffsave" in str(refused.value)
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_dicom_slide_becomes_a_pyramid_with_its_scale_and_without_its_header(tmp_path: Path, jpeg: bool) -> None:
    pixels = pattern(9001, 2500)  # no multiple of a frame, a tile or a level
    source = write_dicom(tmp_path / "a.dcm", pixels, mm=2.5e-4, side=240, jpeg=jpeg)
    facts = slides.take_slide(source, tmp_path / "taken", most_pixels=MOST)
    assert facts
    assert (facts.width, facts.height, facts.um_per_px) == (9001, 2500, pytest.approx(0.25))
    with tifffile.TiffFile(tmp_path / "taken") as taken:
        assert [level.shape[:2] for level in taken.series[0].levels] == [(2500, 9001), (625, 2251), (157, 563)]
    content = (tmp_path / "taken").read_bytes()
    for word in (b"Doe", b"PatientName", b"1.2.840"):
        assert word not in content
    assert (
        np.abs(
            decoded(slides.tile(tmp_path / "taken", level=14, column=3, row=2)) - pixels[1024:1536, 1536:2048]
        ).mean()
        < 4
    )
    whole = decoded(slides.tile(tmp_path / "taken", level=9, column=0, row=0))
    small = np.asarray(Image.fromarray(pixels).resize(whole.shape[1::-1], Image.Resampling.BOX), int)
    assert np.abs(whole - small).mean() < 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dcm", "taken"], "nothing is left of the way there"


def test_a_label_of_a_dicom_slide_is_no_picture_of_cells(tmp_path: Path) -> None:
    import pydicom

    source = write_dicom(tmp_path / "a.dcm", pattern(1300, 900), mm=2.5e-4)
    label = pydicom.dcmread(source)
    label.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    label.save_as(tmp_path / "label.dcm")
    with pytest.raises(ImageError, match="label of a slide") as refused:
        slides.take_slide(tmp_path / "label.dcm", tmp_path / "taken", most_pixels=MOST)
    assert str(tmp_path) not in str(refused.value)


@pytest.fixture
def settings(tmp_path: Path, bundle: Path, database: str) -> RoomSettings:
    """A room in which a picture of more than a few pixels is a slide."""
    limits = Limits(pixels=MOST, area_pixels=400_000)
    return RoomSettings(data=tmp_path / "room", database=database, model=bundle, limits=limits)


@pytest.fixture
def place(settings: RoomSettings) -> Iterator[Place]:
    """A room for one machine, open."""
    yield from opened(settings)


def stained(width: int, height: int) -> NDArray[np.uint8]:
    """A slide of glass with one painted field on it, at 640, 300."""
    pixels = np.full((height, width, 3), 236, np.uint8)
    field = smear()
    pixels[300 : 300 + field.shape[0], 640 : 640 + field.shape[1]] = field
    return pixels


def sent_slide(me: Visitor, path: Path, case: int, *, name: str = "ward 3/smear.tif") -> Any:
    return me.post(f"/cases/{case}/slides?name={name}", content=path.read_bytes())


def test_a_slide_is_sent_looked_at_and_analysed_where_somebody_draws(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case("slide")
    path = write_slide(tmp_path / "a.tif", stained(2000, 1500))
    answer = sent_slide(me, path, case)
    assert (answer.status_code, answer.json()["refused"]) == (202, [])
    slide = answer.json()["accepted"][0]
    assert slide["kind"] == "slide"
    progress = me.get(f"/cases/{case}/progress").json()
    assert (progress["done"], progress["finished"]) == (1, True), "nothing is analysed until an area is drawn"

    tile = me.get(f"/images/{slide['id']}/tiles/11/1/0")
    assert decoded(tile.content).shape == (512, 512, 3)
    assert me.get(f"/images/{slide['id']}/tiles/11/9/0").status_code == 404

    box = [600, 260, 720, 540]
    area = me.post(f"/images/{slide['id']}/areas", json={"box": box})
    assert area.status_code == 201, area.text
    finished(me, case)
    found = me.get(f"/images/{slide['id']}").json()
    assert [each["state"] for each in found["areas"]] == ["done"]
    assert len(found["cells"]) >= 2
    middles = [(x + w / 2, y + h / 2) for x, y, w, h in (cell["box"] for cell in found["cells"])]
    assert any(abs(x - 640 - 120) < 8 and abs(y - 300 - 120) < 8 for x, y in middles), "in pixels of the slide"
    picture = me.get(f"/cells/{found['cells'][0]['id']}/thumbnail?side=160")
    assert decoded(picture.content).mean() > 120, "in its surroundings"
    assert me.get(f"/images/{area.json()['id']}").json()["part_of"]["image"] == slide["id"]

    for bad, code in (
        (box, "overlaps"),
        ([0, 0, 9, 9], "too_small"),
        ([0, 0, 900, 900], "too_large"),
        ([1900, 0, 200, 200], "outside"),
    ):
        assert me.post(f"/images/{slide['id']}/areas", json={"box": bad}).json()["error"]["code"] == code
    outlines = me.get(f"/cases/{case}/exports/geojson")
    assert outlines.headers["content-disposition"].endswith("smear.geojson")
    points = np.concatenate([np.array(each["geometry"]["coordinates"][0]) for each in outlines.json()["features"]])
    assert points.min(axis=0)[0] >= 600, "where they lie on the slide"
    counted = me.get(f"/cases/{case}/summary").json()["blood_count"]
    assert (counted["fields"], counted["red_cells"] > 0) == (1, True), "an area is counted as a field is"
    assert "red cells in fields" in me.get(f"/cases/{case}/exports/counts").text

    removed = me.remove(f"/images/{slide['id']}")
    assert removed.status_code == 200
    assert me.get(f"/cases/{case}/images").json()["total"] == 0
    assert not [file for file in (place.room.settings.data / "pictures").rglob("*") if file.is_file()]


def finished(me: Visitor, case: int) -> None:
    wait = threading.Event()
    for _ in range(600):
        if me.get(f"/cases/{case}/progress").json()["finished"]:
            return
        wait.wait(0.2)
    pytest.fail("the analysis did not end")


def test_a_dicom_slide_is_sent_and_analysed_where_somebody_draws(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case("slide")
    path = write_dicom(tmp_path / "a.dcm", stained(2000, 1500), mm=1e-4)
    assert path.stat().st_size > 4 << 20, "as large as what is looked at as a slide first"
    both = me.send(case, path.read_bytes(), png(smear()[:300, :400]), names=("a.dcm", "field.png"), um_per_px=0.1)
    assert sorted(each["kind"] for each in both.json()["accepted"]) == ["auto", "slide"], both.text
    slide = next(each for each in both.json()["accepted"] if each["kind"] == "slide")
    assert me.get(f"/images/{slide['id']}").json()["um_per_px"] == pytest.approx(0.1)
    area = me.post(f"/images/{slide['id']}/areas", json={"box": [600, 260, 720, 540]})
    assert area.status_code == 201, area.text
    finished(me, case)
    assert len(me.get(f"/images/{slide['id']}").json()["cells"]) >= 2
    broken = path.read_bytes()[: len(path.read_bytes()) // 3]
    answer = me.post(f"/cases/{case}/slides?name=broken.dcm", content=broken).json()
    assert (len(answer["accepted"]), len(answer["refused"])) == (0, 1)
    assert str(place.room.settings.data) not in answer["refused"][0]["error"]
    stored = (place.room.settings.data / "pictures").iterdir()
    assert not [each for each in stored if each.name.startswith(".")], "nothing half done is left in the store"


def test_a_slide_among_other_files_is_one_too(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case()
    path = write_slide(tmp_path / "a.tif", stained(1300, 900))
    both = me.send(case, path.read_bytes(), png(smear()[:300, :400]), names=("slide.tif", "field.png"), um_per_px=0.1)
    assert sorted(each["kind"] for each in both.json()["accepted"]) == ["auto", "slide"]
    assert me.get(f"/cases/{case}/images").json()["images"][0]["um_per_px"] == 0.1


def test_nobody_of_another_laboratory_sees_a_tile(laboratory: Place, tmp_path: Path) -> None:
    mine, theirs = laboratory.visitor("rita"), laboratory.visitor("sue")
    case = mine.case()
    image = mine.send(case, png(smear()[:300, :400]), names=("field.png",), um_per_px=0.1).json()["accepted"][0]["id"]
    assert mine.get(f"/images/{image}/tiles/9/0/0").status_code == 200
    for path in (f"/images/{image}/tiles/9/0/0", f"/images/{image}"):
        assert theirs.get(path).status_code == 404
    assert theirs.post(f"/images/{image}/areas", json={"box": [0, 0, 99, 99]}).status_code == 404
    assert theirs.post(f"/cases/{case}/slides?name=a.tif", content=b"II").status_code == 404


def test_a_broken_slide_is_refused_and_leaves_nothing_behind(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case()
    content = write_slide(tmp_path / "a.tif", stained(1300, 900)).read_bytes()
    for damaged in (content[: len(content) // 2], content[:200] + bytes(5000) + content[5200:], b"II*\0"):
        answer = me.post(f"/cases/{case}/slides?name=a.tif", content=damaged).json()
        assert (len(answer["accepted"]), len(answer["refused"])) == (0, 1)
        assert str(place.room.settings.data) not in answer["refused"][0]["error"]
    assert me.post(f"/cases/{case}/slides?name=a.tif").status_code == 422
    assert not [file for file in (place.room.settings.data / "pictures").rglob("*") if file.is_file()]
