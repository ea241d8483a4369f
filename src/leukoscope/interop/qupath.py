"""GeoJSON as QuPath reads and writes it: one detection per cell, with class, probabilities and measurements."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import write_json

# Class name -> RGB; others get grey. QuPath shows an outline in the colour of its class.
COLOURS = {
    "White cell": (0, 140, 60),
    "blast": (200, 30, 30),
    "normal": (30, 90, 200),
    "refused": (120, 120, 120),
}


@dataclass(frozen=True)
class Shape:
    """One outline for QuPath; x and y in pixels of the full image."""

    outline: NDArray[np.float64]  # (points, 2)
    name: str
    classification: str
    measurements: Mapping[str, float] = field(default_factory=dict)
    colour: tuple[int, int, int] | None = None  # RGB; None: that of the classification


def geojson(shapes: Sequence[Shape]) -> dict[str, Any]:
    """Return a FeatureCollection that QuPath 0.4 and later opens by dropping the file on the image."""
    return {"type": "FeatureCollection", "features": [_feature(number, shape) for number, shape in enumerate(shapes)]}


def write_geojson(path: Path, shapes: Sequence[Shape]) -> None:
    """Write the shapes as GeoJSON, whole or not at all."""
    write_json(path, geojson(shapes))


def _feature(number: int, shape: Shape) -> dict[str, Any]:
    colour = list(shape.colour or COLOURS.get(shape.classification, (120, 120, 120)))
    properties = {
        "objectType": "detection",
        "name": shape.name,
        "classification": {"name": shape.classification, "color": colour},
        "measurements": {name: round(float(value), 6) for name, value in shape.measurements.items()},
    }
    geometry = {"type": "Polygon", "coordinates": [_ring(shape.outline)]}
    return {"type": "Feature", "id": _uuid(number, shape), "geometry": geometry, "properties": properties}


def _ring(outline: NDArray[np.float64]) -> list[list[float]]:
    """Return a closed ring of at most 200 points, counter-clockwise as RFC 7946 wants (y up; image y points down)."""
    step = max(1, len(outline) // 200)
    points = [[round(float(x), 2), round(float(y), 2)] for x, y in outline[::step]]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]], strict=True))
    points = points if area > 0 else points[::-1]
    return [*points, points[0]]


def _uuid(number: int, shape: Shape) -> str:
    """Return an identifier that the same cells get again when the file is written again."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {shape.name} {shape.outline.round(2).tobytes().hex()[:64]}"))
