"""Files as cameras, phones, scanners, hospitals and spreadsheets write them, among good ones: each gets its answer."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from leukoscope.bundle.manifest import Bundle
from leukoscope.data.index import index, picture_kind
from leukoscope.fields.slides import TiffSlide
from leukoscope.files import read_csv
from leukoscope.images.read import read_image, read_picture
from leukoscope.images.scale import stated_scale
from leukoscope.inference.rejection import fit_quality, measure
from tests.cli.conftest import run
from tests.fields.conftest import Painting
from tests.inference.conftest import changed
from tests.interop.test_dicom import write_field

SHARED = Path(os.environ.get("LEUKOSCOPE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
P3 = (Path(__file__).parents[1] / "images" / "display-p3-like.icc").read_bytes()


@pytest.fixture(scope="module")
def field() -> NDArray[np.uint8]:
    """A field of BCCD where it is at hand, else a synthetic one."""
    real = SHARED / "data" / "bccd" / "JPEGImages" / "BloodImage_00038.jpg"
    if real.exists():
        return np.asarray(Image.open(real).convert("RGB"))
    rng = np.random.default_rng(7)
    return Painting(64, 48).white_cell(30, 20).red_cells(rng, count=14).taken(rng)


def answers(table: Path) -> dict[str, list[tuple[str, ...]]]:
    """Return what a table says of the cells of each file, by the file's name."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for row in read_csv(table):
        said = tuple(row[name] for name in row if name not in ("path", "subject"))
        found.setdefault(Path(row["path"]).name, []).append(said)
    return found


def deep(field: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    return (field.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


def test_depth_planes_and_codecs_change_no_answer(field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path) -> None:
    import imagecodecs

    folder = tmp_path / "fields"
    folder.mkdir()
    Image.fromarray(field).save(folder / "twin.png")
    for bits in (10, 12, 14, 16):
        (folder / f"bits{bits}.png").write_bytes(imagecodecs.png_encode(deep(field, bits)))
        tifffile.imwrite(folder / f"bits{bits}.tif", deep(field, bits), photometric="rgb")
    planes = np.moveaxis(deep(field, 16), -1, 0)
    for name, codec in (("planar", None), ("planar-lzw", "lzw")):
        tifffile.imwrite(folder / f"{name}.tif", planes, photometric="rgb", planarconfig="separate", compression=codec)
    for codec in ("jpeg2000", 33005, "jpegxl", "zstd"):
        for suffix in ("tif", "svs"):
            path = folder / f"{codec}.{suffix}"
            tifffile.imwrite(path, field, photometric="rgb", tile=(256, 256), compression=codec)
    tifffile.imwrite(folder / "float.tif", field.astype(np.float32) / 255, photometric="rgb")
    result = run("predict", folder, "--model", lenient.path, "--each-scale", "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    said = answers(tmp_path / "out.csv")
    assert len(said) == 20
    assert all(cells == said["twin.png"] for cells in said.values())
    assert "12 bits per channel, estimated from the brightest pixel" in result.output


def test_a_phones_colours_change_no_decision(field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path) -> None:
    import io

    folder = tmp_path / "fields"
    folder.mkdir()
    srgb, p3 = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(P3))
    there = ImageCms.profileToProfile(Image.fromarray(field), srgb, p3, renderingIntent=1)
    there.save(folder / "phone.png", icc_profile=P3)
    ImageCms.profileToProfile(there, p3, srgb, renderingIntent=1).save(folder / "control.png")
    run("predict", folder, "--model", lenient.path, "--each-scale", "-o", tmp_path / "out.csv")
    said = answers(tmp_path / "out.csv")
    assert said["phone.png"] == said["control.png"]


def test_one_scale_is_read_as_a_field_and_as_a_slide(field: NDArray[np.uint8], tmp_path: Path) -> None:
    aperio = "Aperio Image Library v12\n640x480 [0,0 640x480] (256x256) JPEG/RGB Q=70|AppMag = 100|MPP = "
    written = {
        "um.ome.tif": {"metadata": {"axes": "YXS", "PhysicalSizeX": 0.0818, "PhysicalSizeXUnit": "µm"}},
        "nm.ome.tif": {"metadata": {"axes": "YXS", "PhysicalSizeX": 81.8, "PhysicalSizeXUnit": "nm"}},
        "m.ome.tif": {"metadata": {"axes": "YXS", "PhysicalSizeX": 0.0818e-6, "PhysicalSizeXUnit": "m"}},
        "angstrom.ome.tif": {"metadata": {"axes": "YXS", "PhysicalSizeX": 818, "PhysicalSizeXUnit": "Å"}},
        "point.svs": {"description": aperio + "0.0818", "metadata": None},
        "comma.svs": {"description": aperio + "0,0818", "metadata": None},
        "pixel.ome.tif": {"metadata": {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"}},
        "unknown.svs": {"description": aperio + "unknown", "metadata": None},
    }
    for name, more in written.items():
        path = tmp_path / name
        tifffile.imwrite(path, field, photometric="rgb", tile=(256, 256), **more)
        want = None if name in ("pixel.ome.tif", "unknown.svs") else pytest.approx(0.0818)
        assert stated_scale(path).um_per_px == TiffSlide(path).um_per_px == want, name


@pytest.fixture
def mixed(field: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Two good fields, and between them files of every kind that once ended the batch."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        Image.fromarray(field).save(folder / name)
    grey = np.tile(field[..., 1], (9, 12))  # 33 megapixels: as a slide
    tifffile.imwrite(folder / "mask.tif", grey, photometric="minisblack", tile=(512, 512), compression="zlib")
    tifffile.imwrite(folder / "pages.tif", np.stack([field] * 3), photometric="rgb")
    (folder / "text.svs").write_text("no slide")
    damaged = SHARED / "cases" / "files"
    for path in damaged.glob("*.*") if damaged.is_dir() else ():
        if path.suffix != ".csv":
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("command", ["predict", "cells"])
def test_a_bad_file_never_costs_a_good_one_its_answer(
    command: str, mixed: Path, lenient: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / ("out.csv" if command == "predict" else "found")
    more = ("--model", lenient.path) if command == "predict" else ()
    result = run(command, mixed, *more, "-o", out)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for said in ("mask.tif", "pages.tif", "3 pages", "text.svs"):
        assert said in result.stderr
    if command == "predict":
        said = answers(out)
        assert said["a.png"] == said["z.png"]
        assert {row[-1] for row in said["a.png"]}
        assert {path.name for path in mixed.iterdir()} <= {*said, *(p.name for p in mixed.glob("*bad*"))}
    else:
        assert {row["field"] for row in read_csv(out / "fields.csv")} == {path.name for path in mixed.iterdir()}
        assert [row["cells"] for row in read_csv(out / "fields.csv") if row["field"] in ("a.png", "z.png")] != [
            "0",
            "0",
        ]


def test_what_nobody_foresaw_is_one_row_with_a_log(
    cells: Path, lenient: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leukoscope.inference import predictor

    prepare = predictor.prepare_crop

    def fails(image: NDArray[np.uint8], settings: object) -> object:
        if 77 in image[[0, 0, -1, -1], [0, -1, 0, -1], 0]:  # the picture has been turned
            raise ZeroDivisionError("nobody foresaw this")
        return prepare(image, settings)

    odd = np.asarray(Image.open(cells / "cell-1.png")).copy()
    odd[0, 0] = 77
    Image.fromarray(odd).save(cells / "odd.png")
    monkeypatch.setattr(predictor, "prepare_crop", fails)
    monkeypatch.setenv("LEUKOSCOPE_LOG", str(tmp_path / "log" / "errors.log"))
    result = run("predict", cells, "--model", lenient.path, "--kind", "crops", "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "out.csv")}
    assert len(rows) == 4
    assert rows["odd.png"]["decision"] == "refused"
    assert "Please report this" in rows["odd.png"]["reason"]
    assert str(tmp_path / "log" / "errors.log") in rows["odd.png"]["reason"]
    assert "ZeroDivisionError: nobody foresaw this" in (tmp_path / "log" / "errors.log").read_text()


def test_dicom_is_found_whatever_its_name(field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "cd"
    folder.mkdir()
    for name in ("IM000001", "IM000002", "c.dicom", "d.IMA", "e.dcm"):
        write_field(folder / name, field, mm=8.18e-5)
    bare = pydicom.dcmread(folder / "e.dcm")
    del bare.file_meta
    bare.preamble = None
    bare.save_as(folder / "bare", implicit_vr=True, little_endian=True, enforce_file_format=False)
    result = run("predict", folder, "--model", lenient.path, "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    said = answers(tmp_path / "out.csv")
    assert len(said) == 6
    assert all(cells == said["e.dcm"] for cells in said.values())


@pytest.mark.parametrize("mm", [1, 0.2645833, 0.0818, 0])
def test_an_impossible_spacing_is_said_and_measured_instead(
    mm: float, field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path
) -> None:
    write_field(tmp_path / "wrong.dcm", field, mm=mm or 1e-9)
    write_field(tmp_path / "none.dcm", field)
    told = json.loads(run("predict", *tmp_path.glob("*.dcm"), "--model", lenient.path, "--json").stdout)
    scales = {Path(row["field"]).stem: (row["um_per_px"], row["problem"]) for row in told["fields"]}
    assert scales["wrong"] == scales["none"]
    assert any("PixelSpacing states" in note and "ignored" in note for note in told["changes"])


@pytest.mark.parametrize("command", ["predict", "cells"])
def test_a_long_name_is_shortened_for_its_results(
    command: str, field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    Image.fromarray(field).save(folder / "a.png")
    shutil.copy(folder / "a.png", folder / ("涂片" * 40 + ".png"))
    more = ("--to", "csv", "--model", lenient.path) if command == "predict" else ()
    result = run(command, folder, *more, "--to", "qupath", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = sorted((tmp_path / "out" / "qupath").iterdir(), key=lambda path: len(path.name))
    assert written[0].name == "a.geojson"
    assert len(written) == 2
    assert written[0].stat().st_size == written[1].stat().st_size


@pytest.mark.parametrize("encoding", ["gbk", "cp932", "cp1252", "cp1251", "ascii"])
def test_a_terminal_without_a_sign_costs_nothing(
    encoding: str, field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path
) -> None:
    name = tmp_path / "Prüfung-涂片.png"
    Image.fromarray(field).save(name)
    out = tmp_path / "out.csv"
    call = [sys.executable, "-m", "leukoscope", "predict", name, "--model", lenient.path]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    table = subprocess.run([*call, "-o", out], capture_output=True, env=environment, check=False)
    assert table.returncode == 0, table.stderr
    assert b"Traceback" not in table.stderr
    assert len(answers(out)) == 1
    told = subprocess.run([*call, "--json"], capture_output=True, env=environment, check=False)
    assert json.loads(told.stdout.decode(encoding))["fields"][0]["field"] == str(name)


@pytest.fixture
def tables(cells: Path) -> dict[str, Path]:
    """One table of three cells in many spellings."""
    names = sorted(path.name for path in cells.glob("*.png"))
    rows = list(zip(names, ("all", "hem", "all"), ("1", "H2", "3"), strict=True))

    def text(line: str, head: str = "path,label,subject") -> str:
        return "\n".join([head, *(line.format(*row) for row in rows)]) + "\n"

    written = {
        "plain": text("{0},{1},{2}"),
        "spaced": text("{0}, {1}, {2}", "path, label, subject"),
        "capital": text("{0},{1},{2}", "path,Label,Subject"),
        "windows": text("..\\cells\\{0},{1},{2}"),
        "drive": text("C:\\Users\\me\\{0},{1},{2}"),
        "semicolon": text("{0};{1};{2}", "path;label;subject"),
        "sep": "sep=;\r\n" + text("{0};{1};{2}", "path;label;subject"),
        "empty-rows": text("{0},{1},{2}") + ",,\n,,\n",
        "capital-labels": text("{0},{1},{2}").replace(",all,3", ",ALL,3"),
    }
    for name, content in written.items():
        (cells / f"{name}.csv").write_text(content, encoding="utf-8")
    (cells / "utf-16.csv").write_text(text("{0}\t{1}\t{2}", "path\tlabel\tsubject"), encoding="utf-16")
    return {name: cells / f"{name}.csv" for name in (*written, "utf-16")}


def test_every_spelling_of_a_table_is_indexed_and_answered_the_same(
    tables: dict[str, Path], lenient: Bundle, tmp_path: Path
) -> None:
    indexed = {name: index(path) for name, path in tables.items()}
    said = {}
    for name, path in tables.items():
        rows = [(cell.name, cell.label, cell.subject) for cell in indexed[name].cells]
        plain = [(cell.name, cell.label, cell.subject) for cell in indexed["plain"].cells]
        assert rows == plain, name
        result = run("predict", path, "--model", lenient.path, "--kind", "crops", "-o", tmp_path / f"{name}.csv")
        assert result.exit_code == 0, (name, result.output)
        said[name] = [
            (Path(row["path"]).name, row["subject"], row["prob_all"]) for row in read_csv(tmp_path / f"{name}.csv")
        ]
    assert all(rows == said["plain"] for rows in said.values())
    assert "ALL is read as all." in indexed["capital-labels"].notes


def test_a_workbook_is_refused_by_name(cells: Path, lenient: Bundle) -> None:
    (cells / "cells.xlsx").write_bytes(b"PK\x03\x04" + bytes(99))
    result = run("predict", cells / "cells.xlsx", "--model", lenient.path)
    assert "workbook" in str(result.exception)
    assert "CSV UTF-8" in str(result.exception)


def test_a_composed_name_finds_a_decomposed_file(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    shutil.copy(cells / "cell-1.png", cells / unicodedata.normalize("NFD", "Müller_1.png"))
    table = cells / "t.csv"
    table.write_text(f"path,label,subject\n{unicodedata.normalize('NFC', 'Müller_1.png')},all,1\n", encoding="utf-8")
    assert len(index(table).cells) == 1
    result = run("predict", table, "--model", lenient.path, "--kind", "crops", "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output


def test_a_missing_file_of_a_table_is_one_refused_row(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    table = cells / "t.csv"
    table.write_text("path,label,subject\ncell-1.png,all,1\ngone.png,all,2\nD:\\x\\lost.png,hem,3\n", encoding="utf-8")
    result = run("data", "index", table, "-o", tmp_path / "index.csv")
    assert result.exit_code == 1
    assert "gone.png does not exist" in result.stderr
    assert "path of another computer" in result.stderr
    assert len(read_csv(tmp_path / "index.csv")) == 1
    result = run("predict", table, "--model", lenient.path, "--kind", "crops", "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert [row["decision"] == "refused" for row in read_csv(tmp_path / "out.csv")] == [False, True, True]


def test_predict_reads_the_folders_that_run_reads(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for number in range(12):
        kind = ("healthy", "leukemic")[number % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for cell in (1, 2):
            shutil.copy(cells / f"cell-{cell}.png", folder / kind / f"P{number:02d}_{cell}.png")
    result = run("predict", folder, "--model", lenient.path, "--kind", "crops", "-o", tmp_path / "out.csv")
    subjects = {row["subject"] for row in read_csv(tmp_path / "out.csv")}
    assert subjects == {cell.subject for cell in index(folder).cells} == {f"P{number:02d}" for number in range(12)}
    assert "healthy, leukemic as classes, 12 subjects" in result.output


def test_a_bundle_that_learned_from_whole_pictures_is_asked_about_whole_pictures(
    field: NDArray[np.uint8], lenient: Bundle, strict: Bundle, cells: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "fields"
    for number in range(24):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        part = field[number : number + 300, number : number + 300]
        Image.fromarray(part).save(folder / "ab"[number % 2] / f"P{number % 6}_{number}.png")
    indexed = index(folder)
    assert picture_kind(indexed.cells) == "fields"
    assert picture_kind([replace(indexed.cells[0], path=path) for path in cells.glob("*.png")]) == "cells"
    assert "not single cells cut out on black" in " ".join(indexed.notes)
    limits = fit_quality([measure(read_image(cell.path)) for cell in indexed.cells])
    bundle = changed(lenient, tmp_path / "bundle", pictures="fields", quality=limits)
    told = json.loads(run("predict", folder, cells, "--model", bundle.path, "--json").stdout)
    own = [cell for cell in told["cells"] if "fields" in Path(cell["path"]).parts]
    assert len(own) == 24
    assert all(cell["probabilities"] for cell in own)
    assert all("trained on uncropped pictures" in cell["reason"] for cell in told["cells"] if cell not in own)
    assert [row for row in told["fields"] if row["problem"] == ""] == []


def test_a_wrong_scale_is_not_called_a_blur(field: NDArray[np.uint8], lenient: Bundle, tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "one.ome.tif", field, photometric="rgb", metadata=metadata)
    result = run("predict", tmp_path / "one.ome.tif", "--model", lenient.path)
    assert "out of focus" not in result.output
    assert "the file states 1 µm per pixel, but the red cells show about 0.0" in " ".join(result.output.split())
    assert result.exit_code == 1


def test_what_was_done_to_pictures_is_counted_where_they_are_indexed_and_trained_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(12):
        cell = cell_on_black(number)
        path = tmp_path / "cells" / ("all" if number % 2 else "hem") / f"P{number}_1"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 3:
            Image.fromarray(cell).save(path.with_suffix(".png"), icc_profile=P3)
        elif number < 5:
            Image.fromarray(cell).save(path.with_suffix(".jpg"), exif=exif, quality=95)
        elif number == 5:
            tifffile.imwrite(path.with_suffix(".tif"), deep(cell, 12), photometric="rgb")
        else:
            Image.fromarray(cell).save(path.with_suffix(".png"))
    profile = "".join(read_picture(tmp_path / "cells" / "hem" / "P0_1.png").notes)
    want = {
        profile: 3,
        "turned upright (orientation 6)": 2,
        "12 bits per channel, estimated from the brightest pixel": 1,
    }
    lines = [f"{number} file{'s' * (number > 1)}: {note}" for note, number in want.items()]
    table = tmp_path / "table" / "cells.csv"
    table.parent.mkdir()
    indexed = run("data", "index", tmp_path / "cells", "-o", table)
    audited = run("data", "audit", table, "-o", tmp_path / "table" / "audit.json")
    ran = run("run", tmp_path / "cells", "-o", tmp_path / "run", "--until", "audit")
    for result in (indexed, audited, ran):
        assert result.exit_code == 0, result.output
        told = [line for line in result.output.splitlines() if " file" in line]
        assert [line[-len(want) :] for line, want in zip(told, lines, strict=True)] == lines
    for path in (tmp_path / "table" / "audit.json", tmp_path / "run" / "audit.json"):
        assert json.loads(path.read_text())["changes"] == want


def test_an_audit_of_few_subjects_and_of_one_image_under_two_labels_says_so(tmp_path: Path) -> None:
    for number in range(12):
        label, subject = ("all", 11 + number // 3) if number < 6 else ("hem", f"H{number // 3}")
        path = tmp_path / "cells" / label / f"{subject}_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell_on_black(number)).save(path)
    table, audit = tmp_path / "cells.csv", tmp_path / "audit.json"
    assert run("data", "index", tmp_path / "cells", "-o", table).exit_code == 0
    audited = run("data", "audit", table, "-o", audit)
    assert audited.exit_code == 0, audited.output
    assert audited.output.count("(no interval: too few subjects)") == 2
    assert "0 identical pairs" in audited.output
    shutil.copy(tmp_path / "cells" / "all" / "11_0.png", tmp_path / "cells" / "hem" / "H9_0.png")
    assert run("data", "index", tmp_path / "cells", "-o", table).exit_code == 0
    audited = run("data", "audit", table, "-o", audit)
    assert audited.exit_code == 1
    told = next(line for line in audited.stdout.splitlines() if "identical pair " in line)
    assert told.startswith("1 identical pair (1 across")
    assert "one image with two labels: all/11_0.png = hem/H9_0.png" in told


def cell_on_black(seed: int) -> NDArray[np.uint8]:
    """Return a blurred cell on black, uint8 RGB (90, 70, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :70]
    inside = np.hypot((x - 35) / (20 + seed), (y - 45) / 30) < 1
    grain = np.kron(rng.integers(60, 250, (9, 7, 3)), np.ones((10, 10, 1)))
    return np.asarray(grain * inside[..., None], np.uint8)


def test_rows_that_count_for_nobody_or_twice_are_told(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    names = sorted(path for path in cells.iterdir() if path.suffix == ".png")[:3]
    rows = [(names[0], "P1"), (names[1], ""), (names[2], "P2"), (names[0], "P9")]
    (tmp_path / "t.csv").write_text("path,subject\n" + "".join(f"{path},{subject}\n" for path, subject in rows))
    result = run("predict", tmp_path / "t.csv", "--model", lenient.path, "-o", tmp_path / "out.csv")
    assert [row["subject"] for row in read_csv(tmp_path / "out.csv")] == ["P1", "", "P2"]
    assert "t.csv: 1 row names an image that is in it already" in result.output
    assert "t.csv: 1 row has no subject" in result.output
    (tmp_path / "file.csv").write_text(f"file,subject\n{names[0]},1\n")
    result = run("predict", tmp_path / "file.csv", "--model", lenient.path)
    assert "Name the column with the image files path." in str(result.exception)
