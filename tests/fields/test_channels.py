"""A field that lacks a colour channel is named as such; every whole field passes."""

import numpy as np
import pytest

from leukoscope.errors import ImageError
from leukoscope.fields.cells import field_of
from leukoscope.fields.scale import Scale
from tests.fields.conftest import Painting


def synthetic_image() -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(3)
    return Painting(64, 48).white_cell(14, 14).white_cell(44, 30).red_cells(rng, count=14).taken(rng)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(("channel", "name"), list(enumerate(("red", "green", "blue"))))
def test_a_channel_that_shows_nothing_is_named(channel: int, name: str, level: int) -> None:
    pixels = synthetic_image()
    pixels[..., channel] = level
    with pytest.raises(ImageError, match=f"nothing in its {name} channel. Save it in full colour"):
        field_of(pixels, name="f", scale=Scale.exact(0.1, source="user"))


def test_a_field_of_one_channel_alone_is_named() -> None:
    pixels = synthetic_image()
    pixels[..., :2] = 0
    with pytest.raises(ImageError, match="red and green channels"):
        field_of(pixels, name="f", scale=Scale.exact(0.1, source="user"))


def test_one_channel_twice_is_named() -> None:
    pixels = synthetic_image()
    pixels[..., 2] = pixels[..., 1]
    with pytest.raises(ImageError, match="same picture in its green and blue channels"):
        field_of(pixels, name="f", scale=Scale.exact(0.1, source="user"))


def test_a_whole_field_passes() -> None:
    assert field_of(synthetic_image(), name="f", scale=Scale.exact(0.1, source="user")).pixels.shape == (480, 640, 3)
