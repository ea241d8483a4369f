"""The scale of a field, and where it comes from."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from leukoscope.fields.cells import open_field, preview
from leukoscope.fields.images import rescaled, scale_in_file
from leukoscope.fields.scale import Scale, common_scale, estimate_scale
from leukoscope.fields.stain import learn_stain

from .conftest import Painting


@pytest.mark.parametrize("zoom", [0.2, 0.4, 1.0, 2.0])
def test_red_cells_tell_the_scale_at_any_magnification(rng, zoom):
    pixels = rescaled(Painting(90, 70).white_cell(30, 30).red_cells(rng, count=40).taken(rng), zoom)
    scale = estimate_scale(pixels, learn_stain(preview(pixels)))
    assert scale is not None
    assert scale.source == "red cells"
    assert scale.low < 0.1 / zoom < scale.high


def test_without_red_cells_the_nuclei_give_a_wide_interval(rng):
    pixels = Painting(64, 48).white_cell(20, 20, radius=5.6).taken(rng)
    scale = estimate_scale(pixels, learn_stain(preview(pixels)))
    assert scale is not None
    assert scale.source == "nuclei"
    assert scale.low < 0.1 < scale.high


def test_a_field_without_anything_has_no_scale(rng):
    pixels = Painting(64, 48).taken(rng)
    assert estimate_scale(pixels, learn_stain(preview(pixels))) is None


def test_fields_of_one_camera_share_the_median_of_their_scales():
    scales = [Scale(um, "red cells", um * 0.86, um * 1.14) for um in (0.09, 0.1, 0.14)] + [Scale(9, "nuclei", 6, 13)]
    shared = common_scale(scales)
    assert shared.um_per_px == pytest.approx(0.1)
    assert "3 fields" in str(shared)


def test_the_user_outranks_the_file_and_the_file_the_red_cells(synthetic, tmp_path):
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, synthetic[1], resolution=(10_000 / 0.08, 10_000 / 0.08), resolutionunit="CENTIMETER")
    assert open_field(path, um_per_px=0.2).scale == Scale.exact(0.2, source="user")
    assert open_field(path).scale.source == "file"
    assert open_field(path).scale.um_per_px == pytest.approx(0.08, rel=1e-4)
    Image.fromarray(synthetic[1]).save(tmp_path / "field.png")
    assert open_field(tmp_path / "field.png").scale.source == "red cells"


def test_ome_and_imagej_files_tell_their_scale(synthetic, tmp_path):
    ome, imagej = tmp_path / "field.ome.tif", tmp_path / "imagej.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.065, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(ome, synthetic[1], ome=True, photometric="rgb", metadata=metadata)
    tifffile.imwrite(imagej, synthetic[1], imagej=True, resolution=(1 / 0.07, 1 / 0.07), metadata={"unit": "um"})
    assert scale_in_file(ome) == pytest.approx(0.065)
    assert scale_in_file(imagej) == pytest.approx(0.07)


def test_the_dots_per_inch_of_a_printer_are_not_taken_for_a_scale(synthetic, tmp_path):
    path = tmp_path / "field.jpg"
    Image.fromarray(synthetic[1]).save(path, dpi=(300, 300))
    assert scale_in_file(path) is None


def test_the_scale_says_where_it_comes_from():
    assert str(Scale.exact(0.065, source="file")) == "0.065 µm per pixel (from the file)"
    assert (
        str(Scale(0.0812, "red cells", 0.07, 0.092)) == "0.0812 µm per pixel (estimated from the red cells, 0.07–0.092)"
    )


def test_estimated_scales_of_real_fields_agree_with_their_annotated_red_cells(shared_data):
    from benchmarks.fields import annotated_boxes

    ratios = []
    for path in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[::25]:
        boxes = annotated_boxes(path, "RBC")
        whole = boxes[(boxes[:, 0] > 3) & (boxes[:, 1] > 3) & (boxes[:, 2] < 637) & (boxes[:, 3] < 477)]
        sides = (whole[:, 2:] - whole[:, :2]).mean(axis=1)
        ratios.append(7.2 / open_field(path).scale.um_per_px / np.median(sides))
    assert 0.75 < np.median(ratios) < 1.05  # the boxes are drawn generously
    assert np.std(np.log(ratios)) < 0.15
