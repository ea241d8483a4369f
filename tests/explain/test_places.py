"""Where a map looks is measured, not assumed."""

import numpy as np
import pytest
import torch
from torch import nn

from leukoscope.explain.places import Grid, find_grid

SIZE = 128


def maps_of(*layers: nn.Module):
    """Return a callable of random convolutions without bias."""
    torch.manual_seed(0)
    network = nn.Sequential(*layers).eval()

    def maps(crops: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255).numpy()

    return maps


def test_tiles_that_see_themselves_are_found() -> None:
    grid = find_grid(maps_of(nn.Conv2d(3, 4, 16, stride=16)), size=SIZE)
    assert grid.start == pytest.approx(8, abs=2.5)
    assert grid.step == pytest.approx(16, abs=0.5)


def test_padding_on_one_side_moves_what_a_place_sees() -> None:
    """Three convolutions of 3 with stride 2, padded left and top only, look half a tile up and to the left."""
    layers = [nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(3 if not n else 8, 8, 3, stride=2)) for n in range(4)]
    grid = find_grid(maps_of(*layers), size=SIZE)
    assert grid.start == pytest.approx(0.5, abs=2)  # the middle of pixel 0, while its tile's middle is 8
    assert grid.step == pytest.approx(16, abs=0.7)


def test_one_place_counts_as_a_tile() -> None:
    assert find_grid(maps_of(nn.Conv2d(3, 2, SIZE)), size=SIZE) == Grid.of_tiles(SIZE, places=1)
