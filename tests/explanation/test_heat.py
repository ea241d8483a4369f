"""Heat lies where the evidence is: no flip, no transpose, no half pixel."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from leukoscope.explanation import enlarge, lime, magnified, occlude, overlay, superpixels, to_rgba, transparent
from leukoscope.models.network import Network, WithMap
from tests.explanation.known import EXPECTED, PLACE, SIZE, cell, middle, predict


def test_occlusion_finds_the_place() -> None:
    heat = occlude(predict, cell(), target=1)
    assert middle(heat) == pytest.approx(EXPECTED, abs=1.0)
    assert heat[PLACE].mean() > 10 * np.abs(heat[60:, :40]).mean()


def test_occlusion_of_the_other_class_is_the_same_with_another_sign() -> None:
    np.testing.assert_allclose(occlude(predict, cell(), target=0), -occlude(predict, cell(), target=1), atol=1e-5)


def test_lime_finds_the_place() -> None:
    heat = lime(predict, cell(), target=1, rng=np.random.default_rng(0), count=40)
    assert middle(np.where(heat > heat.max() / 2, heat, 0)) == pytest.approx(EXPECTED, abs=4)
    assert heat[PLACE].mean() > 5 * np.abs(heat[60:, :40]).mean()


def test_lime_gives_a_plain_model_its_own_weights() -> None:
    crop = cell(1)
    patches = superpixels(crop, count=12)
    truth = np.random.default_rng(1).normal(0, 1, 12)
    share = [np.where(patches == patch, 1.0, 0.0) / (patches == patch).sum() for patch in range(12)]

    def there(crops: np.ndarray) -> np.ndarray:
        same = (crops == crop).all(axis=3)
        present = np.stack([(same * each).sum(axis=(1, 2)) > 0.7 for each in share], axis=1)
        chance = 1 / (1 + np.exp(-(present @ truth)))
        return np.stack([1 - chance, chance], axis=1)

    heat = lime(there, crop, target=1, rng=np.random.default_rng(2), samples=500, count=12)
    found = np.array([heat[patches == patch].mean() for patch in range(12)])
    assert np.corrcoef(found, truth)[0, 1] > 0.99
    np.testing.assert_allclose(found, truth, atol=0.25)


def test_superpixels_cover_the_cell_and_nothing_else() -> None:
    crop = cell(2)
    patches = superpixels(crop, count=30)
    np.testing.assert_array_equal(patches >= 0, crop.max(axis=2) > 24)
    sizes = np.bincount(patches[patches >= 0])
    assert len(sizes) == 30
    assert sizes.max() < 12 * np.median(sizes)
    np.testing.assert_array_equal(patches, superpixels(crop, count=30))


def test_a_black_crop_has_no_heat() -> None:
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert not occlude(predict, black, target=1).any()
    assert not lime(predict, black, target=1, rng=np.random.default_rng(0)).any()


@pytest.mark.parametrize("places", [1, 2, 4, 7])
def test_a_map_is_enlarged_as_by_pytorch(places: int) -> None:
    plane = np.random.default_rng(places).normal(size=(places, places)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(plane)[None, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(plane, size=SIZE), expected[0, 0].numpy(), atol=1e-5)


def test_the_map_of_a_network_lies_over_what_it_answers_to() -> None:
    brightness = torch.nn.Conv2d(3, 2, 8, stride=8)
    network = Network(brightness, channels=2, classes=2, dropout=0, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    with torch.no_grad():
        for weight, value in ((brightness.weight, 0.01), (network.head.weight, 1), (brightness.bias, -1.2)):
            weight.fill_(value)
        _, maps, _ = WithMap(network)(torch.from_numpy(cell()[None]))
    heat = enlarge(maps[0, 1].numpy(), size=SIZE)
    assert middle(np.where(heat > heat.max() / 2, heat, 0)) == pytest.approx(EXPECTED, abs=1.5)


def test_a_place_of_the_map_is_drawn_over_its_tile() -> None:
    plane = np.zeros((8, 8), np.float32)
    plane[2, 5] = 1
    assert middle(enlarge(plane, size=SIZE)) == pytest.approx((2.5 * 12 - 0.5, 5.5 * 12 - 0.5), abs=0.1)


def test_evidence_for_is_orange_and_against_is_blue() -> None:
    crop = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[0, 1] = 1, -1
    drawn = overlay(crop, heat, full=1).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2]
    assert drawn[0, 1, 2] > drawn[0, 1, 0]
    np.testing.assert_array_equal(drawn[1:], crop[1:])
    assert magnified(crop, side=15).shape == (16, 16, 3)


def test_a_colour_means_the_same_in_every_picture_page_and_room() -> None:
    """The pictures of the command line and the transparent ones of pages and room, laid over the cell by a browser."""
    rng = np.random.default_rng(3)
    crop, plane = cell(3), rng.normal(0, 2, (4, 4)).astype(np.float32)
    drawn = overlay(crop, enlarge(plane, size=SIZE), full=1.5)
    with Image.open(io.BytesIO(transparent(plane, full=1.5, signed=True, side=SIZE))) as laid:
        over = np.asarray(laid).astype(float)
    composed = crop * (1 - over[..., 3:] / 255) + over[..., :3] * over[..., 3:] / 255
    np.testing.assert_allclose(drawn, composed, atol=0.51)


def test_opacity_is_how_sure_a_crop_of_such_places_would_be() -> None:
    temperature, evidence = 1.7, np.array([[0.0, 0.6, -2.5]], np.float32)
    sure = 2 / (1 + np.exp(-2 * evidence / temperature)) - 1  # logits of both classes are +e and -e
    opacity = to_rgba(evidence, full=temperature)[..., 3] / (0.7 * 255)
    np.testing.assert_allclose(opacity, np.abs(sure), atol=0.01)
    assert to_rgba(evidence, full=temperature, signed=False)[0, 2, 3] == 0
