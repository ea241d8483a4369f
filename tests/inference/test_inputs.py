"""What is found where the user said: every picture once, and a word about everything else that looks like one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.errors import DataError
from leukoscope.files import write_csv
from leukoscope.inference import sources
from leukoscope.inference.sources import gather, sources_of
from tests.server.test_slides import write_slide


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("full", "bare", "old"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "full" / "a.png")
    Image.new("P", (32, 32)).save(tmp_path / "old" / "a.gif")
    write_csv(tmp_path / "none.csv", [], columns=("path",))
    return tmp_path


def test_places_without_images_are_named_beside_what_others_hold(places: Path) -> None:
    found = gather([places / name for name in ("bare", "full", "none.csv", "old")])
    assert [source.path.name for source in found.sources] == ["a.png"]
    assert [line.split(" ")[0] for line in found.empty] == [str(places / name) for name in ("bare", "none.csv", "old")]
    assert [path.name for path in found.other] == ["a.gif"]


def test_where_no_place_holds_an_image_all_are_named(places: Path) -> None:
    with pytest.raises(DataError) as refused:
        gather([places / "bare", places / "old"])
    assert "bare holds no image" in str(refused.value)
    assert "Save a.gif" in str(refused.value)


def test_who_cannot_tell_of_them_is_stopped_by_one_empty_place(places: Path) -> None:
    with pytest.raises(DataError, match="bare holds no image"):
        sources_of([places / "bare", places / "full"])


def test_links_are_followed_and_those_that_lead_nowhere_are_kept(places: Path) -> None:
    (places / "full" / "good.png").symlink_to("a.png")
    (places / "full" / "gone.png").symlink_to("nowhere.png")
    (places / "full" / "folder.png").mkdir()
    found = gather([places / "full"])
    assert [source.path.name for source in found.sources] == ["a.png", "gone.png", "good.png"]


def test_hidden_files_are_not_spoken_of(places: Path) -> None:
    for name in ("._a.png", "._a.gif"):
        (places / "full" / name).write_bytes(b"")
    found = gather([places / "full"])
    assert (len(found.sources), found.other) == (1, [])


def test_a_pyramid_of_a_scanner_is_a_slide_and_a_small_picture_is_none(tmp_path: Path) -> None:
    pixels = np.full((600, 700, 3), 200, np.uint8)
    pyramid = write_slide(tmp_path / "pyramid.svs", pixels, svs=True)
    Image.fromarray(pixels).save(tmp_path / "field.png")
    Image.fromarray(pixels).save(tmp_path / "field.tif")
    assert sources._is_slide(pyramid)
    assert not sources._is_slide(tmp_path / "field.png")
    assert not sources._is_slide(tmp_path / "field.tif")
