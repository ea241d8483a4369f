"""Reading fields, good and bad."""

import cv2
import numpy as np
import pytest
from PIL import Image

from leukoscope.errors import ImageError
from leukoscope.fields.images import read_pixels


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_a_field_is_read_as_it_was_written(synthetic, tmp_path, suffix):
    path = tmp_path / f"field{suffix}"
    Image.fromarray(synthetic[1]).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_pixels(path), synthetic[1])


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_colours_are_brought_to_eight_bits(synthetic, tmp_path, bits, suffix):
    path = tmp_path / f"deep{suffix}"
    pixels = synthetic[1].copy()
    pixels[0, 0] = 255
    deep = (pixels.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    cv2.imwrite(str(path), deep[..., ::-1])
    assert np.abs(read_pixels(path).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "grey16", "tiny"])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(synthetic, tmp_path, kind):
    path = tmp_path / "field.png"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello")
    elif kind == "cut":
        Image.fromarray(synthetic[1]).save(path)
        path.write_bytes(path.read_bytes()[:20_000])
    elif kind == "grey16":
        cv2.imwrite(str(path), synthetic[1][..., 1].astype(np.uint16) * 257)
    elif kind == "tiny":
        Image.fromarray(synthetic[1][:20, :20]).save(path)
    with pytest.raises(ImageError, match=r"field\.png .+\."):
        read_pixels(path)
