"""A small prepared run folder: images in files, cells, a split and packed crops, made with the real stages."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leukoscope.config import Experiment
from leukoscope.data.cells import Cell, pack, write_cells
from leukoscope.data.split import make_split, write_split
from leukoscope.files import sha256_of, write_csv

MakeRun = Callable[..., Path]
SIDE = 32


def make_cells(rng: np.random.Generator, *, blast: bool) -> np.ndarray[Any, Any]:
    """Return a disc of noise on black, (SIDE, SIDE, 3); blasts are redder."""
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    disc = np.hypot(down, across) < rng.uniform(8, 13)
    colour = np.array([150 + 60 * blast, 90, 150]) + rng.normal(0, 25, size=(SIDE, SIDE, 3))
    return (np.clip(colour, 2, 255) * disc[..., None]).astype(np.uint8)


def write_images(folder: Path, *, subjects: int, each: int, labels: tuple[str, ...]) -> list[Cell]:
    rng = np.random.default_rng(0)
    cells = []
    for subject in range(subjects):
        for number in range(each):
            label = labels[subject % len(labels)]
            path = folder / f"{label}_{subject}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_cells(rng, blast=label == labels[-1])).save(path)
            facts = {"part": f"fold_{subject % 3}", "source": "folder", "name": path.name, "sha256": sha256_of(path)}
            cells.append(Cell(path=path, label=label, subject=str(subject), width=SIDE, height=SIDE, **facts))
    return cells


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much on a busy machine; child processes inherit this."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that makes a prepared run folder from dotted settings."""

    def make(
        name: str = "run",
        *,
        subjects: int = 12,
        each: int = 8,
        labels: tuple[str, ...] = ("hem", "all"),
        **settings: Any,
    ) -> Path:
        run = tmp_path / name
        table: dict[str, Any] = {
            "prepare": {"view": "frame", "size": SIDE},
            "split": {"scheme": "holdout", "validation": 0.25},
            "train": {"epochs": 2, "batch_size": 8, "accelerator": "cpu"},
        }
        for key, value in settings.items():
            section, _, field = key.partition("__")
            base = table.get(section, {})
            table[section] = base | ({field: value} if field else value) if field or isinstance(value, dict) else value
        experiment = Experiment.model_validate(table)
        cells = write_images(tmp_path / "images", subjects=subjects, each=each, labels=labels)
        cells[0] = dataclasses.replace(cells[0], label="")  # one cell without a label, as in a real table
        write_cells(run / "cells.csv", cells)
        experiment.write(run / "config.toml")
        write_split(run / "split.json", make_split(cells, experiment.split, seed=experiment.seed))
        pack(cells, run / "pack", prepare=experiment.prepare)
        areas = [
            {"path": cell.name, "area_px": int((np.asarray(Image.open(cell.path)) > 0).any(axis=2).sum())}
            for cell in cells
        ]
        write_csv(run / "traits.csv", areas, columns=("path", "area_px"))
        return run

    return make
