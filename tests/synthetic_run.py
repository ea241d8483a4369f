"""A run folder as training leaves it, made from a seed: subjects that differ, scores that overlap, no network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from leukoscope.config import Experiment
from leukoscope.data.cells import Cell, read_cells, write_cells
from leukoscope.data.split import Fold, SplitPlan, make_split, read_split, write_split
from leukoscope.files import read_csv, write_csv, write_json
from leukoscope.images.crop import prepare_crop
from leukoscope.images.read import read_image

TRAITS = ("path", "area_px", "mean_red", "mean_green", "mean_blue")
SIDE = 96


def write_run(
    run: Path,
    *,
    cells: int = 600,
    subjects: int = 30,
    classes: tuple[str, ...] = ("hem", "all"),
    strength: float = 1.6,
    size_effect: float = 0.5,
    source: str = "folder",
    seed: int = 0,
    images: bool = False,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write RUN with every file that evaluate and report read; `strength` is how well the scores tell classes apart."""
    rng = np.random.default_rng(seed)
    default = {"seed": seed, "prepare": {"window": SIDE, "size": 64}, "evaluate": {"replicates": 200}}
    experiment = Experiment.model_validate(default | (settings or {}))
    run.mkdir(parents=True, exist_ok=True)
    experiment.write(run / "config.toml")
    owner = np.sort(rng.integers(subjects, size=cells))
    label = owner % len(classes)
    shift = rng.normal(0, 0.6, subjects)[owner]
    area = np.exp(rng.normal(0, 0.25, cells) + size_effect * label + shift / 4) * 1500
    table = [_cell(run, row, owner[row], classes[label[row]], source=source, seed=seed) for row in range(cells)]
    write_cells(run / "cells.csv", table)
    _write_traits(run, table, area, rng)
    plan = make_split(table, experiment.split, seed=seed)
    write_split(run / "split.json", plan)
    scores = rng.normal(0, 1.0, (cells, len(classes))) + shift[:, None] * np.arange(len(classes))
    scores[np.arange(cells), label] += strength
    _write_predictions(run, table, plan, scores=1.8 * scores)
    _write_history(run, plan, rng)
    write_json(run / "model.json", MODEL)
    if images:
        _write_images(table, area, label, rng)
        crops = [prepare_crop(read_image(cell.path), experiment.prepare) for cell in table]
        (run / "pack").mkdir(exist_ok=True)
        np.save(run / "pack" / "crops.npy", np.array(crops))
        write_json(run / "pack" / "pack.json", {"rows": [cell.name for cell in table]})
    return run


def narrow(run: Path, keep: Callable[[str, str, str], bool]) -> None:
    """Take subject groups out of validation and test, in both split.json and predictions.csv.

    keep: takes set, group and label.
    """
    cells = read_cells(run / "cells.csv")
    plan = read_split(run / "split.json", cells)
    label = {plan.group_of(cell): cell.label for cell in cells}
    folds = [
        Fold(
            fold.train, *(tuple(each for each in getattr(fold, name) if keep(name, each, label[each])) for name in HELD)
        )
        for fold in plan.folds
    ]
    write_split(run / "split.json", replace(plan, folds=tuple(folds)))
    rows = read_csv(run / "predictions.csv")
    kept = [row for row in rows if keep(row["set"], row["group"], row["label"])]
    write_csv(run / "predictions.csv", kept, columns=tuple(rows[0]))


HELD = ("validation", "test")
MODEL = {
    "name": "seed-cnn",
    "parameters": 44529,
    "trainable": 44049,
    "layers": [
        {"name": "Conv2D", "output_shape": [225, 225, 16], "parameters": 208},
        {"name": "MaxPooling2D", "output_shape": [113, 113, 16], "parameters": 0},
        {"name": "Dense", "output_shape": [1], "parameters": 129},
    ],
}


def _cell(run: Path, row: int, owner: int, label: str, *, source: str, seed: int) -> Cell:
    name = f"UID_{owner}_{row}_1_{label}.png"
    path = (run / "images" / name).resolve()
    return Cell(path, label, str(owner), f"fold_{owner % 3}", source, name, f"{seed:032x}{row:032x}", SIDE, SIDE)


def _write_traits(run: Path, table: list[Cell], area: Any, rng: np.random.Generator) -> None:
    rows = [
        {"path": f"images/{cell.name}", "area_px": int(size)}
        | dict(zip(TRAITS[2:5], rng.normal((120, 80, 140), 12).round(2), strict=True))
        for cell, size in zip(table, area, strict=True)
    ]
    write_csv(run / "traits.csv", rows, columns=TRAITS)


def _write_predictions(run: Path, table: list[Cell], plan: SplitPlan, *, scores: Any) -> None:
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    names = [f"prob_{name}" for name in plan.classes]
    rows = []
    for fold in range(len(plan.folds)):
        for row, part in enumerate(plan.sets(table, fold=fold)):
            if part in ("validation", "test"):
                facts = {"path": f"images/{table[row].name}", "label": table[row].label, "subject": table[row].subject}
                facts |= {"group": plan.group_of(table[row]), "part": table[row].part, "source": table[row].source}
                facts |= {"fold": fold, "set": part}
                order = [
                    ("hem", "all").index(name) if "all" in plan.classes else i for i, name in enumerate(plan.classes)
                ]
                values = [f"{chances[row, i]:.9f}" for i in order]
                rows.append(facts | dict(zip(names, values, strict=True)))
    columns = ("path", "label", "subject", "group", "part", "source", "fold", "set", *names)
    write_csv(run / "predictions.csv", rows, columns=columns)


def _write_history(run: Path, plan: SplitPlan, rng: np.random.Generator) -> None:
    columns = (
        "epoch",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "seconds",
    )
    for fold in range(len(plan.folds)):
        rows = []
        for epoch in range(1, 13):
            loss = 0.7 * np.exp(-epoch / 6) + rng.normal(0, 0.01)
            held = 0.7 * np.exp(-epoch / 9) + 0.1 + rng.normal(0, 0.03)
            values = (epoch, loss, 1 - loss / 2, held, 1 - held / 2, 0.01, 3.2)
            rows.append(dict(zip(columns, values, strict=True)))
        write_csv(run / f"fold-{fold}" / "history.csv", rows, columns=columns)


def _write_images(table: list[Cell], area: Any, label: Any, rng: np.random.Generator) -> None:
    table[0].path.parent.mkdir(exist_ok=True)
    for row, cell in enumerate(table):
        image = Image.new("RGB", (SIDE, SIDE))
        radius = min(SIDE / 2 - 2, float(np.sqrt(area[row] / np.pi)))
        edge = (SIDE / 2 - radius, SIDE / 2 - radius, SIDE / 2 + radius, SIDE / 2 + radius)
        stain = tuple(int(value) for value in rng.normal((150, 90, 170), 15).clip(0, 255))
        draw = ImageDraw.Draw(image)
        draw.ellipse(edge, fill=stain)
        for _ in range(3 + 5 * int(label[row])):
            x, y = rng.uniform(SIDE / 2 - radius / 2, SIDE / 2 + radius / 2, 2)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=tuple(int(value * 0.7) for value in stain))
        image.filter(ImageFilter.GaussianBlur(0.8)).save(cell.path)
