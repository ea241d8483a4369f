"""How many threads compute, and how they wait: what a container, a mask or a user allows is kept to."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from leukoscope.progress import blas_threads, processors


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def given() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(("limit", "threads"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_a_container_gets_the_threads_of_its_quota(tmp_path: Path, limit: str, threads: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert processors(tmp_path) == (threads or given())


@pytest.mark.parametrize(("quota", "threads"), [(50_000, 1), (-1, None)])
def test_so_does_one_of_the_older_kind(tmp_path: Path, quota: int, threads: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processors(tmp_path) == (threads or given())


@pytest.mark.parametrize("limited", ["system.slice/room.service", "system.slice", ""])
def test_a_service_gets_the_threads_of_its_own_group_or_of_one_above(tmp_path: Path, limited: str) -> None:
    own = tmp_path / "own"
    own.write_text("0::/system.slice/room.service\n")
    (tmp_path / "system.slice" / "room.service").mkdir(parents=True)
    (tmp_path / limited / "cpu.max").write_text("50000 100000\n")
    assert processors(tmp_path, own) == 1
    own.write_text("0::/user.slice\n")
    assert processors(tmp_path, own) == (given() if limited else 1), "the quota of another group is not its own"


def test_so_does_a_job_of_the_older_kind(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("3:memory:/other\n2:cpu,cpuacct:/slurm/job_7\n0::/\n")
    job = tmp_path / "cpu" / "slurm" / "job_7"
    job.mkdir(parents=True)
    (job / "cpu.cfs_quota_us").write_text("50000\n")
    (job / "cpu.cfs_period_us").write_text("100000\n")
    assert processors(tmp_path, own) == 1


def test_a_quota_larger_than_the_machine_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("99900000 100000\n")
    assert processors(tmp_path) == given()


def test_damaged_limits_are_none(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("\n")
    assert processors(tmp_path) == given()


def test_what_the_user_asks_for_goes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert processors(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux")
def test_a_mask_of_one_processor_gives_one_thread() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += "from leukoscope.progress import processors; print(processors())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("asked", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(asked: dict[str, str], policy: str) -> None:
    """Set before PyTorch is imported, which reads it once."""
    code = "import sys, os, leukoscope.models; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | asked
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == f"False {policy}\n"


def of_blas() -> set[int]:
    """Return how many threads compute a product of matrices, by library."""
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


needs_blas = pytest.mark.skipif(not of_blas(), reason="NumPy brings a BLAS that cannot be asked")


@needs_blas
@pytest.mark.parametrize(("asked", "threads"), [({}, {1}), ({"OPENBLAS_NUM_THREADS": "2"}, {min(2, given())})])
def test_commands_compute_products_on_one_thread_unless_the_user_says_otherwise(
    asked: dict[str, str], threads: set[int]
) -> None:
    """With OMP_NUM_THREADS, too, which says how many cells are looked at at once."""
    code = (
        "import sys; from leukoscope.cli import main; sys.argv = ['leukoscope', 'settings', 'train.epochs']\n"
        "try: main()\n"
        "except SystemExit: import numpy, scipy.linalg; from threadpoolctl import threadpool_info\n"
        "print({each['num_threads'] for each in threadpool_info() if each['user_api'] == 'blas'})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"OMP_NUM_THREADS": "2"} | asked,
    )
    assert run.stdout.splitlines()[-1] == str(threads)


@needs_blas
def test_large_products_get_threads_for_a_while_and_say_the_same() -> None:
    before, numbers = of_blas(), np.random.default_rng(0).normal(size=(300, 300))
    with blas_threads(2):
        assert of_blas() == {2}
        two = numbers @ numbers
    with blas_threads(1):
        assert of_blas() == {1}
        np.testing.assert_allclose(numbers @ numbers, two, rtol=1e-10, atol=1e-10)
    assert of_blas() == before
