"""A prepared run folder as training sees it, checked; and every random draw as a function of where it stands."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import Experiment, Prepare
from ..data.cells import Cell, cells_fingerprint, open_pack, read_cells, relative
from ..data.split import SplitPlan, group_of_subject, read_split
from ..errors import DataError, TrainingError
from ..files import read_csv, read_json, write_csv, write_whole

_PURPOSES = ("weights", "order", "augment", "dropout")
Purpose = Literal["weights", "order", "augment", "dropout"]


def seed_of(purpose: Purpose, *where: int) -> int:
    """Return a seed for one purpose at one place, such as seed_of('dropout', seed, fold, epoch, step)."""
    state = np.random.SeedSequence([_PURPOSES.index(purpose), *where]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))  # torch takes 63 bits


def rng_of(purpose: Purpose, *where: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose at one place."""
    return np.random.default_rng(seed_of(purpose, *where))


def generator_of(purpose: Purpose, *where: int) -> torch.Generator:
    """Return a torch generator on the CPU, so that a GPU sees the same draws."""
    return torch.Generator().manual_seed(seed_of(purpose, *where))


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SIZE_BINS = 8
_AS_IT_COMES = 0.1


def class_weights(labels: Ints, *, classes: int) -> Floats:
    """Return one loss weight per class, n / (classes * n_class), so that the mean over the cells is 1."""
    counts = np.bincount(labels, minlength=classes)
    weights: Floats = len(labels) / (classes * np.maximum(counts, 1))
    return weights


def class_draws(labels: Ints, *, classes: int) -> Floats:
    """Return the probability of drawing each cell so that all classes come equally often, (cells,)."""
    return _as_shares(class_weights(labels, classes=classes)[labels])


def size_draws(labels: Ints, area: Floats, *, classes: int) -> Floats:
    """Return the probability of drawing each cell so that cell size says little about the class, (cells,).

    Cells are sorted into bins of equal count by area (px), and every class is drawn with the same distribution over
    the bins: the smallest of the classes' own shares. No cell is drawn more often than its like for that. A tenth of
    each class is drawn as it comes, so that sizes that only one class has are not strange to the network.

    Raises:
        TrainingError: the classes share no size.
    """
    edges = np.quantile(area, np.linspace(0, 1, _SIZE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, area, side="right")
    counts = np.zeros((classes, _SIZE_BINS))
    np.add.at(counts, (labels, bins), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    shared = shares.min(axis=0)
    if shared.sum() < 0.05:
        raise TrainingError(
            "The classes share almost no cell size, so train.balance = 'size-sampler' would leave nearly no cells. "
            "Use 'sampler', and take size away with prepare.view = 'area'."
        )
    weights = _AS_IT_COMES + (shared / np.maximum(shares, 1e-12))[labels, bins]
    return _as_shares(weights / np.bincount(labels, weights=weights)[labels])


def even_out_subjects(draws: Floats, labels: Ints, groups: NDArray[np.str_], *, power: float) -> Floats:
    """Return the draws with cells of large subject groups drawn less often; each class keeps its share, (cells,)."""
    _, code, count = np.unique(groups, return_inverse=True, return_counts=True)
    evened = draws * count[code].astype(float) ** -power
    before, after = (np.bincount(labels, weights=values) for values in (draws, evened))
    return _as_shares(evened * (before / np.maximum(after, 1e-300))[labels])


def _as_shares(weights: Floats) -> Floats:
    shares: Floats = weights / weights.sum()
    return shares


Rows = NDArray[np.int64]
_AGAIN = "Delete the pack folder and run leukoscope data pack again."


class Crops:
    """The packed crops of a run, read row by row.

    Read with plain file reads, not through the memory map: pages of a map that were touched count as memory of this
    process, so training on 15,000 cells would seem to need all of them at once.

    Raises:
        DataError: the pack is missing, unfinished or damaged.
    """

    def __init__(self, pack: Path) -> None:
        try:
            mapped = open_pack(pack)
        except (ValueError, EOFError) as damaged:
            raise DataError(f"{pack}/crops.npy is damaged ({damaged}). {_AGAIN}") from None
        self.shape: tuple[int, ...] = mapped.shape[1:]
        """(size, size, 3)"""
        self.count = len(mapped)
        self._start = int(getattr(mapped, "offset", 0))
        self._path = pack / "crops.npy"

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the crops of some rows, uint8 (rows, size, size, 3).

        Raises:
            DataError: the file ends too early.
        """
        crops = np.empty((len(rows), *self.shape), dtype=np.uint8)
        with self._path.open("rb", buffering=0) as file:  # opened anew: threads must not share a place in the file
            for row, crop in zip(rows, crops, strict=True):
                file.seek(self._start + int(row) * crop.nbytes)
                if file.readinto(crop.data) != crop.nbytes:
                    raise DataError(f"{self._path} ends before row {row}. {_AGAIN}")
        return crops


def cut(rows: Rows, *, batch_size: int) -> list[Rows]:
    """Cut rows into the fewest batches of at most `batch_size`, as even as can be.

    Even, because batch normalisation has nothing to measure on a last batch of one.
    """
    return np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []


def read_ahead(
    crops: Crops, batches: Sequence[Rows], *, share: slice = slice(None)
) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """Yield (rows, crops) of each batch, while one thread reads the next; of the crops only a `share`."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(crops.read, batches[0][share]) if batches else None
        for place, rows in enumerate(batches):
            assert coming is not None
            ready = coming.result()
            coming = reader.submit(crops.read, batches[place + 1][share]) if place + 1 < len(batches) else None
            yield rows, ready


# Settings that may differ between a run and its resumption: they change where it is computed, not what.
_PLACE = {"accelerator", "devices", "tensorboard"}


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs from RUN."""

    run: Path
    experiment: Experiment
    cells: list[Cell]
    plan: SplitPlan
    crops: Crops
    labels: NDArray[np.int64]
    """(cells,) index into plan.classes; -1 where the label is not known."""

    @property
    def classes(self) -> int:
        return len(self.plan.classes)

    def at(self, **place: Any) -> Self:
        """Return the same with other settings of where it is computed, such as devices=2; None leaves one as it is."""
        changed = {name: value for name, value in place.items() if value is not None}
        train = self.experiment.train.model_copy(update=changed)
        return replace(self, experiment=self.experiment.model_copy(update={"train": train}))

    def rows(self, name: str, *, fold: int) -> Rows:
        """Return the rows of one set, 'train', 'validation' or 'test', of a fold."""
        return np.flatnonzero(self.plan.sets(self.cells, fold=fold) == name)

    def area(self) -> NDArray[np.float64]:
        """Return the area of every cell in px, from traits.csv.

        Raises:
            DataError: the table is missing, is not that of these cells, or holds something that is not a number.
        """
        path = self.run / "traits.csv"
        if not path.exists():
            raise DataError(
                f"{path} does not exist; train.balance = 'size-sampler' needs it. Run leukoscope data audit."
            )
        rows = read_csv(path, required=("area_px",))
        if len(rows) != len(self.cells):
            raise DataError(
                f"{path} has {len(rows)} rows for {len(self.cells)} cells. Run leukoscope data audit again."
            )
        try:
            return np.array([float(row["area_px"]) for row in rows])
        except ValueError as strange:
            raise DataError(f"{path}: area_px must be a number ({strange}). Run leukoscope data audit again.") from None

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, by dotted name: a run is resumed only where this is the same."""
        settings = self.experiment.model_dump(mode="json", exclude={"evaluate": True, "train": _PLACE})
        flat = {
            f"{section}.{name}": value
            for section, table in settings.items()
            if isinstance(table, dict)
            for name, value in table.items()
        }
        return flat | {"seed": self.experiment.seed, "split.json": self.plan.hash, "cells.csv": self.plan.cells}


def read_prepared(run: Path) -> Prepared:
    """Read a prepared run folder.

    Raises:
        DataError, SplitError: a file is missing or does not fit the others; says which command to run again.
    """
    experiment = Experiment.read(run / "config.toml")
    cells = read_cells(run / "cells.csv")
    plan = read_split(run / "split.json", cells)
    crops = Crops(run / "pack")
    _check_pack(run / "pack", cells, experiment.prepare, shape=(crops.count, *crops.shape))
    number = {name: index for index, name in enumerate(plan.classes)}
    labels = np.array([number.get(cell.label, -1) for cell in cells], dtype=np.int64)
    return Prepared(run, experiment, cells, plan, crops, labels)


def _check_pack(pack: Path, cells: list[Cell], prepare: Prepare, *, shape: tuple[int, ...]) -> None:
    facts = read_json(pack / "pack.json")
    expected = {"cells": cells_fingerprint(cells), "prepare": prepare.model_dump(mode="json")}
    other = [name for name, value in expected.items() if not isinstance(facts, dict) or facts.get(name) != value]
    if other or shape != (len(cells), prepare.size, prepare.size, 3):
        what = {
            "cells": "of other cells than those of cells.csv",
            "prepare": "prepared otherwise than config.toml says",
        }
        reason = what[other[0]] if other else f"of the shape {shape}"
        raise DataError(f"{pack} holds crops {reason}. Run leukoscope data pack again.")


@dataclass(frozen=True)
class FoldSets:
    """Rows of a fold, and how its imbalance is met."""

    train: Rows
    validation: Rows
    test: Rows
    draws: Floats | None
    """Probability of drawing each training cell, with replacement; None shows each of them once per epoch."""
    loss_weights: Tensor
    """(classes,) float32, in training."""
    validation_weights: Floats
    """(classes,) in the validation loss: every class counts the same, unless balance is 'none'."""

    def order(self, rng: np.random.Generator) -> Rows:
        """Return the training rows of one epoch in the order in which they are shown."""
        if self.draws is None:
            return rng.permutation(self.train)
        return rng.choice(self.train, size=len(self.train), p=self.draws)


def fold_sets(prepared: Prepared, *, fold: int) -> FoldSets:
    """Return the sets of one fold with the balance that the settings ask for."""
    train, validation, test = (prepared.rows(name, fold=fold) for name in ("train", "validation", "test"))
    labels, classes, balance = prepared.labels[train], prepared.classes, prepared.experiment.train.balance
    draws = None
    if balance == "sampler":
        draws = class_draws(labels, classes=classes)
    elif balance == "size-sampler":
        draws = size_draws(labels, prepared.area()[train], classes=classes)
    if draws is not None:
        groups = np.array([prepared.plan.group_of(prepared.cells[row]) for row in train])
        draws = even_out_subjects(draws, labels, groups, power=prepared.experiment.train.subject_balance)
    even = np.ones(classes)
    in_loss = class_weights(labels, classes=classes) if balance == "weights" else even
    judged = even if balance == "none" else class_weights(prepared.labels[validation], classes=classes)
    return FoldSets(train, validation, test, draws, torch.from_numpy(in_loss).float(), judged)


_FACTS = ("path", "label", "subject", "group", "part", "source", "fold", "set")


def columns_of(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of predictions.csv."""
    return (*_FACTS, *(f"prob_{name}" for name in classes))


def write_fold(path: Path, prepared: Prepared, *, fold: int, sets: dict[str, tuple[Rows, NDArray[np.float64]]]) -> None:
    """Write the predictions of one fold: for each set its rows and their probabilities (rows, classes)."""
    columns = columns_of(prepared.plan.classes)
    rows = (row for name in sets for row in _rows(prepared, *sets[name], fold=fold, name=name))
    write_csv(path, rows, columns=columns)


def join_folds(folds: list[Path], path: Path) -> None:
    """Write the predictions of all folds as one table, holding one line at a time.

    Raises:
        DataError: the table of a fold is empty, or was cut off within a row.
    """
    for fold in folds:
        if not fold.read_bytes().endswith(b"\n"):
            raise DataError(f"{fold} is not whole. Delete it and run the same command with --resume.")
    with write_whole(path) as beside, beside.open("w", encoding="utf-8", newline="") as joined:
        for number, fold in enumerate(folds):
            with fold.open(encoding="utf-8", newline="") as lines:
                header = next(lines)
                joined.writelines(lines if number else [header, *lines])


def _rows(
    prepared: Prepared, rows: Rows, probabilities: NDArray[np.float64], *, fold: int, name: str
) -> Iterator[dict[str, object]]:
    group = group_of_subject(prepared.plan.groups)
    folder = prepared.run.resolve()
    for row, chances in zip(rows, probabilities, strict=True):
        cell = prepared.cells[row]
        facts = (relative(cell.path, folder), cell.label, cell.subject, group[cell.subject], cell.part, cell.source)
        digits = (f"{chance:.9g}" for chance in chances)
        yield dict(zip(columns_of(prepared.plan.classes), (*facts, fold, name, *digits), strict=True))
