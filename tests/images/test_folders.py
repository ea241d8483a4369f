"""Nothing in a folder is passed over in silence."""

import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.images.listing import list_folder, passed_over
from leukoscope.inference.sources import gather


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "smear"
    (root / "more").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "a.png")
    shutil.copy(root / "a.png", root / "without")
    shutil.copy(root / "a.png", root / "odd.dat")
    Image.new("P", (32, 32)).save(root / "b.gif")
    (root / "notes.txt").write_text("text")
    (root / "more" / "IM0001").write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0")
    (root / "bare.IMA").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100")
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10")
    for name in ("._a.png", ".DS_Store", "Thumbs.db"):
        (root / name).write_bytes(b"x")
    return root


def test_content_tells_where_the_suffix_does_not(folder: Path) -> None:
    found = list_folder(folder, dicom=True)
    assert [path.name for path in found.files] == ["a.png", "bare.IMA", "IM0001", "odd.dat", "without"]
    assert {one.path.name: one.reason for one in found.passed} == {
        "b.gif": "GIF, which is not supported",
        "notes.txt": ".txt file",
        "DICOMDIR": "DICOM directory",
    }
    assert found.hidden == 3
    assert "DICOM, which is not supported" in list_folder(folder).counts()


def test_what_was_passed_over_is_named_with_counts(folder: Path) -> None:
    found = list_folder(folder)
    pictures, others, hidden = passed_over(found.passed, hidden=found.hidden)
    assert pictures.startswith("Skipped 3 pictures in unsupported formats: ")
    assert "(GIF, which is not supported)" in pictures
    assert others == "Skipped 2 other files: 1 DICOM directory, 1 .txt file."
    assert hidden == "Ignored 3 hidden or system files."
    assert passed_over([]) == []


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for where in (root / "a", other):
        where.mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(where / "1.png")
    (root / "a" / "round").symlink_to("..")
    (root / "0-link").symlink_to("a")  # comes first by name, yet the real folder keeps its name
    (root / "else").symlink_to(other)
    (root / "again").symlink_to(other)
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "gone").symlink_to("nowhere")
    found = list_folder(root)
    assert [path.relative_to(root).as_posix() for path in found.files] == ["a/1.png", "again/1.png", "gone.png"]
    assert [one.reason for one in found.passed] == ["link that leads nowhere"]


def test_a_picture_of_every_format_without_a_suffix_is_found(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        content = io.BytesIO()
        Image.new("RGB", (32, 32)).save(content, kind)
        (tmp_path / f"file-{kind}").write_bytes(content.getvalue())
    assert len(list_folder(tmp_path).files) == 5


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="Windows keeps rights otherwise")
def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        root, me = Path(name), os.geteuid()
        root.chmod(0o755)
        (root / "secret").mkdir(mode=0)
        (root / "a.png").write_bytes(b"x")
        try:
            if me == 0:
                os.seteuid(65_534)  # root reads everything
            found = gather([root])
        finally:
            os.seteuid(me)
    assert [source.path.name for source in found.sources] == ["a.png"]
    assert found.empty == [f"{root / 'secret'} cannot be read (Permission denied). Change its permissions."]
