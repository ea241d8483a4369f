"""A full disk: a clear answer, nothing half-written, and everything goes on when there is room again."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from leukoscope.server.settings import RoomSettings
from tests.server.conftest import cell_picture, opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.getuid() == 0 and shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root, with the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_said_and_nothing_is_half_written(small_disk: Path, bundle: Path) -> None:
    for place in opened(RoomSettings(data=small_disk, model=bundle)):
        me = place.local()
        case = me.case(pictures=[cell_picture(1)])
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"")
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        full = me.send(case, *[cell_picture(seed) for seed in range(10, 20)])
        assert (full.status_code, full.json()["error"]["code"]) == (507, "disk_full")
        assert me.get(f"/cases/{case}").json()["images"] == 1
        assert not [path for path in (small_disk / "pictures").rglob(".*") if path.is_file()]
        ballast.unlink()
        assert me.send(case, cell_picture(30)).json()["progress"]["done"] == 2
