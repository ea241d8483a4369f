"""Weights and inputs for the golden numbers of seed-cnn, in Keras' order and layout, from one seed."""

import numpy as np
from numpy.typing import NDArray

SIZE = 450
FILTERS = (16, 32, 64, 128)
LEARNING_RATE = 0.01
STEPS = 2


def inputs() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return crops (4, 450, 450, 3) of smooth random light, and their labels (4,)."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, size=(4, SIZE // 9, SIZE // 9, 3))
    fine = rng.integers(-20, 21, size=(4, SIZE, SIZE, 3))
    crops = np.clip(coarse.repeat(9, axis=1).repeat(9, axis=2) + fine, 0, 255).astype(np.uint8)
    return crops, np.array([0, 1, 1, 0], dtype=np.float32)


def weights() -> list[NDArray[np.float32]]:
    """Return kernel, bias, gamma, beta, moving mean and variance of each block, then kernel and bias of the head."""
    rng = np.random.default_rng(2)
    values = []
    for before, after in zip((3, *FILTERS), FILTERS, strict=False):
        values += [rng.normal(0, (2 / (4 * before)) ** 0.5, (2, 2, before, after)), rng.normal(0, 0.1, after)]
        values += [rng.uniform(0.5, 1.5, after), rng.normal(0, 0.2, after)]
        values += [rng.normal(0, 0.2, after), rng.uniform(0.5, 1.5, after)]
    values += [rng.normal(0, 0.2, (FILTERS[-1], 1)), rng.normal(0, 0.1, 1)]
    return [value.astype(np.float32) for value in values]


def sample(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return up to about 130 values spread over a weight, so that the golden file stays small."""
    flat = weight.ravel()
    return flat[:: max(1, flat.size // 128)]
