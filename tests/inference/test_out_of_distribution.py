"""The distance is Mahalanobis', and its threshold holds for subjects that it never saw."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from leukoscope.bundle.manifest import DistanceLimit
from leukoscope.errors import BundleError, DataError
from leukoscope.inference.rejection import (
    OutOfDistributionDetector,
    Space,
    fit_detector,
    fit_space,
    read_detector,
    why_far,
)

CHANNELS = 40


def cells_of(rng: np.random.Generator, *, subjects: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw embeddings that lean on their subject, wide along ten directions and narrow along the rest."""
    group = np.repeat(np.arange(first, first + subjects), rng.integers(10, 50, subjects))
    scale = np.append(np.full(10, 3.0), np.full(CHANNELS - 10, 0.3))
    lean = rng.normal(0, 0.7, (first + subjects, CHANNELS))
    return (rng.normal(0, 1, (len(group), CHANNELS)) + lean[group]) * scale, group


def test_the_distance_is_that_of_scipy_with_the_same_covariance() -> None:
    points, _ = cells_of(np.random.default_rng(0), subjects=30)
    space = fit_space(points)
    rest = np.eye(CHANNELS) - space.axes.T @ space.axes
    covariance = space.axes.T @ np.diag(space.spread[:-1]) @ space.axes + space.spread[-1] * rest
    inverse = np.linalg.inv(covariance.astype(np.float64))
    expected = [mahalanobis(point, space.mean, inverse) for point in points[:20]]
    np.testing.assert_allclose(space.distances(points[:20]), expected, rtol=1e-3)


def test_few_cells_of_unseen_subjects_are_refused() -> None:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(5):
        detector = fit_detector(*cells_of(rng, subjects=40), rate=0.05)
        shares.append((detector.distances(cells_of(rng, subjects=40, first=100)[0]) > 1).mean())
    assert 0.02 < np.mean(shares) < 0.08
    assert detector.limit.refused_across_subjects == pytest.approx(0.05, abs=0.03)


def test_with_fewer_cells_than_channels_unseen_subjects_still_pass() -> None:
    rng = np.random.default_rng(8)
    wide = rng.normal(size=(CHANNELS, 400))
    points, group = cells_of(rng, subjects=12)
    new, _ = cells_of(rng, subjects=12, first=100)
    detector = fit_detector(points @ wide, group, rate=0.05)
    assert (detector.distances(new @ wide) > 1).mean() < 0.2


def test_what_leaves_the_plane_of_the_training_cells_is_refused() -> None:
    rng = np.random.default_rng(2)
    points, group = cells_of(rng, subjects=40)
    detector = fit_detector(points, group)
    strange = points[:100].copy()
    strange[:, 30:] += 3  # well within the spread of the first channels
    assert (detector.distances(strange) > 1).all()


def test_a_detector_survives_its_files() -> None:
    points, group = cells_of(np.random.default_rng(3), subjects=20)
    detector = fit_detector(points, group)
    again = read_detector(DistanceLimit.model_validate_json(detector.limit.model_dump_json()), detector.content())
    np.testing.assert_allclose(again.distances(points), detector.distances(points), rtol=1e-6)
    assert again.limit == detector.limit


def test_weak_directions_survive_the_files_beside_strong_ones() -> None:
    """A small network's embedding: a few directions hold nearly all of the variance."""
    points, group = cells_of(np.random.default_rng(4), subjects=20)
    points *= np.geomspace(1, 1e-4, points.shape[1])
    detector = fit_detector(points, group)
    again = read_detector(detector.limit, detector.content())
    np.testing.assert_allclose(again.distances(points), detector.distances(points), rtol=1e-5)


def test_the_file_of_a_large_network_is_small() -> None:
    channels, axes = np.ones(1280, np.float32), np.ones((32, 1280), np.float32)
    detector = OutOfDistributionDetector(Space(channels, axes, np.ones(33, np.float32)), DistanceLimit(threshold=1.0))
    assert len(detector.content()) < 200_000


def test_dead_channels_do_no_harm() -> None:
    points, group = cells_of(np.random.default_rng(5), subjects=20)
    points[:, 5:] = 0
    assert np.isfinite(fit_detector(points, group).distances(points)).all()


def test_damaged_arrays_are_refused() -> None:
    detector = fit_detector(*cells_of(np.random.default_rng(6), subjects=20))
    with pytest.raises(BundleError, match="damaged"):
        read_detector(detector.limit, detector.content()[:50])


def test_a_threshold_needs_subjects() -> None:
    points, group = cells_of(np.random.default_rng(7), subjects=3)
    with pytest.raises(DataError, match="4 subjects"):
        fit_detector(points, group)


def test_only_what_is_refused_gets_a_reason() -> None:
    assert why_far(1.0) == ""
    assert "1.5 times" in why_far(1.5)
