"""Synthetic cells, drawn from a seed: the built-in default, so that every command runs before any data are at hand.

What is true of real cells is drawn as well: each subject has a stain and a cell size of its own, blasts are larger on
average but the sizes overlap, and what really distinguishes the classes is the chromatin: fine and even in blasts,
coarse and clumped in normal cells. Nothing else is claimed; they are marked as synthetic wherever they appear.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..errors import UsageError
from ..images.read import RGB
from ..progress import track
from .cells import Cell
from .index import Layout, index

SOURCE = "synthetic"
CLASSES = ("normal", "blast")
_SIDE = 160  # pixels of a synthetic image
_SUBJECTS = 24


@dataclass(frozen=True)
class Donor:
    """What all synthetic cells of one subject share."""

    name: str
    blast: bool
    radius: float
    """Mean cell radius in pixels."""
    stain: NDArray[np.float64]
    """Optical density per unit of dye for red, green, blue, (3,)."""
    grain: float
    """Typical size of the chromatin's texture in pixels."""


def draw_cells(folder: Path, *, count: int = 600, seed: int = 0) -> list[Cell]:
    """Draw `count` cells of 24 subjects as FOLDER/<class>/<subject>_<number>.png and return them as a table.

    Raises:
        UsageError: fewer than 48 cells, too few for two of each subject.
    """
    if count < 2 * _SUBJECTS:
        raise UsageError(f"--synthetic {count}: ask for {2 * _SUBJECTS} cells or more, so that each subject has two.")
    rng = np.random.default_rng(seed)
    donors = [_donor(number, rng) for number in range(_SUBJECTS)]
    for number in track(range(count), "Drawing cells", total=count):
        donor = donors[number % _SUBJECTS]
        path = folder / CLASSES[donor.blast] / f"{donor.name}_{number // _SUBJECTS:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cell(donor, rng)).save(path)
    cells = index(folder, layout=Layout(subject_pattern=r"([^_]+)_")).cells
    return [replace(cell, source=SOURCE) for cell in cells]


def draw_cell(donor: Donor, rng: np.random.Generator) -> RGB:
    """Draw one cell on black, uint8 (160, 160, 3)."""
    inside, nucleus = _outline(donor, rng)
    dye = 0.35 + nucleus * (0.75 + 0.32 * _chromatin(donor, rng))
    light = 255 * np.exp(-dye[..., None] * donor.stain)
    picture = light * inside[..., None] + rng.normal(0, 2, light.shape) * (inside[..., None] > 0)
    return picture.clip(0, 255).astype(np.uint8)


def _donor(number: int, rng: np.random.Generator) -> Donor:
    blast = number % 2 == 1
    return Donor(
        name=f"P{number + 1:02d}",
        blast=blast,
        radius=rng.normal(46 if blast else 42, 5),
        stain=np.array([0.9, 1.25, 0.55]) * rng.normal(1, 0.08, 3),
        grain=float(np.exp(rng.normal(np.log(2.2 if blast else 4.2), 0.18))),
    )


def _outline(donor: Donor, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return soft masks, 0 to 1, of the cell and its nucleus, (160, 160) each."""
    y, x = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    waves = sum(rng.normal(0, 0.05 / n) * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in range(2, 6))
    radius = np.clip(donor.radius * rng.normal(1, 0.08), 26, 70) * (1 + waves)
    share = rng.uniform(0.78, 0.92)  # of the radius that the nucleus fills
    return np.clip(radius - distance, 0, 1), np.clip((share * radius - distance) / 3, 0, 1)


def _chromatin(donor: Donor, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of the donor's grain with mean 0 and standard deviation 1, (160, 160)."""
    grain = donor.grain * np.exp(rng.normal(0, 0.15))
    noise = gaussian_filter(rng.standard_normal((_SIDE, _SIDE)), grain)
    texture: NDArray[np.float64] = (noise - noise.mean()) / noise.std()
    return texture
