"""Every random draw of training as a function of where it stands, so that a resumed run draws what it would have."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.pack import open_pack
from ..errors import DataError, TrainingError

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
