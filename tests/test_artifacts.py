"""Files that stages hand to each other: whole or not at all, under the name that was given, whatever stands there."""

import csv
import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.files import atomic_write, fingerprint, read_csv, read_json, write_csv, write_json, write_text

ODD = os.fsdecode(b"a\xff.bmp")


def ended(code: str, *arguments: object, **how: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", f"import sys; from leukoscope.files import *\n{code}", *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60, **({"capture_output": True} | how))  # type: ignore[call-overload,no-any-return]


def _halfway(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def test_what_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as new:
        _halfway(new)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "link.txt").symlink_to("shelf/real.txt")
    for text in ("first", "second"):
        write_text(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "shelf" / "real.txt").read_text() == text


def test_a_device_stays_a_device() -> None:
    before = Path("/dev/null").stat()
    write_text(Path("/dev/null"), "gone")
    assert os.path.samestat(before, Path("/dev/null").stat())
    with pytest.raises(OSError, match="No space left") as full:
        write_text(Path("/dev/full"), "gone")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_standard_output_is_written_into_in_its_order_pipe_or_file(tmp_path: Path) -> None:
    code = "print('before'); write_text(Path('/dev/stdout'), 'between\\n'); print('after')"
    expected = ["before", "between", "after"]
    assert ended(code).stdout.decode().splitlines() == expected
    (tmp_path / "log.txt").write_text("older\n")
    with (tmp_path / "log.txt").open("ab") as log:
        ended(code, capture_output=False, stdout=log)
    assert (tmp_path / "log.txt").read_text().splitlines() == ["older", *expected]


def test_a_named_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nothing reads"):
        write_text(tmp_path / "pipe", "text")


def test_a_named_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", bytearray()
    os.mkfifo(pipe)
    text = "x" * 200_000  # more than a pipe holds
    held = os.open(pipe, os.O_RDWR)  # so that there is a reader from the start

    def take() -> None:
        while len(read) < len(text):
            read.extend(os.read(held, 65_536))

    reader = threading.Thread(target=take, daemon=True)
    reader.start()
    write_text(pipe, text)
    reader.join(timeout=60)
    assert read.decode() == text
    assert pipe.is_fifo()
    os.close(held)


@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_what_cannot_be_written_is_named_as_it_was_given(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file, not a folder") as refused:
        write_text(tmp_path / folder / "out.csv", "")
    assert refused.value.filename == str(tmp_path / folder / "out.csv")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        write_text(tmp_path / "out.csv", "")
    assert refused.value.filename == str(tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_limit_on_the_size_of_files_is_told_of_the_file_that_was_given(tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    code += "try: write_text(Path(sys.argv[1]), 'x' * 5000)\nexcept OSError as full: print(full.filename)"
    found = ended(code, tmp_path / "out.txt")
    assert found.stdout.decode().strip() == str(tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf_8_are_written_readably(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"path": ODD}], columns=("path",))
    write_json(tmp_path / "a.json", {"path": ODD, "other": "µ"})
    write_text(tmp_path / "a.html", ODD)
    readable = r"a\udcff.bmp"
    assert read_csv(tmp_path / "a.csv") == [{"path": readable}]
    assert read_json(tmp_path / "a.json") == {"path": readable, "other": "µ"}
    assert json.loads((tmp_path / "a.json").read_bytes())["path"].encode() == readable.encode()
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == readable
    assert fingerprint(ODD) != fingerprint("a.bmp")


@given(st.lists(st.text(st.characters(exclude_characters="\r\0"), max_size=8), min_size=1, max_size=5))
def test_a_table_gives_back_what_was_written_and_holds_no_formula(values: list[str]) -> None:
    """Whatever folders and subjects are called."""
    rows = [{"=name": value, "number": -0.5} for value in values]
    with TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        write_csv(path, rows, columns=["=name", "number"])
        with path.open(newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if re.match(r" *[=@\t\r]", cell)] == []
        assert cells[1::2] == ["number", *["-0.5"] * len(values)]
        read = [row["=name"] for row in read_csv(path)]
        assert read == [str(row["=name"]).encode(errors="backslashreplace").decode() for row in rows]
