"""DICOM in and out, checked by pydicom and, where it is installed, by dciodvfy of dicom3tools."""

import io
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from highdicom.ann import MicroscopyBulkSimpleAnnotations
from highdicom.sr import srread
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    VLMicroscopicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from leukoscope.cli import leukoscope
from leukoscope.errors import DataError, ImageError
from leukoscope.images.read import read_image
from leukoscope.interop.dicom import DicomImage, is_dicom
from leukoscope.interop.dicom_results import BLOOD_CODES, CODES, Algorithm, DicomCell, write_annotations, write_report
from leukoscope.interop.hl7 import CellShare
from tests.fields.conftest import Painting
from tests.interop.test_hospital import beside_white_cells

PATIENT = "DOE^JANE"
ALGORITHM = Algorithm("leukoscope classical-1", "0.1.0", "lite0 1a2b3c")


def _code(value, scheme, meaning):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _common(kind, *, syntax=ExplicitVRLittleEndian):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, syntax
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = PATIENT, "4711", "19700101", "F"
    now = datetime(2020, 1, 1, 12, tzinfo=UTC)
    image.StudyDate = image.ContentDate = now.strftime("%Y%m%d")
    image.StudyTime = image.ContentTime = now.strftime("%H%M%S")
    image.AccessionNumber, image.StudyID, image.ReferringPhysicianName = "A1", "1", ""
    image.SeriesNumber = image.InstanceNumber = 1
    image.Modality = "SM" if kind == VLWholeSlideMicroscopyImageStorage else "GM"
    image.Manufacturer = image.ManufacturerModelName = image.DeviceSerialNumber = image.SoftwareVersions = "test"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.ContainerIdentifier, image.AcquisitionContextSequence = "C1", []
    image.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S1", generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence = specimen.SpecimenPreparationSequence = []
    image.IssuerOfTheContainerIdentifierSequence, image.SpecimenDescriptionSequence = [], [specimen]
    return image


def write_field(path, pixels, *, mm=None, kind=VLMicroscopicImageStorage):
    image = _common(kind)
    image.ImageType, image.PatientOrientation = ["ORIGINAL", "PRIMARY"], ["", ""]
    image.Rows, image.Columns = pixels.shape[:2]
    if mm:
        image.PixelSpacing = [mm, mm]
    image.PixelData = pixels.tobytes()
    image.save_as(path, enforce_file_format=True)
    return path


def write_slide(path, pixels, *, mm, side=128, jpeg=False):
    height, width = pixels.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    padded = np.full((rows * side, columns * side, 3), 230, np.uint8)
    padded[:height, :width] = pixels
    frames = [
        padded[y : y + side, x : x + side] for y in range(0, rows * side, side) for x in range(0, columns * side, side)
    ]
    image = _common(VLWholeSlideMicroscopyImageStorage, syntax=JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian)
    image.ImageType, image.FrameOfReferenceUID = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], generate_uid()
    image.PositionReferenceIndicator, image.DimensionOrganizationType = "SLIDE_CORNER", "TILED_FULL"
    image.Rows = image.Columns = side
    image.NumberOfFrames, image.TotalPixelMatrixFocalPlanes, image.NumberOfOpticalPaths = len(frames), 1, 1
    image.TotalPixelMatrixRows, image.TotalPixelMatrixColumns = height, width
    image.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin, measures, shared, path_item = Dataset(), Dataset(), Dataset(), Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20, 40
    measures.PixelSpacing, measures.SliceThickness = [mm, mm], 0.001
    path_item.OpticalPathIdentifier = "1"
    path_item.IlluminationTypeCodeSequence = [_code("111744", "DCM", "Brightfield illumination")]
    image.TotalPixelMatrixOriginSequence, image.OpticalPathSequence = [origin], [path_item]
    shared.PixelMeasuresSequence = [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    image.ImagedVolumeWidth, image.ImagedVolumeHeight, image.ImagedVolumeDepth = width * mm, height * mm, 0.001
    image.PixelData = (
        encapsulate([_jpeg(frame) for frame in frames]) if jpeg else b"".join(map(np.ndarray.tobytes, frames))
    )
    if jpeg:
        image.PhotometricInterpretation = "YBR_FULL_422"
    image["PixelData"].VR = "OB"
    image.save_as(path, enforce_file_format=True)
    return path


def _jpeg(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def pixels():
    rng = np.random.default_rng(5)
    return Painting(64, 48).white_cell(14, 14).white_cell(44, 30).red_cells(rng, count=14).taken(rng)


@pytest.fixture
def cells():
    turn = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    circle = np.stack([140 + 60 * np.cos(turn), 130 + 60 * np.sin(turn)], axis=1)
    return [
        DicomCell(circle, "Cell 1", "blast", 113.1, 0.93),
        DicomCell(circle + 200, "Cell 2", "normal", 113.1, 0.07),
        DicomCell(circle + 90, "Cell 3", "blast", 113.1, 0.81),
    ]


def test_a_single_field_is_read_with_its_scale(pixels, tmp_path):
    image = DicomImage(write_field(tmp_path / "field.dcm", pixels, mm=1e-4))
    assert image.size == (640, 480)
    assert image.um_per_px == pytest.approx(0.1)
    assert np.array_equal(image.read(100, 50, 300, 200), pixels[50:250, 100:400])


@pytest.mark.parametrize("jpeg", [False, True], ids=["plain", "jpeg"])
def test_a_whole_slide_is_read_by_rectangles_across_its_frames(pixels, tmp_path, jpeg):
    image = DicomImage(write_slide(tmp_path / "slide.dcm", pixels, mm=1e-4, jpeg=jpeg))
    assert image.size == (640, 480)
    assert image.um_per_px == pytest.approx(0.1)
    difference = image.read(100, 50, 300, 200).astype(int) - pixels[50:250, 100:400]
    assert np.abs(difference).mean() < (2 if jpeg else 1e-9)
    assert image.thumbnail(320).shape == (240, 320, 3)


def test_what_is_no_microscope_image_is_named(pixels, tmp_path):
    with pytest.raises(ImageError, match="CT Image Storage"):
        DicomImage(write_field(tmp_path / "ct.dcm", pixels, kind=CTImageStorage))


def test_dicom_without_pixels_is_named(pixels, tmp_path):
    path = write_field(tmp_path / "field.dcm", pixels)
    image = pydicom.dcmread(path)
    del image.PixelData
    image.save_as(path)
    with pytest.raises(ImageError, match="without pixels"):
        DicomImage(path)


def test_dicom_is_known_by_its_letters_not_its_name(pixels, tmp_path):
    assert is_dicom(write_field(tmp_path / "IM00001", pixels))
    (tmp_path / "text.dcm").write_text("no")
    assert not is_dicom(tmp_path / "text.dcm")


def test_a_report_counts_the_cells_and_keeps_the_sources_identity(pixels, cells, tmp_path):
    image = DicomImage(write_field(tmp_path / "field.dcm", pixels))
    source = image.identity()
    write_report(tmp_path / "report.dcm", source, cells, algorithm=ALGORITHM)
    report = srread(tmp_path / "report.dcm")
    assert report.StudyInstanceUID == source.StudyInstanceUID
    assert (str(report.PatientName), report.PatientID) == (PATIENT, "4711")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    counts = [
        (group.finding_type.meaning, group.get_measurements()[0].value)
        for group in report.content.get_image_measurement_groups()
    ]
    assert counts == [("Classified as leukemic blast", 2), ("Classified as normal white cell", 1)]
    regions = report.content.get_planar_roi_measurement_groups()
    assert len(regions) == 3
    assert "lite0 1a2b3c" in str(pydicom.dcmread(tmp_path / "report.dcm"))


def test_a_report_carries_the_differential_with_coded_kinds(pixels, cells, tmp_path):
    source = DicomImage(write_field(tmp_path / "field.dcm", pixels)).identity()
    told = [CellShare("neutrophil", 30, 60.0, 46.2, 72.4), CellShare("monocyte", 20, 40.0, 27.6, 53.8)]
    typed = [*cells, DicomCell(cells[0].outline + 40, "Cell 4", "eosinophil", 113.1)]
    typed.append(DicomCell(cells[0].outline + 50, "Cell 5", "platelet", 20.1))
    write_report(
        tmp_path / "report.dcm", source, typed, algorithm=ALGORITHM, differential=[*told, CellShare("platelet", 3)]
    )
    report = srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    groups = {group.tracking_identifier: group for group in report}
    neutrophils = groups["differential: neutrophil"]
    assert neutrophils.finding_type.scheme_designator == "99LEUKOSCOPE"
    assert [each.value for each in neutrophils.get_measurements()] == [30, 60.0, 46.2, 72.4]
    monocytes = groups["differential: monocyte"].finding_type
    assert (monocytes.value, monocytes.scheme_designator, monocytes.meaning) == ("55918008", "SCT", "Monocyte")
    assert [each.value for each in groups["differential: platelet"].get_measurements()] == [3]
    assert groups["eosinophil count"].finding_type.value == "14793004"
    assert groups["platelet found as a white cell count"].finding_type.value == "PLATELET_FOUND"


def test_every_code_fits_dicom_and_no_two_kinds_share_one():
    numbers = {(f"{code}_H", "99LEUKOSCOPE", meaning) for _, code, meaning in BLOOD_CODES.values()}
    codes = [*CODES.values(), *numbers]
    assert len({(code, scheme) for code, scheme, _ in codes}) == len(codes)
    assert all(len(code) <= 16 and len(scheme) <= 16 and len(meaning) <= 64 for code, scheme, meaning in codes)


def test_annotations_hold_every_outline_and_its_probability(pixels, cells, tmp_path):
    image = DicomImage(write_slide(tmp_path / "slide.dcm", pixels, mm=1e-4))
    write_annotations(tmp_path / "outlines.dcm", image.identity(), cells, algorithm=ALGORITHM)
    read = MicroscopyBulkSimpleAnnotations.from_dataset(pydicom.dcmread(tmp_path / "outlines.dcm"))
    blasts, normal = read.get_annotation_groups()
    assert (blasts.label, normal.label) == ("blast", "normal")
    outlines = blasts.get_graphic_data(coordinate_type="2D")
    assert np.allclose(outlines[0], cells[0].outline, atol=1e-3)
    _, values, _ = blasts.get_measurements()
    assert values[:, 1] == pytest.approx([0.93, 0.81])
    assert (
        read.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        == image.identity().SOPInstanceUID
    )


def test_a_camera_field_has_no_annotations_and_says_where_the_outlines_are(pixels, cells, tmp_path):
    source = DicomImage(write_field(tmp_path / "field.dcm", pixels)).identity()
    with pytest.raises(DataError, match="report"):
        write_annotations(tmp_path / "outlines.dcm", source, cells, algorithm=ALGORITHM)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(pixels, cells, tmp_path):
    slide = DicomImage(write_slide(tmp_path / "slide.dcm", pixels, mm=1e-4)).identity()
    write_annotations(tmp_path / "outlines.dcm", slide, cells, algorithm=ALGORITHM)
    told = [CellShare("neutrophil", 30, 60.0, 46.2, 72.4), CellShare("platelet", 3)]
    blood = beside_white_cells()
    write_report(tmp_path / "report.dcm", slide, cells, algorithm=ALGORITHM, differential=told, blood=blood)
    groups = srread(tmp_path / "report.dcm").content.get_image_measurement_groups()
    found = [m.value for group in groups if "beside" in group.tracking_identifier for m in group.get_measurements()]
    given = [end for row in blood for end in (row.value, row.low, row.high) if end is not None]
    assert sorted(found) == sorted(given)
    for name in ("outlines.dcm", "report.dcm"):
        found = subprocess.run(["dciodvfy", tmp_path / name], capture_output=True, text=True, check=False)
        errors = [line for line in found.stderr.splitlines() if line.startswith("Error")]
        # The release of 2022 asks for the absence of this attribute, and complains although it is absent.
        assert [line for line in errors if "CommonZCoordinateValue" not in line] == []


def test_the_command_reads_dicom_and_writes_dicom_and_no_patient_elsewhere(pixels, tmp_path):
    (tmp_path / "in").mkdir()
    write_field(tmp_path / "in" / "field.dcm", pixels, mm=1e-4)
    write_slide(tmp_path / "in" / "slide.dcm", pixels, mm=1e-4)
    out = tmp_path / "out"
    result = CliRunner().invoke(leukoscope, ["cells", str(tmp_path / "in"), "-o", str(out), "--to", "dicom"])
    assert result.exit_code == 0, result.output
    assert "4 white cells in 2 of 2 fields" in result.output
    assert sorted(path.name for path in (out / "dicom").iterdir()) == [
        "field-report.dcm",
        "slide-outlines.dcm",
        "slide-report.dcm",
    ]
    for path in out.rglob("*"):
        if path.is_file() and path.parent.name != "dicom":
            assert b"DOE" not in path.read_bytes()


def test_dicom_results_of_other_sources_are_refused(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "field.png")
    result = CliRunner().invoke(
        leukoscope, ["cells", str(tmp_path / "field.png"), "-o", str(tmp_path), "--to", "dicom"]
    )
    assert "needs DICOM sources" in str(result.exception)


def test_no_library_writes_to_the_terminal_about_a_damaged_object(pixels, tmp_path):
    path = write_slide(tmp_path / "slide.dcm", pixels, mm=1e-4, jpeg=True)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) - 300, 211):
        content[place] ^= 0x5A
    path.write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from leukoscope.errors import ImageError\n"
        "from leukoscope.interop.dicom import DicomImage\n"
        "try:\n    image = DicomImage(Path(sys.argv[1])); image.read(0, 0, *image.size); print('read')\n"
        "except ImageError as refused:\n    print(refused)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr == ""


def test_several_frames_are_refused_with_their_number(pixels, tmp_path):
    image = pydicom.dcmread(write_field(tmp_path / "field.dcm", pixels))
    image.NumberOfFrames, image.PixelData = 3, pixels.tobytes() * 3
    image.save_as(tmp_path / "three.dcm")
    with pytest.raises(ImageError, match="3 frames"):
        DicomImage(tmp_path / "three.dcm")


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
def test_depth_of_dicom_is_the_same_as_with_eight_bits(pixels, tmp_path, stored):
    pixels = pixels.copy()
    pixels[0, 0] = 255
    image = pydicom.dcmread(write_field(tmp_path / "field.dcm", pixels))
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, stored, stored - 1
    image.PixelData = (pixels.astype(np.uint32) * (2**stored - 1) // 255).astype("<u2").tobytes()
    image.save_as(tmp_path / "deep.dcm")
    assert np.array_equal(DicomImage(tmp_path / "deep.dcm").read(0, 0, 640, 480), pixels)


def recoded(pixels, name):
    """Return a field stored in one of the ways that scanners and archives use."""
    image = _common(VLMicroscopicImageStorage, syntax=SYNTAXES.get(name, ExplicitVRLittleEndian))
    image.ImageType, image.PatientOrientation = ["ORIGINAL", "PRIMARY"], ["", ""]
    image.Rows, image.Columns = pixels.shape[:2]
    image.PixelData = pixels.tobytes()
    ycc = np.clip(pixels @ TO_YCC.T + (0, 128, 128), 0, 255).round().astype(np.uint8)
    if name in ("rle", "JPEG-LS"):
        image.compress(RLELossless if name == "rle" else JPEGLSLossless)
    elif name == "planes":
        image.PlanarConfiguration, image.PixelData = 1, np.moveaxis(pixels, -1, 0).tobytes()
    elif name == "YBR_FULL":
        image.PhotometricInterpretation, image.PixelData = name, ycc.tobytes()
    elif name == "YBR_FULL_422":
        pairs = ycc.reshape(len(ycc), -1, 2, 3)
        shared = pairs[..., 1:].mean(2).round().astype(np.uint8)
        image.PhotometricInterpretation = name
        image.PixelData = np.concatenate([pairs[..., 0], shared], axis=2).tobytes()
    elif name != "deflated":
        content, how = io.BytesIO(), CODINGS[name]
        Image.fromarray(pixels).save(content, how["kind"], **how["options"])
        image.PhotometricInterpretation = how["stated"]
        image.PixelData = encapsulate([content.getvalue()])
        image["PixelData"].VR = "OB"
    return image


TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])  # DICOM PS3.3 C.7.6.3
SYNTAXES = {
    "deflated": DeflatedExplicitVRLittleEndian,
    "JPEG": JPEGBaseline8Bit,
    "JPEG of RGB": JPEGBaseline8Bit,
    "JPEG that says RGB": JPEGBaseline8Bit,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG 2000, lossy": JPEG2000,
}
_LOSSY = {"quality": 98, "subsampling": 0}
CODINGS = {
    "JPEG": {"kind": "JPEG", "stated": "YBR_FULL_422", "options": _LOSSY},
    "JPEG of RGB": {"kind": "JPEG", "stated": "RGB", "options": {**_LOSSY, "keep_rgb": True}},
    "JPEG that says RGB": {"kind": "JPEG", "stated": "RGB", "options": _LOSSY},  # and holds YCbCr, as some scanners do
    "JPEG 2000": {"kind": "JPEG2000", "stated": "YBR_RCT", "options": {"no_jp2": True, "mct": 1}},
    "JPEG 2000, lossy": {
        "kind": "JPEG2000",
        "stated": "YBR_ICT",
        "options": {"irreversible": True, "no_jp2": True, "mct": 1, "quality_layers": [3]},
    },
}
FURTHEST = {"YBR_FULL": 3, "YBR_FULL_422": 60, "JPEG": 20, "JPEG of RGB": 20, "JPEG that says RGB": 20}


@pytest.mark.parametrize("name", ["rle", "JPEG-LS", "planes", "YBR_FULL", "YBR_FULL_422", *SYNTAXES])
def test_every_coding_of_one_field_is_that_field(pixels, tmp_path, name):
    recoded(pixels, name).save_as(tmp_path / "field.dcm", enforce_file_format=True)
    read = DicomImage(tmp_path / "field.dcm").read(0, 0, 640, 480).astype(int)
    assert abs(read - pixels).max() <= FURTHEST.get(name, 8 if "lossy" in name else 0)
    assert abs(read.mean((0, 1)) - pixels.mean((0, 1))).max() < 0.5  # no channel is another, or a shade darker


def test_a_colour_profile_of_dicom_is_applied(pixels, tmp_path):
    profile = (Path(__file__).parents[1] / "images" / "display-p3-like.icc").read_bytes()
    image = pydicom.dcmread(write_field(tmp_path / "field.dcm", pixels))
    image.ICCProfile = profile
    image.save_as(tmp_path / "p3.dcm")
    Image.fromarray(pixels).save(tmp_path / "p3.png", icc_profile=profile)
    assert np.array_equal(DicomImage(tmp_path / "p3.dcm").read(0, 0, 640, 480), read_image(tmp_path / "p3.png"))


@pytest.mark.parametrize("name", ["TotalPixelMatrixRows", "TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths"])
def test_a_slide_whose_frames_cannot_cover_it_is_refused_at_once(pixels, tmp_path, name):
    image = pydicom.dcmread(write_slide(tmp_path / "slide.dcm", pixels, mm=1e-4))
    setattr(image, name, 400_000_000)
    image.save_as(tmp_path / "huge.dcm")
    with pytest.raises(ImageError, match="frames cannot make"):
        DicomImage(tmp_path / "huge.dcm")


def _changed(path, **values):
    image = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(image, name, value)
    image.save_as(path)
    return path


@pytest.mark.parametrize(
    ("high", "brought"),
    [(15, lambda values: values * 16), (11, lambda values: values | 0xA000)],
    ids=["pushed to the left", "with an overlay above"],
)
def test_only_the_bits_that_hold_the_picture_are_read(pixels, tmp_path, high, brought):
    twelve = (pixels.astype(np.uint32) * 4095 // 255).astype(np.uint16)
    path = write_field(tmp_path / "a.dcm", pixels, mm=1e-4)
    more = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": high}
    _changed(path, PixelData=brought(twelve).astype(np.uint16).tobytes(), **more)
    image = DicomImage(path)
    assert np.array_equal(image.read(0, 0, *image.size), pixels)
    assert image.notes[0] == "12 bits per channel, as the file states"


def test_seven_bits_are_brought_to_eight(pixels, tmp_path):
    path = _changed(write_field(tmp_path / "a.dcm", pixels // 2), BitsStored=7, HighBit=6)
    image = DicomImage(path)
    assert np.array_equal(image.read(0, 0, *image.size), np.floor((pixels // 2) / 127 * 255 + 0.5))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"PhotometricInterpretation": "ARGB"}, "not supported .ARGB"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_422"}, "interpretation that is not supported"),
        ({"PixelRepresentation": 1}, "signed values"),
        ({"BitsStored": 9}, "states 9 of 8 bits"),
        ({"HighBit": 99}, "up to bit 99, which is invalid"),
        ({"ColorSpace": "ROMMRGB"}, "names a colour space .ROMMRGB. but lacks its profile"),
    ],
)
def test_what_merely_cannot_be_decoded_is_not_called_damaged(pixels, tmp_path, values, said):
    path = _changed(write_field(tmp_path / "a b.dcm", pixels), **values)
    with pytest.raises(ImageError, match=said) as refused:
        DicomImage(path).read(0, 0, 20, 20)
    assert "damaged" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_codec_without_decoder_is_named(pixels, tmp_path):
    path = write_field(tmp_path / "a b.dcm", pixels)
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # HTJ2K
    image.PixelData = encapsulate([b"\0" * 100])
    image["PixelData"].VR = "OB"
    image.save_as(path)
    with pytest.raises(ImageError, match=r"a b\.dcm is compressed as High-Throughput JPEG 2000"):
        DicomImage(path).read(0, 0, 20, 20)


def test_colours_named_without_a_profile_are_obeyed(pixels, tmp_path):
    from tests.images.test_stated_colour import ADOBE, brought

    image = DicomImage(_changed(write_field(tmp_path / "a.dcm", pixels), ColorSpace="ADOBERGB"))
    assert np.abs(image.read(0, 0, *image.size) - brought(pixels, ADOBE, 2.2)).max() < 2.5
    assert image.notes == ("colours converted from Adobe RGB to sRGB",)


def test_big_endian_of_sixteen_bits_is_its_twin(pixels, tmp_path):
    image = pydicom.dcmread(write_field(tmp_path / "a.dcm", pixels))
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelData = (pixels.astype(np.uint16) * 257).astype(">u2").tobytes()
    image["PixelData"].VR = "OW"
    pydicom.dcmwrite(tmp_path / "b", image, implicit_vr=False, little_endian=False, force_encoding=True)
    assert is_dicom(tmp_path / "b")
    read = DicomImage(tmp_path / "b")
    assert np.array_equal(read.read(0, 0, *read.size), pixels)


def test_an_unknown_way_of_coding_is_refused(pixels, tmp_path):
    path = write_field(tmp_path / "a.dcm", pixels)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77", 1))
    with pytest.raises(ImageError, match="unknown transfer syntax"):
        DicomImage(path)
