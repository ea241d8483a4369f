"""One reader of scale: every unit, every place, one plausibility check."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from leukoscope.images.scale import UNITS_UM, Stated, length_um, number_of, stated_scale

PIXELS = np.full((48, 64, 3), 200, np.uint8)


def tiff(path: Path, **options: object) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(16, 16), **options)
    return path


def ome(path: Path, x: object, unit: str, y: object = None) -> Path:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeY": x if y is None else y}
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return tiff(path.with_suffix(".ome.tif"), metadata={"axes": "YXS", **sizes, **units})


# Units of the OME schema (UnitsLength) that microscopes may state, with the size of 0.0818 µm in each.
SAME = {
    "nm": 81.8,
    "µm": 0.0818,
    "mm": 81.8e-6,
    "cm": 8.18e-6,
    "m": 81.8e-9,
    "Å": 818.0,
    "thou": 0.0818 / 25.4,
    "in": 0.0818e-3 / 25.4,
    "pm": 81800.0,
    "ft": 0.0818e-6 / 0.3048,
    "pt": 0.0818e-3 / 25.4 * 72,
}


@pytest.mark.parametrize("unit", SAME)
def test_every_unit_of_ome_is_the_same_scale(tmp_path: Path, unit: str) -> None:
    assert stated_scale(ome(tmp_path / "a", SAME[unit], unit)).um_per_px == pytest.approx(0.0818)


def test_units_are_those_of_tifffile_s_own_table() -> None:
    for unit in ("Ym", "km", "m", "mm", "µm", "nm", "pm", "ym"):
        powers = {"Ym": 24, "km": 3, "m": 0, "mm": -3, "µm": -6, "nm": -9, "pm": -12, "ym": -24}
        assert UNITS_UM[unit] == pytest.approx(10.0 ** (powers[unit] + 6))


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_what_is_not_calibrated_has_no_scale(tmp_path: Path, unit: str) -> None:
    assert stated_scale(ome(tmp_path / "a", 1.0, unit)) == type(stated_scale(ome(tmp_path / "a", 1.0, unit)))()


@pytest.mark.parametrize(
    ("x", "unit", "said"),
    [
        (1.0, "mm", "1000 µm per pixel, which is impossible"),
        (0.5, "thou", "12.7 µm"),
        (0.0, "µm", "impossible"),
        (-0.1, "µm", "impossible"),
        ("NaN", "µm", "not a length"),
        (0.0818, "parsec-ish", "not a length"),
    ],
)
def test_an_implausible_scale_is_said_and_left_out(tmp_path: Path, x: object, unit: str, said: str) -> None:
    stated = stated_scale(ome(tmp_path / "a", x, unit))
    assert stated.um_per_px is None
    assert said in stated.note
    assert stated.note.endswith("it is ignored.")


def test_pixels_that_are_not_square_are_said(tmp_path: Path) -> None:
    stated = stated_scale(ome(tmp_path / "a", 0.1, "µm", y=0.2))
    assert stated.um_per_px is None
    assert "not square" in stated.note


@pytest.mark.parametrize(
    ("mpp", "value", "said"),
    [
        ("0.0818", 0.0818, ""),
        ("0,0818", 0.0818, ""),
        ("0.0818 um", 0.0818, ""),
        ("81.8 nm;", 0.0818, ""),
        ("unknown", None, "MPP states unknown"),
        ("", None, "nothing"),
        ("250", None, "which is impossible for a microscope"),
    ],
)
def test_aperio_s_scale_is_read_with_point_and_comma(tmp_path: Path, mpp: str, value: float | None, said: str) -> None:
    text = f"Aperio Image Library v12\n64x48 [0,0 64x48] (16x16) JPEG/RGB Q=70|AppMag = 100|MPP = {mpp}|Left = 1"
    stated = stated_scale(tiff(tmp_path / "a.svs", description=text, metadata=None))
    assert stated.um_per_px == (None if value is None else pytest.approx(value))
    assert said in stated.note
    assert bool(said) == bool(stated.note)


@pytest.mark.parametrize(
    ("unit", "per"),
    [
        ("micron", 1 / 0.0818),
        ("um", 1 / 0.0818),
        ("\\u00B5m", 1 / 0.0818),
        ("nm", 1 / 81.8),
        ("mm", 1e3 / 0.0818),
        ("cm", 1e4 / 0.0818),
        ("inch", 25400 / 0.0818),
        ("pixel", 1.0),
    ],
)
def test_imagej_s_unit_is_read(tmp_path: Path, unit: str, per: float) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", PIXELS, imagej=True, resolution=(per, per), metadata={"unit": unit, "axes": "YXS"}
    )
    stated = stated_scale(tmp_path / "a.tif").um_per_px
    assert stated == (None if unit == "pixel" else pytest.approx(0.0818, rel=1e-4))


@pytest.mark.parametrize(
    ("dots", "unit", "value", "said"),
    [
        (1e4 / 0.0818, "CENTIMETER", 0.0818, False),
        (25400 / 0.0818, "INCH", 0.0818, False),
        (72, "INCH", None, False),
        (300, "INCH", None, False),
        (28.35, "CENTIMETER", None, False),
        (1.0, "INCH", None, False),
        (10, "CENTIMETER", None, True),
        (1e4 / 0.0818, "NONE", None, False),
    ],
)
def test_resolution_is_read_and_that_of_printers_is_not_spoken_of(
    tmp_path: Path, dots: float, unit: str, value: float | None, said: bool
) -> None:
    stated = stated_scale(tiff(tmp_path / "a.tif", resolution=(dots, dots), resolutionunit=unit))
    assert stated.um_per_px == (None if value is None else pytest.approx(value, rel=1e-4))
    assert bool(stated.note) == said


def test_png_and_jpeg_state_dots_per_inch() -> None:
    for kind, dots, value in (("PNG", 310_000, 0.0819), ("PNG", 96, None), ("JPEG", 300, None)):
        content = io.BytesIO()
        Image.fromarray(PIXELS).save(content, kind, dpi=(dots, dots))
        assert stated_scale(content).um_per_px == (None if value is None else pytest.approx(value, rel=1e-3))


def test_leica_ventana_and_philips_are_read(tmp_path: Path) -> None:
    leica = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        '<image><pixels sizeX="9" sizeY="9"/><view sizeX="90000" sizeY="1"/></image>'
        '<image><pixels sizeX="64" sizeY="48"/><view sizeX="16000" sizeY="1"/></image></scn>'
    )
    tifffile.imwrite(tmp_path / "leica.tif", PIXELS, photometric="rgb", description=leica, metadata=None)
    ventana = b'<iScan ScanRes="0.25" Magnification="40"/>'
    tiff(tmp_path / "ventana.tif", extratags=[(700, 1, len(ventana), ventana, True)], metadata=None)
    philips = '<DataObject ObjectType="DPUfsImport"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">"0.00025" "0.00025"</Attribute></DataObject>'  # noqa: E501
    tiff(tmp_path / "philips.tif", description=philips, metadata=None)
    for name in ("leica", "ventana", "philips"):
        assert stated_scale(tmp_path / f"{name}.tif").um_per_px == pytest.approx(0.25), name


def test_numbers_and_lengths() -> None:
    assert number_of("1.000,5") is None
    assert number_of("1e-1") == 0.1
    assert length_um("1", "&#181;m") == 1
    assert length_um("1", "μm") == 1


def test_a_heic_states_no_scale_and_is_read() -> None:
    pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    assert stated_scale(Path(__file__).parent / "phone.heic") == Stated()
