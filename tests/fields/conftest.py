"""Painted smear fields: real geometry, plain colours, so that these tests run where no real data is."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

RED, NUCLEUS, CYTOPLASM, GLASS = (196, 150, 146), (92, 62, 160), (168, 158, 206), (228, 228, 222)


@dataclass
class Painting:
    """A field in the making; lengths in micrometres."""

    width: float
    height: float
    um: float = 0.1
    red: tuple[int, int, int] = RED
    white: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.full((round(self.height / self.um), round(self.width / self.um), 3), GLASS, np.uint8)

    def disc(self, x: float, y: float, *, radius: float, colour: tuple[int, int, int]) -> None:
        centre = (round(x / self.um * 16), round(y / self.um * 16))
        cv2.circle(self.pixels, centre, round(radius / self.um * 16), colour, -1, cv2.LINE_AA, shift=4)

    def red_cells(self, rng: np.random.Generator, *, count: int, keep_off: float = 9.5) -> "Painting":
        placed: list[tuple[float, float]] = []
        for _ in range(count * 30):
            x, y = rng.uniform(4, self.width - 4), rng.uniform(4, self.height - 4)
            free = all(np.hypot(x - u, y - v) > keep_off + 2 for u, v, _ in self.white)
            if len(placed) < count and free and all(np.hypot(x - u, y - v) > 7.8 for u, v in placed):
                placed.append((x, y))
                self.disc(x, y, radius=3.6, colour=self.red)
                self.disc(x, y, radius=1.1, colour=tuple((a + b) // 2 for a, b in zip(self.red, GLASS, strict=True)))
        return self

    def white_cell(self, x: float, y: float, *, radius: float = 6.0) -> "Painting":
        self.white.append((x, y, radius))
        self.disc(x, y, radius=radius, colour=CYTOPLASM)
        self.disc(x, y, radius=radius * 0.8, colour=NUCLEUS)
        return self

    def taken(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the field as a camera gives it: a little blurred and noisy."""
        soft = cv2.GaussianBlur(self.pixels, (0, 0), 0.25 / self.um)
        return np.clip(soft + rng.normal(0, 2, soft.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def synthetic(rng: np.random.Generator) -> tuple[Painting, NDArray[np.uint8]]:
    """Two single white cells and a touching pair among red cells, 64x48 µm."""
    painting = Painting(64, 48).white_cell(12, 12).white_cell(50, 14, radius=5).white_cell(24, 36).white_cell(35, 36)
    return painting, painting.red_cells(rng, count=14).taken(rng)
