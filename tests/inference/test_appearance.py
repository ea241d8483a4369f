"""What no microscope shows is told by its colours, and by size and detail that do not go together."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from leukoscope.bundle.manifest import QualityLimits
from leukoscope.inference.rejection import appearance, fit_quality, judge, measure

Picture = np.ndarray


def stained(seed: int, *, side: int = 300) -> Picture:
    """Paint a cell with a purple nucleus in blue cytoplasm on black; no two cells are the same."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:side, :side] - side / 2
    radius = 60 * rng.uniform(0.8, 1.25)
    far = np.hypot(down, right * rng.uniform(0.9, 1.1))
    grain = gaussian_filter(rng.standard_normal((side, side)), 1.5)
    density = np.where((far < 0.75 * radius)[..., None], (1.2, 1.9, 1.0), (0.7, 0.9, 0.7)) * rng.uniform(0.85, 1.15)
    density = density * (1 + 0.12 * (grain / grain.std())[..., None]) + rng.normal(0, 0.04, 3)
    picture = 263 * np.exp(-density) - 8 + rng.normal(0, 1.5, (side, side, 3))
    return (picture.clip(30, 255) * (far < radius)[..., None]).astype(np.uint8)


def enlarged(picture: Picture) -> Picture:
    middle = Image.fromarray(picture).crop((75, 75, 225, 225))
    return np.asarray(middle.resize((300, 300), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def limits() -> QualityLimits:
    return fit_quality([measure(stained(seed)) for seed in range(150)])


def test_hardly_any_sound_cell_is_refused(limits: QualityLimits) -> None:
    refused = [bool(judge(measure(stained(seed)), limits).reason) for seed in range(1000, 1060)]
    assert np.mean(refused) <= 0.05


@pytest.mark.parametrize(
    "changed",
    [
        lambda picture: np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
        lambda picture: picture[..., [2, 0, 1]],
        lambda picture: np.where(picture.any(axis=2, keepdims=True), 255 - picture, 0).astype(np.uint8),
    ],
    ids=["grey", "channels exchanged", "inverted"],
)
def test_colours_of_no_stained_cell_are_refused(limits: QualityLimits, changed: Callable[[Picture], Picture]) -> None:
    reasons = [judge(measure(changed(stained(seed))), limits).reason for seed in range(1000, 1020)]
    assert all(reasons)
    assert any("colours of a stained cell" in reason for reason in reasons)


def test_an_enlarged_cell_is_refused(limits: QualityLimits) -> None:
    reasons = [judge(measure(enlarged(stained(seed))), limits).reason for seed in range(1000, 1020)]
    assert np.mean([bool(reason) for reason in reasons]) >= 0.95


def test_a_bundle_without_these_limits_judges_as_before(limits: QualityLimits) -> None:
    older = QualityLimits(**{name: getattr(limits, name) for name in ("cells", "side", "detail", "contrast")})
    assert judge(measure(stained(1000)[..., [2, 0, 1]]), older).reason == ""


def test_an_appearance_is_that_of_plain_arithmetic() -> None:
    """Optical density of the darkest, middle and palest fifth of all places, correlations, spread and size."""
    rng = np.random.default_rng(0)
    box, inside = rng.integers(30, 255, (60, 80, 3), dtype=np.uint8), np.ones((60, 80), bool)
    found = appearance(box, inside)
    density = -np.log((box.reshape(-1, 3).astype(float) + 8) / 263)
    fifths = np.array_split(density[np.argsort(density.sum(axis=1))], 5)
    expected = np.concatenate([fifths[part].mean(axis=0) for part in (0, 2, 4)])
    assert found[:9] == pytest.approx(expected, abs=1e-3)
    correlations = np.corrcoef(density.T)
    linked = np.arctanh([correlations[0, 1], correlations[1, 2]])
    assert found[-4:] == pytest.approx([*linked, density[:, 1].std(), np.log(80)], abs=1e-3)
