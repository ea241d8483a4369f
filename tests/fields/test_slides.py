"""Slides by tiles: the same cells whatever the tiles, and no run is lost."""

from functools import partial

import numpy as np
import pytest
import tifffile

from leukoscope.errors import ImageError
from leukoscope.fields.images import read_pixels, rescaled
from leukoscope.fields.scale import Scale
from leukoscope.fields.slides import (
    SlideMeasures,
    TiffSlide,
    count_slide,
    extract_slide,
    is_slide,
    measure_slide,
    read_with_margin,
    tile_cells,
    tiles_of,
)
from leukoscope.fields.stain import learn_stain
from leukoscope.inference.blood_count import counts_of, sum_counts
from leukoscope.inference.fields import JudgedCell
from leukoscope.inference.opinions import Opinion

from .conftest import Painting
from .test_blood_count import with_platelets


def write_pyramid(path, pixels, *, um_per_px=None, levels=3, compression=None):
    """Write a tiled TIFF with smaller levels inside, as slide scanners do."""
    tags = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    if um_per_px:
        tags |= {"resolution": (10_000 / um_per_px,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, subifds=levels, **tags)
        for level in range(1, levels + 1):
            writer.write(rescaled(pixels, 0.5**level), subfiletype=1, **{**tags, "resolution": None})


@pytest.fixture(scope="module")
def mosaic():
    """A synthetic slide of 120x100 µm at 0.1 µm: cells everywhere, also where tiles will meet."""
    rng = np.random.default_rng(3)
    painting = Painting(120, 100)
    for x, y in rng.uniform((8, 8), (112, 92), (40, 2)):
        if all(np.hypot(x - u, y - v) > 10.5 for u, v, _ in painting.white):
            painting.white_cell(x, y, radius=rng.uniform(4.5, 6))
    return painting, painting.red_cells(rng, count=60).taken(rng)


@pytest.fixture
def slide_path(mosaic, tmp_path):
    path = tmp_path / "slide.tif"
    write_pyramid(path, mosaic[1], um_per_px=0.1)
    return path


def _listed(cells):
    return sorted((*cell.box, round(cell.area_um2, 2), round(cell.sharpness, 3), cell.flags) for cell in cells)


def _by_tiles(slide, measures, *, tile):
    tiles = tiles_of(slide, tile=tile, um_per_px=measures.scale.um_per_px)
    return [cell for one in tiles for cell in tile_cells(slide, measures, one)]


def test_a_pyramid_is_read_as_it_was_written(mosaic, slide_path):
    slide = TiffSlide(slide_path)
    assert slide.size == (1200, 1000)
    assert slide.um_per_px == pytest.approx(0.1, rel=1e-3)
    assert np.array_equal(slide.read(700, 300, 400, 200), mosaic[1][300:500, 700:1100])
    assert max(slide.thumbnail(500).shape) == 500


def test_the_size_of_tiles_does_not_change_the_list_of_cells(mosaic, slide_path):
    slide = TiffSlide(slide_path)
    measures = measure_slide(slide)
    whole = _listed(_by_tiles(slide, measures, tile=5000))
    assert len(whole) == pytest.approx(len(mosaic[0].white), abs=2)
    for tile in (700, 333):
        assert _listed(_by_tiles(slide, measures, tile=tile)) == whole


def test_the_size_of_tiles_does_not_change_the_cells_of_real_fields(shared_data, tmp_path):
    fields = [read_pixels(path) for path in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[::23][:6]]
    rows = [np.concatenate(fields[row : row + 3], axis=1) for row in (0, 3)]
    path = tmp_path / "real.tif"
    write_pyramid(path, np.concatenate(rows), compression="jpeg")
    slide = TiffSlide(path)
    measures = measure_slide(slide, um_per_px=0.083)
    whole = _listed(_by_tiles(slide, measures, tile=9000))
    assert len(whole) >= 5
    for tile in (640, 413):  # 640: seams lie on the seams of the mosaic; 413: seams cross cells
        assert _listed(_by_tiles(slide, measures, tile=tile)) == whole


def test_red_cells_and_platelets_of_a_slide_are_counted_where_it_was_learned(tmp_path):
    rng = np.random.default_rng(3)
    painting = Painting(204.8, 102.4)  # two windows
    for x in (25, 80, 130, 180):
        painting.white_cell(x, 40)
    painting.white.append((52, 92, 1.3))  # red cells keep off this place
    with_platelets(painting.red_cells(rng, count=80), [(52, 92)])
    painting.white.pop()
    write_pyramid(tmp_path / "slide.tif", painting.taken(rng), um_per_px=0.1)
    opener = partial(TiffSlide, tmp_path / "slide.tif")
    measures = measure_slide(opener())
    counted = list(count_slide(opener, measures))
    assert [one.area for one in sorted(counted, key=lambda one: one.area)] == [
        (0, 0, 1024, 1024),
        (1024, 0, 2048, 1024),
    ]
    assert all(one.scale_stated for one in counted)
    assert sum(len(one.red_cells) for one in counted) == pytest.approx(80, rel=0.1)
    assert sum(len(one.platelets) for one in counted) == 1
    cells = _by_tiles(opener(), measures, tile=700)
    opinion = Opinion("cell", "not asked", type="neutrophil")
    judged = [JudgedCell(cell, np.zeros((0, 0, 3), np.uint8), opinion) for cell in cells]
    fields = counts_of(counted, judged, positive="blast")
    assert sum(field.white for field in fields) == 4, "each white cell lies in one window"
    whole = sum_counts(fields)
    assert (whole.platelets, whole.white) == (1, 4)


def test_a_killed_run_goes_on_and_ends_with_the_same_cells(slide_path, tmp_path, monkeypatch):
    import leukoscope.fields.slides as module

    whole = extract_slide(partial(TiffSlide, slide_path), tmp_path / "whole", name="slide", tile=500)
    real, calls = module.tile_cells, []

    def killed_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "tile_cells", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract_slide(partial(TiffSlide, slide_path), tmp_path / "out", name="slide", tile=500)
    calls.clear()
    calls.extend([()] * 10)  # no more kills
    again = extract_slide(partial(TiffSlide, slide_path), tmp_path / "out", name="slide", tile=500)
    tiles = 6
    assert len(calls) - 10 == tiles - 2  # two were done
    assert _listed(again.cells) == _listed(whole.cells)
    assert all(crop.exists() for crop in again.crops)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(slide_path, tmp_path):
    one = extract_slide(partial(TiffSlide, slide_path), tmp_path / "one", name="slide", tile=600)
    two = extract_slide(partial(TiffSlide, slide_path), tmp_path / "two", name="slide", tile=600, jobs=2)
    assert _listed(one.cells) == _listed(two.cells)
    assert [crop.name for crop in one.crops] == [crop.name for crop in two.crops]
    for mine, other in zip(one.crops, two.crops, strict=True):
        assert mine.read_bytes() == other.read_bytes()


def test_a_margin_lies_on_the_detectors_grid(slide_path):
    slide = TiffSlide(slide_path)
    for tile in tiles_of(slide, tile=500, um_per_px=0.05):
        left, top, _ = read_with_margin(slide, tile, um_per_px=0.05)
        assert left % 3 == top % 3 == 0


def test_a_slide_that_ends_early_is_named(slide_path):
    slide_path.write_bytes(slide_path.read_bytes()[:100_000])
    with pytest.raises(ImageError, match=r"slide\.tif"):
        measure_slide(TiffSlide(slide_path))


def test_damaged_tiles_are_named_and_the_rest_goes_on(mosaic, tmp_path):
    path = tmp_path / "slide.tif"
    write_pyramid(path, mosaic[1], um_per_px=0.1, compression="jpeg")
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * length)
    found = extract_slide(partial(TiffSlide, path), tmp_path / "out", name="slide", tile=512)
    assert any("damaged" in problem for problem in found.problems)
    assert len(found.cells) > 8


def test_a_blank_slide_is_named(tmp_path):
    path = tmp_path / "blank.tif"
    write_pyramid(path, np.full((1500, 2000, 3), 230, np.uint8))
    with pytest.raises(ImageError, match="blank"):
        measure_slide(TiffSlide(path))


def test_only_large_or_named_slides_are_read_by_tiles(slide_path, tmp_path):
    assert not is_slide(slide_path)  # small enough to be read as a field
    assert is_slide(tmp_path / "slide.svs")
    assert not is_slide(tmp_path / "field.png")


def test_a_look_is_plain_data_that_processes_can_share(mosaic):
    import pickle

    measures = SlideMeasures(learn_stain(rescaled(mosaic[1], 0.2)), Scale.exact(0.1, source="user"), 0, 9)
    assert pickle.loads(pickle.dumps(measures)) == measures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_slide_is_read_upright_by_rectangles_as_it_is_whole(mosaic, tmp_path, orientation):
    path = tmp_path / "turned.tif"
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(path, mosaic[1][:500], photometric="rgb", tile=(128, 128), extratags=tags)
    whole, slide = read_pixels(path), TiffSlide(path)
    assert slide.size == whole.shape[1::-1]
    assert np.array_equal(slide.read(101, 203, 150, 90), whole[203:293, 101:251])


@pytest.mark.parametrize("bits", [12, 16])
def test_a_deep_slide_is_the_same_as_with_eight_bits_tile_by_tile(mosaic, tmp_path, bits):
    path, eight = tmp_path / "deep.tif", mosaic[1].copy()
    eight[500, 600] = 255
    deep = (eight.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    tifffile.imwrite(path, deep, photometric="rgb", tile=(256, 256), compression="zlib")
    slide = TiffSlide(path)
    assert np.array_equal(slide.read(300, 200, 400, 500), eight[200:700, 300:700])
    assert any(f"{bits} bits" in note for note in slide.notes)


def test_a_tile_that_a_scanner_left_out_is_glass(mosaic, tmp_path):
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(path, mosaic[1][:512, :512], photometric="rgb", tile=(256, 256))
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages[0].tags[325].value)
        file.pages[0].tags[325].overwrite([counts[0], 0, *counts[2:]])
    read = TiffSlide(path).read(200, 0, 100, 100)
    assert (read[:, 56:] == 255).all()
    assert np.array_equal(read[:, :56], mosaic[1][:100, 200:256])


def test_a_mask_beside_slides_is_refused_by_name(mosaic, tmp_path):
    tifffile.imwrite(tmp_path / "mask.svs", mosaic[1][..., 0], photometric="minisblack", tile=(256, 256))
    with pytest.raises(ImageError, match="mask.svs is a grey"):
        TiffSlide(tmp_path / "mask.svs")
