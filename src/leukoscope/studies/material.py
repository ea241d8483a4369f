"""The cells of a study: indexed and audited once for all studies, then drawn by seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from ..config import Experiment, Prepare
from ..data.audit import read_traits
from ..data.cells import Cell, classes_of, pack
from ..data.index import Layout
from ..data.split import group_of_subject, subject_groups
from ..evaluation.metrics import Floats, Ints
from ..evaluation.outcomes import features_of
from ..files import fingerprint, read_json
from ..images.crop import cell_mask
from ..pipeline import Input, stage_cells
from .study import Bench

Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """Labelled cells with all that can be said of them without a network; row i is always the same cell."""

    cells: list[Cell]
    traits: Floats
    """(cells, 4): area in px, mean red, green and blue."""
    group_names: NDArray[np.str_]
    """(cells,): the subject group of each cell; subjects that share an image, or nearly, are one."""
    folder: Path
    """Where packs of these cells are kept."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, the disease last where there are two."""
        return classes_of(self.cells)

    @cached_property
    def labels(self) -> Ints:
        """Return the class of each cell, (cells,)."""
        number = {name: index for index, name in enumerate(self.classes)}
        return np.array([number[cell.label] for cell in self.cells], dtype=np.int64)

    @cached_property
    def groups(self) -> Ints:
        """Return the number of the subject group of each cell."""
        return np.unique(self.group_names, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def parts(self) -> NDArray[np.str_]:
        """Return the part of the release of each cell."""
        return np.array([cell.part for cell in self.cells])

    def shortcut(self, name: str) -> Floats:
        """Return the features of 'size' or 'colour', (cells, features)."""
        return features_of(self.traits, name)

    def crops(self, prepare: Prepare) -> Crops:
        """Return the prepared crops of all cells, memory-mapped (cells, size, size, 3)."""
        return pack(self.cells, self.packed_in(prepare), prepare=prepare)

    def packed_in(self, prepare: Prepare) -> Path:
        """Return the folder of such a pack."""
        return self.folder / "packs" / fingerprint([prepare.model_dump(mode="json"), self.key])[:16]

    @cached_property
    def key(self) -> str:
        """Return what tells these cells from others."""
        return fingerprint([cell.sha256 for cell in self.cells])

    def rows(self, chosen: Ints | NDArray[np.bool_]) -> "Material":
        """Return only these cells."""
        kept = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Material([self.cells[row] for row in kept], self.traits[kept], self.group_names[kept], self.folder)

    @property
    def synthetic(self) -> bool:
        """Tell whether the program drew the cells itself."""
        return self.cells[0].source == "synthetic"

    def words(self) -> str:
        """Say what these cells are."""
        per_class = ", ".join(f"{(self.labels == i).sum():,} {name}" for i, name in enumerate(self.classes))
        subjects, groups = len({cell.subject for cell in self.cells}), int(self.groups.max()) + 1
        joined = f" in {groups} groups that share no image" if groups < subjects else ""
        return f"{len(self.cells):,} images of {subjects} subjects{joined} ({per_class})"


def load(bench: Bench, *, data: Path | None = None, layout: Layout | None = None) -> Material:
    """Index and audit the bench's images, or those of `data`, once; return the labelled ones.

    Raises:
        UsageError: there are none.
        DataError: some cannot be used.
    """
    given = _input(bench, data, layout)
    key = fingerprint([str(given.data), given.synthetic, str(layout)])[:12]
    folder = bench.work / "cells" / key
    folder.mkdir(parents=True, exist_ok=True)
    cells = stage_cells(given, folder, Experiment(), say=lambda stage, _: bench.say(f"{stage} of the images"))
    traits = read_traits(folder / "traits.csv", cells)
    linked = [(first, second) for first, second in read_json(folder / "audit.json")["linked_subjects"]]
    group = group_of_subject(subject_groups(cells, linked=linked))
    material = Material(cells, traits, np.array([group[cell.subject] for cell in cells]), folder)
    return material.rows(np.array([bool(cell.label) for cell in cells]))


def sample(material: Material, images: int, *, rng: np.random.Generator) -> Material:
    """Return `images` cells drawn without regard to class or subject; all where there are no more, or images is 0."""
    if not 0 < images < len(material.cells):
        return material
    return material.rows(np.sort(rng.choice(len(material.cells), images, replace=False)))


def _input(bench: Bench, data: Path | None, layout: Layout | None) -> Input:
    if data is None and bench.given.synthetic:
        return Input(synthetic=bench.given.synthetic)
    return Input(data or bench.need_data(), layout=layout)


_Change = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.generic]]
_RIM = 0.04  # of the crop's side: the width of the border
_GREY = 96.0  # mean brightness that every cell gets when colour is taken away


def silhouette(crops: Crops) -> Crops:
    """Return the outline alone: the cell white, all else black."""
    return _each(crops, lambda crop, cell: np.where(cell[..., None], np.full_like(crop, 255), 0))


def border(crops: Crops) -> Crops:
    """Return the rim of the cell alone."""
    return _each(crops, lambda crop, cell: np.where((cell & ~_inner(cell))[..., None], crop, 0))


def without_border(crops: Crops) -> Crops:
    """Return the cell with its rim made black."""
    return _each(crops, lambda crop, cell: np.where(_inner(cell)[..., None], crop, 0))


def without_colour(crops: Crops) -> Crops:
    """Return grey cells of one mean brightness."""
    return _each(crops, _greyed)


def _greyed(crop: NDArray[np.uint8], cell: NDArray[np.bool_]) -> NDArray[np.floating]:
    grey = crop.mean(axis=2)
    level = _GREY / max(1.0, float(grey[cell].mean())) if cell.any() else 1.0
    return np.repeat(np.where(cell, grey * level, 0)[..., None], 3, axis=2)


def _inner(cell: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(binary_erosion(cell, iterations=max(1, round(_RIM * len(cell)))))


def _each(crops: Crops, change: _Change) -> Crops:
    changed = [np.clip(change(crop, cell_mask(crop)), 0, 255) for crop in crops]
    return np.stack(changed).astype(np.uint8)


def restained(*factors: float) -> Callable[[Crops], Crops]:
    """Return a change that multiplies the optical density -log(I / 255) of red, green and blue by three factors.

    Source of the model: Ruifrok & Johnston, Quantification of histochemical staining by color deconvolution, 2001.
    """
    values = np.arange(256)
    density = -np.log(np.maximum(values, 1) / 255)
    tables = [np.where(values > 0, 255 * np.exp(-density * factor), 0).round().astype(np.uint8) for factor in factors]

    def change(crops: Crops) -> Crops:
        return np.stack([table[crops[..., channel]] for channel, table in enumerate(tables)], axis=-1)

    return change
