"""GeoJSON for QuPath."""

import json
from itertools import pairwise

import numpy as np
import pytest

from leukoscope.interop.qupath import Shape, geojson, write_geojson


def _circle(points=300, radius=40.0):
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([100 + radius * np.cos(turn), 90 + radius * np.sin(turn)], axis=1)


def _area(ring):
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2


def test_every_cell_is_a_closed_counter_clockwise_polygon_of_its_size():
    for outline in (_circle(), _circle()[::-1]):
        (feature,) = geojson([Shape(outline, "Cell 1", "blast", {"Probability": 0.93})])["features"]
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert _area(ring) == pytest.approx(np.pi * 40**2, rel=0.01)


def test_class_probability_and_name_are_where_qupath_looks_for_them():
    (feature,) = geojson([Shape(_circle(), "Cell 1", "blast", {"Probability": 0.93})])["features"]
    assert feature["type"] == "Feature"
    properties = feature["properties"]
    assert properties["objectType"] == "detection"
    assert properties["name"] == "Cell 1"
    assert properties["classification"]["name"] == "blast"
    assert all(0 <= part <= 255 for part in properties["classification"]["color"])
    assert properties["measurements"] == {"Probability": 0.93}


def test_identifiers_are_unique_and_stay(tmp_path):
    shapes = [Shape(_circle(), f"Cell {number}", "normal") for number in range(5)]
    identifiers = [feature["id"] for feature in geojson(shapes)["features"]]
    assert len(set(identifiers)) == 5
    write_geojson(tmp_path / "cells.geojson", shapes)
    again = json.loads((tmp_path / "cells.geojson").read_text(encoding="utf-8"))
    assert [feature["id"] for feature in again["features"]] == identifiers
