"""White cells in the fields of BCCD: recall, precision, count error and seconds, beside a plain Otsu + watershed.

    python benchmarks/fields.py ../shared/data/bccd            # every field, about two minutes on two cores
    python benchmarks/fields.py ../shared/data/bccd --every 5
    python benchmarks/fields.py ../shared/data/bccd --stains stains.jpg  # only draws: cells before and after
    python benchmarks/fields.py ../shared/data/bccd --pictures fields.jpg   # only draws: twenty fields, the worst first

Intervals are 95 % percentiles of 2,000 bootstrap replicates over fields. A found cell counts when its box and an
annotated box overlap by IoU 0.5 or more, one to one.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage import feature, filters, measure, morphology, segmentation

from leukoscope.fields.cells import draw_outlines, find_cells, open_field
from leukoscope.fields.crops import cut_crop
from leukoscope.fields.extraction import field_normaliser

STAINS = ("none", "reinhard", "macenko")
Boxes = NDArray[np.float64]  # (boxes, 4): left, top, right, bottom


def annotated_boxes(image: Path, name: str = "WBC") -> Boxes:
    """Return the boxes of one kind of object from the VOC file that belongs to an image."""
    tree = ElementTree.parse(image.parents[1] / "Annotations" / f"{image.stem}.xml")
    sides = ("xmin", "ymin", "xmax", "ymax")
    found = [thing.find("bndbox") for thing in tree.iter("object") if thing.findtext("name") == name]
    return np.array([[float(box.findtext(side) or 0) for side in sides] for box in found if box is not None]).reshape(
        -1, 4
    )


def ours(image: Path) -> Boxes:
    """Find white cells as `leukoscope cells` does, the scale estimated from this field alone."""
    return np.array([cell.box for cell in find_cells(open_field(image))], dtype=float).reshape(-1, 4)


def otsu_watershed(image: Path) -> Boxes:
    """Find white cells as a user's script would: Otsu on saturation, watershed on the distance transform."""
    saturation = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2HSV)[..., 1]
    smooth = filters.gaussian(saturation, 2)
    mask = morphology.opening(smooth > filters.threshold_otsu(smooth), morphology.disk(3))
    mask = ndimage.binary_fill_holes(mask)
    distance = ndimage.distance_transform_edt(mask)
    peaks = feature.peak_local_max(distance, min_distance=20, labels=measure.label(mask))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = measure.regionprops(segmentation.watershed(-distance, markers, mask=mask))
    boxes = [region.bbox for region in regions if region.area > 1500]
    return np.array([[left, top, right, bottom] for top, left, bottom, right in boxes], dtype=float).reshape(-1, 4)


def matches(found: Boxes, true: Boxes, *, least: float = 0.5) -> tuple[int, float]:
    """Return how many boxes match one to one, and the mean IoU of those."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (found, true)]
    iou = common / (areas[0][:, None] + areas[1][None] - common)
    pairs = iou[linear_sum_assignment(-iou)]
    good = pairs[pairs >= least]
    return len(good), float(good.mean()) if len(good) else 0.0


def judge(images: list[Path], detect: Callable[[Path], Boxes]) -> dict[str, object]:
    """Return recall, precision, count error, mean IoU and seconds per field, with intervals by field."""
    rows = []
    for image in images:
        started, worked = time.perf_counter(), time.process_time()
        found, true = detect(image), annotated_boxes(image)
        seconds = (time.perf_counter() - started, time.process_time() - worked)
        hits, overlap = matches(found, true)
        rows.append((hits, len(found), len(true), abs(len(found) - len(true)), overlap * hits, *seconds))
    table = np.array(rows)
    rng = np.random.default_rng(0)
    draws = np.array([_rates(table[rng.integers(0, len(table), len(table))]) for _ in range(2000)])
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    names = ("recall", "precision", "count_error_per_field", "mean_iou")
    rates = zip(names, _rates(table), low, high, strict=True)
    result: dict[str, object] = {name: {"value": value, "low": a, "high": b} for name, value, a, b in rates}
    timing = {
        f"{clock}_seconds_per_field": {"median": float(np.median(times)), "p95": float(np.percentile(times, 95))}
        for clock, times in (("wall", table[:, 5]), ("cpu", table[:, 6]))
    }
    return result | timing | {"fields": len(images), "cells": int(table[:, 2].sum())}


def _rates(table: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, found, true, error, overlap = table.sum(axis=0)[:5]
    return np.array([hits / true, hits / max(found, 1), error / len(table), overlap / max(hits, 1)])


def draw_sheet(images: list[Path], path: Path) -> None:
    """Write twenty fields with our outlines and the annotated boxes (yellow), those with the least overlap first."""

    def overlap(image: Path) -> float:
        true = annotated_boxes(image)
        return matches(ours(image), true, least=0.0)[1] if len(true) else 0.0

    ranked = sorted(images, key=overlap)
    chosen = [*ranked[:8], *ranked[8 :: max(1, len(ranked[8:]) // 12)][:12]]
    pictures = []
    for image in chosen:
        field = open_field(image)
        picture = draw_outlines(field, find_cells(field))
        for box in annotated_boxes(image).astype(int):
            cv2.rectangle(picture, tuple(box[:2]), tuple(box[2:]), (240, 200, 0), 2)
        pictures.append(cv2.resize(picture, (360, 270), interpolation=cv2.INTER_AREA))
    sheet = np.concatenate([np.concatenate(pictures[row : row + 4], axis=1) for row in range(0, 20, 4)])
    Image.fromarray(sheet).save(path, quality=68, optimize=True)


def draw_stains(images: list[Path], path: Path, *, cells: int = 8) -> None:
    """Write cells of different fields in rows: as they are, by Reinhard, by Macenko."""
    columns: list[NDArray[np.uint8]] = []
    for image in images:
        field = open_field(image)
        found = find_cells(field)
        if whole := [cell for cell in found if not cell.flags]:
            crops = [field_normaliser(field, found, method=how)(cut_crop(field, whole[0])) for how in STAINS]
            columns.append(np.concatenate([crop[65:-65, 65:-65] for crop in crops]))
        if len(columns) == cells:
            break
    sheet = Image.fromarray(np.concatenate(columns, axis=1))
    sheet.resize((sheet.width // 2, sheet.height // 2)).save(path, quality=80, optimize=True)


def main() -> None:
    """Print one table for people, or JSON for programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--stains", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(2)
    images = sorted((options.folder / "JPEGImages").glob("*.jpg"))[:: options.every]
    if options.pictures or options.stains:
        if options.pictures:
            draw_sheet(images, options.pictures)
        if options.stains:
            draw_stains(images, options.stains)
        return
    results = {detect.__name__: judge(images, detect) for detect in (ours, otsu_watershed)}
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for name, result in results.items():
        print(f"{name}: {result['fields']} fields, {result['cells']} annotated white cells")
        for key, value in result.items():
            if isinstance(value, dict):
                print(f"  {key:22}", "  ".join(f"{part} {number:.3f}" for part, number in value.items()))


if __name__ == "__main__":
    main()
