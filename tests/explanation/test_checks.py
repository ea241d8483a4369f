"""The checks tell a true map from one that knows nothing."""

import json

import numpy as np
import pytest

from leukoscope.explanation import check, deletion, insertion, inside_share, occlude, random_heat, rank_correlation
from tests.explanation.known import PLACE, SIZE, cell, predict


def true_heat() -> np.ndarray:
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[PLACE] = 1
    return heat


def test_a_true_map_deletes_fast_and_inserts_fast() -> None:
    crop, rng = cell(), np.random.default_rng(0)
    noise = [random_heat(crop, rng) for _ in range(10)]
    least = min(deletion(predict, crop, each, target=1).area for each in noise)
    most = max(insertion(predict, crop, each, target=1).area for each in noise)
    assert deletion(predict, crop, true_heat(), target=1).area < least
    assert insertion(predict, crop, true_heat(), target=1).area > most


def test_curves_begin_and_end_where_they_must() -> None:
    crop = cell()
    whole = predict(crop[None])[0, 1]
    down, up = (curve(predict, crop, true_heat(), target=1) for curve in (deletion, insertion))
    assert down.values[0] == up.values[-1] == pytest.approx(whole, abs=1e-6)
    assert down.values[-1] == up.values[0]
    assert down.shares[0] == 0
    assert down.shares[-1] == 1


def test_the_area_of_a_step_is_its_share() -> None:
    """With the hottest twentieth being all that counts, the class is given up at the first step."""
    crop = cell()
    down = deletion(predict, crop, true_heat(), target=1)
    ends = (down.values[0] + down.values[1]) / 2 / 20 + down.values[-1] * 0.95
    assert down.area == pytest.approx(ends, abs=0.03)


def test_heat_is_counted_inside_the_cell() -> None:
    crop = cell()
    assert inside_share(true_heat(), crop) == 1
    assert inside_share(np.ones((SIZE, SIZE), np.float32), crop) == pytest.approx((crop.max(2) > 24).mean())
    assert inside_share(np.where(crop.max(2) > 24, 0, -1).astype(np.float32), crop) == 0
    assert np.isnan(inside_share(np.zeros((SIZE, SIZE), np.float32), crop))


def test_rank_correlation_sees_sameness_and_nothing_in_a_flat_map() -> None:
    crop, heat = cell(), random_heat(cell(), np.random.default_rng(1))
    assert rank_correlation(heat, 3 * heat + 1, crop=crop) == pytest.approx(1)
    assert rank_correlation(heat, -heat, crop=crop) == pytest.approx(-1)
    assert np.isnan(rank_correlation(heat, np.zeros_like(heat), crop=crop))


def test_a_method_that_ignores_the_network_survives_randomised_weights_and_a_true_one_does_not() -> None:
    crops = np.stack([cell(seed) for seed in range(3)])
    spots = np.random.default_rng(2).normal(size=(SIZE, SIZE, 3))

    def randomised(batch: np.ndarray) -> np.ndarray:
        chance = 1 / (1 + np.exp(-(batch * spots).mean(axis=(1, 2, 3))))
        return np.stack([1 - chance, chance], axis=1)

    def edges(crop: np.ndarray, _: int) -> np.ndarray:
        return np.abs(np.gradient(crop[..., 1].astype(np.float32))[0])

    true = check(
        predict,
        lambda crop, target: occlude(predict, crop, target=target),
        crops,
        rng=np.random.default_rng(3),
        randomised=lambda crop, target: occlude(randomised, crop, target=target),
    )
    blind = check(predict, edges, crops, rng=np.random.default_rng(3), randomised=edges)
    assert blind["randomised"] == pytest.approx(1)
    assert abs(true["randomised"]) < 0.5
    assert true["deletion"] < true["deletion_random"]
    assert true["insertion"] > true["insertion_random"]
    assert true["inside"] > 0.95
    json.dumps(true, allow_nan=False)
