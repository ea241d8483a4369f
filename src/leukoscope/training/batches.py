"""What training reads: a prepared run folder, checked; its sets, its batches, and random changes to their crops.

Every random draw is a function of the seed, the fold, the epoch and the step. Draws and changes are separate: draws are
made for a whole batch on the CPU, so every device, and every share of a batch that several processes divide, sees the
same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..config import Augment, Experiment, Prepare
from ..data.cells import Cell, cells_fingerprint, open_pack, read_cells
from ..data.split import SplitPlan, read_split
from ..errors import DataError, TrainingError
from ..files import read_csv, read_json

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
    """Return the probability of drawing each cell so that all classes are drawn equally often, (cells,)."""
    return _as_shares(class_weights(labels, classes=classes)[labels])


def size_draws(labels: Ints, area: Floats, *, classes: int) -> Floats:
    """Return the probability of drawing each cell so that cell size predicts the class as little as possible, (cells,).

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
        with self._path.open("rb", buffering=0) as file:  # opened again: threads must not share a place in the file
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
        DataError, SplitError: a file is missing or does not fit the others; the message names the command to run again.
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
            "prepare": "prepared with other settings than config.toml",
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


_BLACK = 1.0  # of 255; cells are cut out on black, and resampling leaves a little light on their rim
_LIGHT = 255.0
_AS_IT_IS = torch.tensor([[1.0], [0.0]])  # factor and shift of an optical density that stays


@dataclass(frozen=True)
class Draws:
    """What happens to each crop of a batch; the first dimension of everything is the batch."""

    turn: Tensor
    """Radians."""
    mirror: Tensor
    """1 or -1."""
    zoom: Tensor
    """Above 1 the cell appears larger."""
    shift: Tensor
    """(batch, 2): across and down, where 2 is the side of the crop."""
    stain: Tensor
    """(batch, 2, 3): factor and shift of the optical density of each colour channel."""
    contrast: Tensor
    """Factor of a pixel's distance from the cell's mean colour."""
    light: Tensor
    """Factor of brightness."""
    blur: Tensor
    """Standard deviation, crop pixels."""
    coarse: Tensor
    """How many times fewer pixels per side a coarser camera gives; 1 leaves all detail."""

    def share(self, mine: slice) -> Self:
        """Return the draws of some of the crops."""
        return type(self)(**{field.name: getattr(self, field.name)[mine] for field in fields(self)})


def draw(settings: Augment, *, crops: int, generator: torch.Generator) -> Draws:
    """Draw what shall happen to a batch of crops."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(crops, *shape, generator=generator)

    smallest, largest = settings.zoom
    # To multiply a channel by e^c is to take c off its optical density.
    thicker = uniform(-1, 1, 3) * settings.stain / 4 + uniform(-1, 1, 3) * settings.colour
    return Draws(
        turn=uniform(-math.pi, math.pi) * settings.rotate,
        mirror=torch.where((uniform(0, 1) < 0.5) & torch.tensor(settings.flip), -1.0, 1.0),
        zoom=uniform(math.log(smallest), math.log(largest)).exp(),
        shift=uniform(-2, 2, 2) * settings.shift,
        stain=torch.stack([1 + uniform(-1, 1, 3) * settings.stain, thicker], dim=1),
        contrast=1 + uniform(-1, 1) * settings.contrast,
        light=1 + uniform(-1, 1) * settings.brightness,
        blur=uniform(0, settings.blur) * (uniform(0, 1) < 0.5),
        coarse=(uniform(0, math.log(settings.coarse)) * (uniform(0, 1) < 0.5)).exp(),
    )


def augment(crops: Tensor, draws: Draws) -> Tensor:
    """Return changed crops, float (batch, height, width, 3), 0 to 255, of crops uint8 of the same shape.

    A setting that is off leaves its values as they are, to the bit; black stays black.
    """
    here = Draws(**{field.name: getattr(draws, field.name).to(crops.device) for field in fields(draws)})
    restained = (draws.stain != _AS_IT_IS).any() or (draws.light != 1).any() or (draws.contrast != 1).any()
    images = (_restain(crops, here) if restained else crops.float()).permute(0, 3, 1, 2)
    if (draws.turn != 0).any() or (draws.mirror != 1).any() or (draws.zoom != 1).any() or (draws.shift != 0).any():
        images = _move(images, here)
    if (draws.blur > 0).any():
        images = _blur(images, here.blur)
    if (draws.coarse > 1).any():
        images = _coarsen(images, draws.coarse)
    return images.permute(0, 2, 3, 1)


def _restain(crops: Tensor, draws: Draws) -> Tensor:
    """Scale and shift the optical density -log(I / 255) of each colour, the contrast and the light of each cell.

    A crop has only 256 values per colour, so they are worked out once and looked up: three passes over the batch
    instead of eleven. Source of the model: Ruifrok & Johnston, Quantification of histochemical staining by color
    deconvolution, 2001; of jittering it: Tellez et al., IEEE Transactions on Medical Imaging, 2018.
    """
    factor, shift = draws.stain[:, 0, :, None], draws.stain[:, 1, :, None]  # (batch, 3, 1)
    value = torch.arange(256, device=crops.device, dtype=torch.float32)
    mean = _mean_colour(crops)
    contrasted = torch.where(
        draws.contrast[:, None, None] == 1, value, mean + (value - mean) * draws.contrast[:, None, None]
    )
    density = -torch.log(contrasted.clamp(min=1) / _LIGHT)
    changed = (_LIGHT * torch.exp(-(density * factor + shift)) * draws.light[:, None, None]).clamp(0, _LIGHT)
    table = torch.where(value > _BLACK, changed, value)  # (batch, 3, 256)
    places = torch.arange(table[..., 0].numel(), device=crops.device, dtype=torch.int32).view(-1, 1, 1, 3) * 256
    return table.flatten().index_select(0, (crops.int() + places).flatten()).view(crops.shape)


def _mean_colour(crops: Tensor) -> Tensor:
    """Return the mean colour of each cell, (batch, 3, 1)."""
    cell = crops.amax(dim=3, keepdim=True) > _BLACK
    return ((crops * cell).sum(dim=(1, 2)) / cell.sum(dim=(1, 2)).clamp(min=1))[..., None]


def _move(images: Tensor, draws: Draws) -> Tensor:
    """Mirror, turn, enlarge and move in one resampling, so that crops are smoothed once."""
    height, width = images.shape[2:]
    # places in the output, -1 to 1 from border to border, and where in the input each comes from
    down, across = (
        (2 * torch.arange(side, device=images.device, dtype=images.dtype) + 1) / side - 1 for side in (height, width)
    )
    cos, sin = (wave(draws.turn) / draws.zoom for wave in (torch.cos, torch.sin))
    cos, sin, mirror, down = cos[:, None, None], sin[:, None, None], draws.mirror[:, None, None], down[:, None]
    right, below = draws.shift[:, :, None, None].unbind(dim=1)
    grid = torch.stack([(cos * across - sin * down) * mirror - right, sin * across + cos * down - below], dim=3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each crop with a Gaussian of its own."""
    return _inside(images, lambda planes: _gaussian(planes, sigma))


def _coarsen(images: Tensor, factors: Tensor) -> Tensor:
    """Average each crop over larger pixels, and enlarge it again as crops of coarse fields are."""
    changed = []
    for image, factor in zip(images, factors.tolist(), strict=True):
        changed.append(_inside(image[None], partial(_reduced, by=factor)) if factor > 1 else image[None])
    return torch.cat(changed)


def _reduced(planes: Tensor, *, by: float) -> Tensor:
    height, width = planes.shape[2:]
    small = (max(1, round(height / by)), max(1, round(width / by)))
    reduced = functional.interpolate(planes, size=small, mode="bilinear", antialias=True)
    return functional.interpolate(reduced, size=(height, width), mode="bicubic")


def _inside(images: Tensor, smoothed: Callable[[Tensor], Tensor]) -> Tensor:
    """Smooth crops inside their cells alone: the black around a cell lends no darkness to its rim."""
    cell = _cell(images)
    light, share = smoothed(torch.cat([images * cell, cell], dim=1)).tensor_split([3], dim=1)
    return torch.where(cell, (light / share.clamp(min=1e-6)).clamp(0, _LIGHT), images)


def _gaussian(images: Tensor, sigma: Tensor) -> Tensor:
    """Convolve each crop with a Gaussian of its own; sigma is (batch,), in pixels."""
    reach = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(images.shape[1], dim=0)[:, None]
    stacked = images.reshape(1, -1, *images.shape[2:])  # every plane is a channel of its own
    stacked = functional.conv2d(stacked, kernel[:, :, None, :], padding=(0, reach), groups=stacked.shape[1])
    stacked = functional.conv2d(stacked, kernel[:, :, :, None], padding=(reach, 0), groups=stacked.shape[1])
    return stacked.view_as(images)


def _cell(images: Tensor) -> Tensor:
    """Return where there is a cell, (batch, 1, height, width)."""
    return images.amax(dim=1, keepdim=True) > _BLACK
