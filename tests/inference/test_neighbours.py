"""Neighbourhood correction leans on like cells and on nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.inference.neighbours import correct


def test_noise_is_averaged_out_among_like_cells() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    points = np.eye(2)[label] + rng.normal(0, 0.1, (400, 2))
    chance = 1 / (1 + np.exp(-(2 * label - 1 + rng.normal(0, 2, 400))))
    probabilities = np.stack([1 - chance, chance], axis=1)
    before, after = ((each.argmax(1) == label).mean() for each in (probabilities, correct(probabilities, points)))
    assert after > before + 0.05


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, points, order = rng.dirichlet([1, 1], 30), rng.normal(size=(30, 5)), rng.permutation(30)
    turned = correct(probabilities[order], points[order])
    np.testing.assert_allclose(turned, correct(probabilities, points)[order], atol=1e-9)
    np.testing.assert_allclose(turned.sum(axis=1), 1)


def test_without_weight_or_without_neighbours_nothing_changes() -> None:
    rng = np.random.default_rng(1)
    probabilities, points = rng.dirichlet([1, 1, 1], 20), rng.normal(size=(20, 4))
    np.testing.assert_allclose(correct(probabilities, points, weight=0), probabilities)
    np.testing.assert_allclose(correct(probabilities[:1], points[:1]), probabilities[:1])
