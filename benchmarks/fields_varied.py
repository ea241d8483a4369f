"""White cells in the fields of BCCD as other cameras and laboratories might have taken them.

    python benchmarks/fields_varied.py ../shared/data/bccd --every 8      # about five minutes on two cores

Every field is changed (magnification, stain, light, focus, compression, density) and searched with the scale estimated
from the changed field alone. Printed per change: recall and precision at IoU 0.5, fields refused, and the middle and
the extreme tenths of estimated over true scale (the unchanged fields' median stands for the true one).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from fields import Boxes, annotated_boxes, matches
from leukoscope.errors import ImageError
from leukoscope.fields.cells import field_of, find_cells
from leukoscope.fields.images import Pixels, read_pixels, rescaled
from leukoscope.fields.stain import background_colour
from leukoscope.progress import in_parallel

Changed = tuple[Pixels, Boxes, float]  # the field, its boxes, and how much larger one micrometre has become
Change = Callable[[Pixels, Boxes], Changed]


def zoomed(factor: float) -> Change:
    """Take the field at another magnification."""
    return lambda pixels, boxes: (rescaled(pixels, factor), boxes * factor, factor)


def stained(strength: tuple[float, float, float]) -> Change:
    """Multiply the optical density of each channel."""

    def change(pixels: Pixels, boxes: Boxes) -> Changed:
        glass = background_colour(pixels)
        density = np.log((glass + 1) / (pixels.astype(np.float32) + 1)) * np.float32(strength)
        return _bytes((glass + 1) * np.exp(-density) - 1), boxes, 1.0

    return change


def lit(gain: tuple[float, float, float]) -> Change:
    """Multiply the light of each channel; what is too bright is cut off."""
    return lambda pixels, boxes: (_bytes(pixels * np.float32(gain)), boxes, 1.0)


def blurred(spread: float) -> Change:
    """Lose focus."""
    return lambda pixels, boxes: (cv2.GaussianBlur(pixels, (0, 0), spread), boxes, 1.0)


def compressed(quality: int) -> Change:
    """Compress as JPEG."""

    def change(pixels: Pixels, boxes: Boxes) -> Changed:
        _, code = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1].copy(), boxes, 1.0

    return change


def noisy(spread: float) -> Change:
    """Add a camera's noise."""
    rng = np.random.default_rng(0)
    return lambda pixels, boxes: (_bytes(pixels + rng.normal(0, spread, pixels.shape)), boxes, 1.0)


def dense(pixels: Pixels, boxes: Boxes) -> Changed:
    """Four mirrored copies side by side: larger, the same density, cells that touch at the seams."""
    height, width = pixels.shape[:2]
    whole = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    right = np.stack([2 * width - boxes[:, 2], boxes[:, 1], 2 * width - boxes[:, 0], boxes[:, 3]], axis=1)
    top = np.concatenate([boxes, right])
    low = np.stack([top[:, 0], 2 * height - top[:, 3], top[:, 2], 2 * height - top[:, 1]], axis=1)
    return np.concatenate([whole, whole[::-1]]), np.concatenate([top, low]), 1.0


def sparse(pixels: Pixels, boxes: Boxes) -> Changed:
    """Much empty glass around the field."""
    high, wide = pixels.shape[0], pixels.shape[1]
    canvas = np.empty((2 * high, 2 * wide, 3), np.uint8)
    canvas[:] = background_colour(pixels)
    canvas[high // 2 : high // 2 + high, wide // 2 : wide // 2 + wide] = pixels
    return canvas, boxes + np.tile([wide // 2, high // 2], 2), 1.0


def uneven(pixels: Pixels, boxes: Boxes) -> Changed:
    """Light that falls by half from one side to the other."""
    ramp = np.linspace(1.0, 0.5, pixels.shape[1], dtype=np.float32)
    return _bytes(pixels * ramp[None, :, None]), boxes, 1.0


def round_view(pixels: Pixels, boxes: Boxes) -> Changed:
    """A round field of view on black, as through an eyepiece; cells that it cuts are not asked for."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 2 - 2) ** 2
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] - (width / 2, height / 2)
    whole = (np.hypot(corners[..., 0], corners[..., 1]) < height / 2 - 2).all(axis=1)
    return np.where(inside[..., None], pixels, np.uint8(3)), boxes[whole], 1.0


CHANGES: dict[str, Change] = {
    "unchanged": zoomed(1.0),
    "magnification x0.5": zoomed(0.5),
    "magnification x0.7": zoomed(0.7),
    "magnification x1.4": zoomed(1.4),
    "magnification x2": zoomed(2.0),
    "stain x0.5": stained((0.5, 0.5, 0.5)),
    "stain x0.7": stained((0.7, 0.7, 0.7)),
    "stain x1.6": stained((1.6, 1.6, 1.6)),
    "stain bluer": stained((1.3, 1.0, 0.7)),
    "stain redder": stained((0.7, 1.1, 1.3)),
    "light x0.5": lit((0.5, 0.5, 0.5)),
    "light x1.25": lit((1.25, 1.25, 1.25)),
    "light yellow": lit((1.0, 0.9, 0.65)),
    "light blue": lit((0.75, 0.85, 1.05)),
    "light uneven": uneven,
    "blur 2 px": blurred(2.0),
    "blur 4 px": blurred(4.0),
    "JPEG 15": compressed(15),
    "noise 15": noisy(15.0),
    "dense": dense,
    "sparse": sparse,
    "round view": round_view,
}


def judge(images: list[Path], change: Change, *, true_um: float) -> tuple[str, list[float]]:
    """Return a line on one change, and the scales that were estimated."""

    def look(image: Path) -> tuple[int, int, int, float]:
        pixels, boxes, zoom = change(read_pixels(image), annotated_boxes(image))
        try:
            field = field_of(np.ascontiguousarray(pixels), name=image.name)
        except ImageError:
            return 0, 0, len(boxes), float("nan")
        found = np.array([cell.box for cell in find_cells(field)], dtype=float).reshape(-1, 4)
        return matches(found, boxes)[0], len(found), len(boxes), field.scale.um_per_px * zoom

    rows = np.array(list(in_parallel(look, images)))
    hits, found, true = rows[:, :3].sum(axis=0)
    scales = rows[~np.isnan(rows[:, 3]), 3]
    line = f"recall {hits / true:.3f}  precision {hits / max(found, 1):.3f}  refused {np.isnan(rows[:, 3]).sum():2d}"
    if not len(scales):
        return line, []
    low, middle, high = np.percentile(scales / (true_um or np.median(scales)), (10, 50, 90))
    return f"{line}  scale {middle:.2f} ({low:.2f} to {high:.2f})", scales.tolist()


def _bytes(values: np.ndarray) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def main() -> None:
    """Print one line for each change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images = sorted((options.folder / "JPEGImages").glob("*.jpg"))[:: options.every]
    true_um = 0.0
    for name, change in CHANGES.items():
        if options.only and options.only not in name and true_um:
            continue
        line, scales = judge(images, change, true_um=true_um)
        true_um = true_um or float(np.median(scales))
        print(f"{name:20} {line}", flush=True)


if __name__ == "__main__":
    main()
