"""A disk that fills while crops are packed: one clear line, nothing half-written, and the same command goes on."""

import resource
import subprocess
import sys
from pathlib import Path

from leukoscope.data.cells import Cell, open_pack, write_cells

PROGRAM = [sys.executable, "-c", "from leukoscope.cli import main; main()", "data", "pack"]


def run_pack(table: Path, **given: object) -> "subprocess.CompletedProcess[str]":
    command = [*PROGRAM, str(table), "-o", str(table.with_name("pack")), "--size", "128", "--view", "frame"]
    return subprocess.run(command, capture_output=True, text=True, check=False, **given)  # type: ignore[call-overload,no-any-return]


def refused(ended: "subprocess.CompletedProcess[str]", *, says: str) -> None:
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_limit_on_the_size_of_files_stops_the_pack_and_leaves_nothing(tmp_path: Path, synthetic: list[Cell]) -> None:
    """The limit is the system's own way to refuse bytes: 120 crops of 48 KiB do not go into 1 MiB."""
    write_cells(tmp_path / "cells.csv", synthetic)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    refused(run_pack(tmp_path / "cells.csv", preexec_fn=limit), says="crops.npy")
    assert not [path for path in (tmp_path / "pack").iterdir() if path.name != ".lock"]
    assert run_pack(tmp_path / "cells.csv").returncode == 0
    assert len(open_pack(tmp_path / "pack")) == len(synthetic)
