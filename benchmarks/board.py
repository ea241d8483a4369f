"""What the benchmarks share: the release-size files that both sides read, fair timing, and table and chart in the docs.

A benchmark calls `publish`: the table is printed, and written with its chart, the machine and the versions to
docs/benchmarks/NAME.md and NAME.svg.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from leukoscope.files import write_text
from leukoscope.report.figures import MODEL, MUTED, canvas, drawing, for_file

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"
SIDE = 450  # pixels, as in the C-NMC release


@dataclass(frozen=True)
class Spent:
    """Seconds, and processor seconds of this process and of the processes that it started and that have ended."""

    seconds: float
    processor: float


@dataclass(frozen=True)
class Chart:
    """Bars, one for each name; or a line through points where `x` says at what each was measured."""

    values: Mapping[str, float]
    unit: str
    x: str = ""


def spent(work: Callable[[], Any]) -> tuple[Any, Spent]:
    """Return what `work` returns, and what it took."""
    used, start = _processor_seconds(), time.perf_counter()
    result = work()
    return result, Spent(time.perf_counter() - start, _processor_seconds() - used)


def median(rounds: Sequence[Spent]) -> Spent:
    return Spent(statistics.median(each.seconds for each in rounds), statistics.median(e.processor for e in rounds))


class Peer:
    """A program of the other side that stays alive between rounds: a line of JSON in, a line of JSON out."""

    def __init__(self, python: Path | str, code: str, *args: object) -> None:
        command = [str(python), "-c", code, *map(str, args)]
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Return its answer.

        Raises:
            RuntimeError: it has ended; with what it wrote before.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        assert self._process.stderr is not None
        raise RuntimeError(f"The other side ended:\n{self._process.stderr.read()[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)


def write_files(folder: Path, *, count: int, classes: Sequence[str] = ("",)) -> list[Path]:
    """Write `count` cells as 450 px BMPs of 608 KB, in a folder for each class; no two are the same."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    paths = []
    for number in range(count):
        label = number % len(classes)
        small = rng.integers(60, 180 + 70 * label, (25, 25, 3), dtype=np.uint8)
        disc = np.hypot(down * rng.uniform(0.8, 1.2), across) < rng.uniform(90, 150)
        cell = np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) * disc[..., None]
        path = folder / classes[label] / f"S{number % 40}_{number:05d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(path)
        paths.append(path)
    return paths


def publish(
    name: str,
    *,
    title: str,
    about: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    chart: Chart,
    notes: str = "",
    versions: Mapping[str, str] | None = None,
) -> None:
    """Print the table, and write it with its chart to docs/benchmarks; `versions` are those of the other side."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in [list(columns), *cells]) for place in range(len(columns))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    head = " | ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True))
    table = "\n".join(f"| {line} |" for line in [head, " | ".join("-" * width for width in widths), *lines])
    parts = [f"# {title}", about, table, f"![{title}]({name}.svg)", notes, machine(versions or {})]
    write_text(DOCS / f"{name}.md", "\n\n".join(part.strip() for part in parts if part.strip()) + "\n")
    write_text(DOCS / f"{name}.svg", _drawn(name, chart))
    print(f"\n{title}\n{table}\n{notes.strip()}", flush=True)


def machine(others: Mapping[str, str]) -> str:
    """Return one paragraph: cores, memory, what else was running, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    ours = {name: version(name) for name in ("torch", "onnxruntime", "numpy", "pillow", "scikit-learn")}
    known = ", ".join(f"{name} {number}" for name, number in {**ours, **others}.items())
    return (
        f"Machine: {os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB of memory, {platform.system()}; load over "
        f"the last 15 minutes {os.getloadavg()[2]:.1f}. Python {platform.python_version()}, {known}."
    )


def ratio(peer: float, ours: float) -> str:
    return f"{peer / ours:.2f}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), sys.platform)


def _processor_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _drawn(name: str, chart: Chart) -> str:
    names, values = list(chart.values), list(chart.values.values())
    with canvas(height=1.2 + 0.34 * len(names) if not chart.x else 3) as (figure, axes):
        if chart.x:
            axes.plot([float(at) for at in names], values, color=MODEL, marker="o")
            axes.set_ylim(0, 1.15 * max(values))
            axes.set_xlabel(chart.x)
            axes.set_ylabel(chart.unit)
            axes.xaxis.set_major_formatter("{x:,.0f}")
        else:
            colours = [MODEL if each.startswith("leukoscope") else MUTED for each in names]
            bars = axes.barh(names[::-1], values[::-1], color=colours[::-1], height=0.6)
            axes.bar_label(bars, fmt="{:,.3g}", padding=3)
            axes.set_xlim(0, 1.18 * max(values))
            axes.set_xlabel(chart.unit)
            axes.grid(visible=False, axis="y")
        return for_file(drawing(figure, name))
