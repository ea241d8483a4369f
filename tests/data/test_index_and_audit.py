"""From folders to cells.csv, and what the audit finds in it."""

import errno
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

from leukoscope.data import release as cnmc
from leukoscope.data.audit import CellTraits, audit, measure_traits, near_duplicates, read_traits, write_traits
from leukoscope.data.cells import Cell, classes_of, natural, read_cells, write_cells
from leukoscope.data.index import Indexed, Layout, index, index_release
from leukoscope.data.split import joined, sharing_bytes
from leukoscope.errors import ConfigError, DataError, UnknownNameError


def save_cell(path: Path, seed: int = 0, *, side: int = 450) -> None:
    """Save a grainy disc on black under any name."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    coarse = np.kron(rng.integers(40, 200, (side // 25 + 1, side // 25 + 1, 3)), np.ones((25, 25, 1)))[:side, :side]
    image = coarse * (np.hypot(x, y * rng.uniform(0.8, 1.2)) < side / 3)[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(path)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small tree with the release's own folders and names."""
    root = tmp_path / "C-NMC_Leukemia"
    train, prelim = root / "training_data", root / "validation_data" / "C-NMC_test_prelim_phase_data"
    save_cell(train / "fold_0" / "all" / "UID_20_1_1_all.bmp", 1)
    save_cell(train / "fold_2" / "all" / "UID_21_1_1_all.bmp", 1)
    save_cell(train / "fold_1" / "hem" / "UID_H3_1_1_hem.bmp", 2)
    save_cell(train / "fold_2" / "hem" / "UID_h3_2_1_hem.bmp", 3)
    save_cell(prelim / "1.bmp", 4)
    save_cell(root / "testing_data" / "C-NMC_test_final_phase_data" / "1.bmp", 5, side=600)
    labels = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_58_1_1_all.bmp,2.bmp,1\n"
    (root / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv").write_text(labels)
    (root / "notes.txt").write_text("not an image")
    return root


def test_the_release_is_indexed_with_labels_subjects_and_parts(release: Path) -> None:
    found = index(release)
    rows = {(cell.part, cell.label, cell.subject) for cell in found.cells}
    assert rows == {
        ("fold_0", "all", "20"),
        ("fold_2", "all", "21"),
        ("fold_1", "hem", "H3"),
        ("fold_2", "hem", "H3"),  # written h3 in the release
        ("prelim_test", "all", "57"),
        ("final_test", "", ""),
    }
    assert found.ignored == Counter({".csv": 1, ".txt": 1})
    assert {(cell.width, cell.height) for cell in found.cells} == {(450, 450), (600, 600)}


def test_any_folder_of_the_release_can_be_indexed_alone(release: Path) -> None:
    assert {cell.part for cell in index(release / "training_data" / "fold_2").cells} == {"fold_2"}
    prelim = index(release / "validation_data" / "C-NMC_test_prelim_phase_data")
    assert [cell.label for cell in prelim.cells] == [""]
    assert "unlabelled" in prelim.notes[0]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("UID_58_1_1_all.bmp,2.bmp,1\n", "no row for 1.bmp"),
        ("UID_57_29_1_all.bmp,1.bmp,1\nUID_57_29_2_all.bmp,1.bmp,1\n", "two rows for 1.bmp"),
        ("somebody,1.bmp,1\n", "not of the form"),
    ],
)
def test_a_missing_or_double_label_is_an_error(release: Path, rows: str, reason: str) -> None:
    labels = release / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv"
    labels.write_text("Patient_ID,new_names,labels\n" + rows)
    with pytest.raises(DataError, match=reason):
        index(release)


def test_a_labels_file_without_its_columns_names_them(release: Path) -> None:
    labels = release / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv"
    labels.write_text("name,label\n1.bmp,1\n")
    with pytest.raises(DataError, match="lacks the columns Patient_ID, new_names, labels"):
        index(release)


def test_folders_of_four_classes_are_indexed(tmp_path: Path) -> None:
    for number, name in enumerate(["Benign", "Early", "Pre", "Pro"]):
        save_cell(tmp_path / name / f"P{number}_1.png", number)
        save_cell(tmp_path / name / f"Q{number}" / "1.jpg", number)
    found = index(tmp_path).cells
    assert classes_of(found) == ("Benign", "Early", "Pre", "Pro")
    assert {cell.subject for cell in found} == {f"{letter}{number}" for letter in "PQ" for number in range(4)}


def test_names_without_a_subject_are_told(tmp_path: Path) -> None:
    save_cell(tmp_path / "a" / "WBC-Benign-001.png")
    found = index(tmp_path)
    assert "No subject could be read from 1 of 1 names" in found.notes[0]
    patterned = index(tmp_path, layout=Layout(subject_pattern=r"WBC-(\w+)-"))
    assert [cell.subject for cell in patterned.cells] == ["Benign"]


@pytest.mark.parametrize(("pattern", "reason"), [("P(", "not a regular"), ("P1", "parentheses")])
def test_a_bad_subject_pattern_is_an_error_of_the_call(tmp_path: Path, pattern: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        index(tmp_path, layout=Layout(subject_pattern=pattern))


def test_a_table_of_images_is_indexed_by_its_own_column_names(tmp_path: Path) -> None:
    save_cell(tmp_path / "images" / "a.png")
    table = tmp_path / "patients.csv"
    table.write_text("file,diagnosis,patient\nimages/a.png,ALL,7\n")
    layout = Layout(path_column="file", label_column="diagnosis", subject_column="patient")
    (cell,) = index(table, layout=layout).cells
    assert (cell.label, cell.subject, cell.path) == ("ALL", "7", (tmp_path / "images" / "a.png").resolve())
    with pytest.raises(DataError, match="lacks the columns path, label, subject"):
        index(table)
    table.write_text("file,diagnosis,patient\nimages/b.png,ALL,7\n")
    with pytest.raises(DataError, match=r"b.png does not exist"):
        index(table, layout=layout)


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(DataError, match="It has 1 .pdf"):
        index(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        index(tmp_path / "nowhere")


def test_the_table_survives_writing_and_reading(tmp_path: Path, synthetic: list[Cell]) -> None:
    write_cells(tmp_path / "cells.csv", synthetic)
    assert read_cells(tmp_path / "cells.csv") == synthetic


def test_a_name_that_stands_twice_is_refused(tmp_path: Path, synthetic: list[Cell]) -> None:
    write_cells(tmp_path / "cells.csv", [synthetic[0], synthetic[0]])
    with pytest.raises(DataError, match="is listed twice"):
        read_cells(tmp_path / "cells.csv")


def test_the_disease_is_the_second_of_two_classes(synthetic: list[Cell]) -> None:
    assert classes_of(synthetic) == ("normal", "blast")
    assert classes_of(synthetic, "normal") == ("blast", "normal")
    with pytest.raises(UnknownNameError, match="Did you mean 'blast'"):
        classes_of(synthetic, "blasst")
    assert sorted(["H10", "H2", "9", "11"], key=natural) == ["9", "11", "H2", "H10"]


def release_list(shared_data: Path) -> Indexed:
    return index_release(shared_data / "cnmc" / "C-NMC_test_prelim_phase_data_labels.csv")


def test_the_release_list_has_the_published_numbers_and_its_leaks(shared_data: Path) -> None:
    cells = release_list(shared_data).cells
    per_part = Counter(
        (cell.part.split("_")[0] if cell.part.startswith("fold") else cell.part, cell.label) for cell in cells
    )
    assert per_part == {
        ("fold", "all"): 7272,
        ("fold", "hem"): 3389,
        ("prelim_test", "all"): 1219,
        ("prelim_test", "hem"): 648,
        ("final_test", ""): 2586,
    }
    assert len({cell.subject for cell in cells if cell.part.startswith("fold")}) == 73
    assert len({cell.subject for cell in cells if cell.part == "prelim_test"}) == 28
    found = audit(cells, None)
    assert found["exact_duplicates"]["pairs"] == 106
    assert found["exact_duplicates"]["across_subjects"] == 99
    assert sorted(found["exact_duplicates"]["joins"]) == sorted(list(group) for group in cnmc.SHARED_FILES)


def test_the_subjects_known_to_share_files_are_those_of_the_list(shared_data: Path) -> None:
    cells = release_list(shared_data).cells
    subjects = sorted({cell.subject for cell in cells}, key=natural)
    groups = [group for group in joined(subjects, sharing_bytes(cells)).values() if len(group) > 1]
    assert sorted(groups) == sorted(cnmc.SHARED_FILES)


@pytest.mark.slow
def test_the_subjects_known_to_share_cells_are_found_in_the_images(shared_data: Path) -> None:
    suspects = {subject for group in cnmc.SHARED_CELLS + cnmc.SHARED_FILES for subject in group}
    cells = [cell for cell in index(shared_data / "cnmc").cells if cell.subject in suspects]
    pairs = [(a.subject, b.subject) for a, b, _ in near_duplicates(cells, measure_traits(cells))]
    groups = joined(sorted({cell.subject for cell in cells}, key=natural), pairs)
    assert [group for group in groups.values() if len(group) > 1] == [
        ("1", "15", "16", "17", "18", "20"),
        ("43", "44"),
        ("H2", "H4", "H5", "H6", "H7"),
        ("H3", "H10"),
        ("H14", "H24"),
    ]


def test_copies_of_a_cell_are_found_though_their_bytes_differ(tmp_path: Path, synthetic: list[Cell]) -> None:
    chosen = synthetic[::10]
    copies = []
    for number, cell in enumerate(chosen):
        image = Image.open(cell.path)
        copy = {
            0: image.resize((200, 200), Image.Resampling.LANCZOS),
            1: image.point(lambda value: min(255, int(value * 1.15))),
            2: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 5, 0, 1, -3)),
        }.get(number % 4, image)
        path = tmp_path / f"copy{number}.{'jpg' if number % 4 == 3 else 'png'}"
        copy.save(path)
        copies.append(replace(cell, path=path, name=path.name, subject="copy", sha256=f"{number:064x}"))
    cells = [*synthetic, *copies]
    pairs = near_duplicates(cells, measure_traits(cells))
    assert {frozenset((a.name, b.name)) for a, b, _ in pairs} == {
        frozenset((cell.name, copy.name)) for cell, copy in zip(chosen, copies, strict=True)
    }


@pytest.mark.parametrize("at_once", [2**21, 64])
def test_no_pair_of_like_cells_is_missed(monkeypatch: pytest.MonkeyPatch, synthetic: list[Cell], at_once: int) -> None:
    monkeypatch.setattr("leukoscope.data.audit._AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    count = 600
    kinds = rng.normal(128, 40, (30, 256))[rng.integers(0, 30, count)]
    thumbnails = (kinds + rng.normal(0, 5, (count, 256))).astype(np.float32)
    sides = np.exp(rng.normal(-1, 0.15, (count, 2)))
    cells = [replace(synthetic[0], path=Path(f"{n}.bmp"), sha256=f"{n}") for n in range(count)]
    found = near_duplicates(cells, CellTraits(np.ones(count), np.ones((count, 3)), sides, thumbnails, {}))
    correlation, apart = np.corrcoef(thumbnails), abs(np.log(sides[:, None] / sides)).max(axis=2)
    wanted = np.argwhere(np.triu((correlation >= 0.985) & (apart < 0.05), k=1))
    assert len(wanted) > 50
    assert {(a.path.stem, b.path.stem) for a, b, _ in found} == {(str(a), str(b)) for a, b in wanted}
    assert len(found) == len(wanted)


def test_the_audit_names_every_image_that_cannot_be_used(tmp_path: Path) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    (tmp_path / "a" / "P1_2.png").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "a" / "P1_3.png")
    cells = index(tmp_path).cells
    found = audit(cells, measure_traits(cells))
    assert {row["name"]: row["problem"].split(" ", 1)[1].split(".")[0] for row in found["unusable"]} == {
        "a/P1_2.png": "is empty (0 bytes)",
        "a/P1_3.png": "is all black: there is no cell to see",
    }


def test_a_release_image_of_another_size_is_named(release: Path) -> None:
    save_cell(release / "training_data" / "fold_0" / "hem" / "UID_H9_1_1_hem.bmp", 9, side=300)
    cells = index(release).cells
    (problem,) = audit(cells, measure_traits(cells))["unusable"]
    assert "has 300x300 pixels; images of the release have 450x450 or 600x600" in problem["problem"]


def test_identical_files_under_two_subjects_join_them(release: Path) -> None:
    cells = index(release).cells
    found = audit(cells, measure_traits(cells))
    assert found["exact_duplicates"]["pairs"] == found["exact_duplicates"]["across_parts"] == 1
    assert ["20", "21"] in found["joined_subjects"]


def test_traits_are_read_back_and_belong_to_their_table(tmp_path: Path, synthetic: list[Cell]) -> None:
    traits = measure_traits(synthetic)
    write_traits(tmp_path / "traits.csv", synthetic, traits)
    read = read_traits(tmp_path / "traits.csv", synthetic)
    assert np.allclose(read, np.column_stack([traits.area_px, traits.colour]), rtol=1e-5)
    with pytest.raises(DataError, match="another table"):
        read_traits(tmp_path / "traits.csv", synthetic[1:])


def test_verify_names_what_is_missing_changed_and_extra(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "C-NMC_Leukemia"
    labels = root / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv"
    labels.parent.mkdir(parents=True)
    labels.write_bytes((shared_data / "cnmc" / labels.name).read_bytes())
    save_cell(root / "training_data" / "fold_0" / "all" / "UID_11_10_1_all.bmp")
    save_cell(root / "training_data" / "fold_0" / "all" / "UID_999_10_1_all.bmp")
    found = cnmc.verify(root)
    assert found.intact == (f"validation_data/{labels.name}",)
    assert found.changed == ("training_data/fold_0/all/UID_11_10_1_all.bmp",)
    assert found.extra == ("training_data/fold_0/all/UID_999_10_1_all.bmp",)
    assert len(found.missing) == 15_115 - 2
    assert not found.complete
    with pytest.raises(DataError, match="no file of C-NMC"):
        cnmc.verify(labels.parent.parent / "training_data" / "fold_0" / "all" / "..")


@pytest.mark.parametrize("name", ["final_images", "prelim", "my finals"])
def test_a_folder_that_merely_sounds_like_the_release_is_the_users_own(tmp_path: Path, name: str) -> None:
    save_cell(tmp_path / name / "normal" / "P1_1.png")
    (cell,) = index(tmp_path / name).cells
    assert (cell.label, cell.subject, cell.source) == ("normal", "P1", "folder")


@pytest.mark.parametrize("part", ["fold_0", "train", "Test", "validation"])
def test_parts_are_not_taken_for_classes(tmp_path: Path, part: str) -> None:
    save_cell(tmp_path / part / "normal" / "P1_1.png")
    with pytest.raises(DataError, match="parts and not classes"):
        index(tmp_path)


@pytest.mark.parametrize("name", ["P1_a\nb.png", "P1_a\u2028b.png", "P1_\udcff.png"])
def test_a_name_that_cannot_stand_in_a_table_is_refused(tmp_path: Path, name: str) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    (tmp_path / "a" / "P1_1.png").rename(tmp_path / "a" / name)
    with pytest.raises(DataError, match="Rename the file"):
        index(tmp_path)


@pytest.mark.parametrize("name", ["P1_a\nb.png", "P1_\udcff.png"])
def test_a_strange_name_costs_the_others_nothing(tmp_path: Path, name: str) -> None:
    for number in (1, 2):
        save_cell(tmp_path / "a" / f"P{number}_1.png")
    (tmp_path / "a" / "P1_1.png").rename(tmp_path / "a" / name)
    found = index(tmp_path)
    assert [cell.subject for cell in found.cells] == ["P2"]
    assert [reason for _, reason in found.refused] == [
        f"{str(Path('a') / name)!r} has characters that cannot be written to a table. Rename the file."
    ]


def test_a_pipe_is_passed_over_in_a_folder_and_refused_in_a_table(tmp_path: Path) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    os.mkfifo(tmp_path / "a" / "P2_1.png")
    found = index(tmp_path)
    assert [cell.subject for cell in found.cells] == ["P1"]
    assert [(one.path.name, one.reason) for one in found.passed] == [("P2_1.png", "pipe or device file")]
    (tmp_path / "t.csv").write_text("path,label,subject\na/P1_1.png,a,P1\na/P2_1.png,a,P2\n")
    listed = index(tmp_path / "t.csv")
    assert [cell.subject for cell in listed.cells] == ["P1"]
    assert "is a pipe" in listed.refused[0][1]


def test_links_are_followed_once_and_those_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    (tmp_path / "a" / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "a" / "round").symlink_to("..")
    found = index(tmp_path)
    assert [name for name, _ in found.refused] == ["a/broken.png"]
    assert "does not exist" in found.refused[0][1]
    assert [cell.name for cell in found.cells] == ["a/P1_1.png"]


def test_a_folder_of_images_alone_is_said_to_hold_nothing_else(tmp_path: Path) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    assert list(index(tmp_path).ignored) == []


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_cell(tmp_path / "a" / "P1_1.png")
    (tmp_path / "a" / "secret").mkdir(mode=0)
    if os.geteuid() == 0:  # root reads everything
        listing = os.scandir
        closed = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a" / "secret"))
        monkeypatch.setattr(os, "scandir", lambda at: _raise(closed) if str(at).endswith("secret") else listing(at))
    with pytest.raises(PermissionError, match="secret"):
        index(tmp_path)


def _raise(error: OSError) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["cohort/normal", "cohort/blast"], True),
        (["site1/normal", "site1/blast", "site2/normal", "site2/blast"], True),
        (["set/normal/P1", "set/blast/P2"], True),
        (["normal/P1", "normal/P2", "blast/P3"], False),
        (["normal", "blast"], False),
    ],
)
def test_what_was_taken_for_classes_is_told_where_they_may_stand_deeper(
    tmp_path: Path, folders: list[str], told: bool
) -> None:
    for folder in folders:
        save_cell(tmp_path / folder / "P1_1.png", side=50)
    notes = index(tmp_path).notes
    assert any("If the classes are one folder deeper" in note for note in notes) == told


def test_subjects_whose_names_hold_a_plus_are_not_mixed_up() -> None:
    groups = joined(["x", "x+y", "y"], [("x", "y")])
    assert sorted(groups.values()) == [("x", "y"), ("x+y",)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label,label,subject\na.png,x,y,1\n", "two columns called label"),
        ("path,label,subject\na.png,x,\n", "row 2: no subject"),
        ("path,label,subject\na.png,x\n", "row 2: it does not have 3 cells"),
        ("path,label,subject\na.png,x,1\n./a.png,x,1\n", "is listed twice"),
        ("path,label,subject\na.png,x,1\n{here}/a.png,x,2\n", "is listed twice"),
        ('path,label,subject\na.png,"x\ny",1\n', "has a line break"),
        ("path,label,subject\n.,x,1\n", "is a folder"),
        ('path,label,subject\na.png,"x,1\n' + "x" * 200_000, "Is a quotation mark left open"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    save_cell(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text(text.replace("{here}", str(tmp_path)))
    with pytest.raises(DataError, match=reason):
        index(tmp_path / "table.csv")


def test_line_breaks_in_other_columns_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    save_cell(tmp_path / "a.png")
    table = '\ufeffpath,label,subject,remark\r\na.png,normal,1,"seen\ntwice"\r\n'
    (tmp_path / "table.csv").write_bytes(table.encode())
    (cell,) = index(tmp_path / "table.csv").cells
    assert (cell.label, cell.subject) == ("normal", "1")


def test_columns_that_are_asked_for_are_kept_and_no_others(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("path,label,subject,sex,patient_name\na.png,all,1,f,Ada\n")
    found = index(tmp_path / "table.csv", layout=Layout(keep_columns="sex")).cells
    assert found[0].more == (("sex", "f"),)
    write_cells(tmp_path / "cells.csv", found)
    assert "Ada" not in (tmp_path / "cells.csv").read_text()
    assert read_cells(tmp_path / "cells.csv") == found
    with pytest.raises(UnknownNameError, match="Did you mean 'sex'"):
        index(tmp_path / "table.csv", layout=Layout(keep_columns="sexe"))
