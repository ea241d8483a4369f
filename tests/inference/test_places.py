"""Where images may come from: pipes are refused at once, and a table leads to its own kind of place alone."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from leukoscope.cli.predict import predict
from leukoscope.errors import DataError, ImageError, UsageError
from leukoscope.images.read import read_image
from leukoscope.inference.shards import beside
from leukoscope.inference.sources import SUFFIXES, gather, kind_of, sources_of

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")


def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "x.png"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match="is a pipe"):
        read_image(pipe)
    with pytest.raises(UsageError, match="is a pipe"):
        sources_of([pipe])
    told = CliRunner().invoke(predict, [str(pipe)])
    assert told.exit_code != 0


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("s3://lab/cells.parquet", "http://169.254.169.254/latest/meta-data"),
        ("s3://lab/cells.parquet", "/etc/passwd"),
        ("s3://lab/cells.parquet", "file:///etc/passwd"),
        ("/data/cells.parquet", "http://example.org/a.png"),
        ("/data/cells.parquet", "simplecache::s3://lab/a.png"),
        ("https://example.org/cells.csv", "ftp://example.org/a.png"),
        ("/data/cells.csv", "github://a:b@/c.png"),
    ],
)
def test_a_table_leads_to_no_other_kind_of_place(table: str, path: str) -> None:
    with pytest.raises(DataError, match="like the table"):
        beside(table, path)


def test_a_pipe_in_a_folder_or_a_table_never_keeps_the_others_waiting(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("path\na.png\nb.png\n")
    folder = gather([tmp_path], suffixes=SUFFIXES, dicom=True)
    assert [source.path.name for source in folder.sources] == ["a.png"]
    assert {(one.path.name, one.reason) for one in folder.passed} == {
        ("b.png", "pipe or device file"),
        ("t.csv", ".csv file"),
    }
    listed = gather([tmp_path / "t.csv"], suffixes=SUFFIXES, dicom=True)
    assert [kind_of(source.path) for source in listed.sources] == ["crop", "crop"]  # and refused by name when read
    with pytest.raises(ImageError, match="is a pipe"):
        read_image(listed.sources[1].path)


def test_a_row_without_a_path_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("path,subject\na.png,1\n,2\n")
    found = gather([tmp_path / "t.csv"])
    assert [source.subject for source in found.sources] == ["1"]
    assert found.empty == [f"{tmp_path / 't.csv'}, row 3: no path. Name the image file."]
    (tmp_path / "t.csv").write_text("path,subject\n,2\n")
    with pytest.raises(DataError, match="row 2: no path"):
        gather([tmp_path / "t.csv"])
