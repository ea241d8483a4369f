"""No split with one subject group on two sides can be built or loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.config import Split
from leukoscope.data.cells import Cell
from leukoscope.data.split import SplitPlan, make_split, read_split, subject_groups, write_split
from leukoscope.errors import SplitError
from leukoscope.files import read_json, write_json

from .conftest import make_cells


def sides_of(plan: SplitPlan, cells: list[Cell], *, fold: int) -> dict[str, set[str]]:
    """Return the sets in which each subject group has cells."""
    found: dict[str, set[str]] = {}
    for cell, side in zip(cells, plan.sets(cells, fold=fold), strict=True):
        if side != "excluded":
            found.setdefault(plan.group_of(cell), set()).add(str(side))
    return found


@given(subjects=st.integers(12, 40), seed=st.integers(0, 10**6), linked=st.integers(0, 6))
def test_no_subject_group_is_in_two_sets(subjects: int, seed: int, linked: int) -> None:
    rng = np.random.default_rng(seed)
    cells = make_cells(subjects, per_subject=3, rng=rng)
    for _ in range(linked):  # the same bytes under two subjects of one class
        a, b = rng.choice(len(cells), 2, replace=False)
        if cells[a].label == cells[b].label:
            cells[b] = replace(cells[b], sha256=cells[a].sha256)
    try:
        plan = make_split(cells, Split(folds=3), seed=seed)
    except SplitError as refused:  # some seeds join so many subjects that no split is left
        assert "too few subjects" in str(refused) or "cannot be cut" in str(refused)  # noqa: PT017
        return
    for fold in range(3):
        assert all(len(sides) == 1 for sides in sides_of(plan, cells, fold=fold).values())
    tested = np.sum([plan.sets(cells, fold=fold) == "test" for fold in range(3)], axis=0)
    assert (tested == 1).all()


def test_every_set_of_every_fold_has_every_class() -> None:
    cells = make_cells(30)
    plan = make_split(cells, Split(folds=5), seed=3)
    labels = np.array([cell.label for cell in cells])
    for fold in range(5):
        for side in ("train", "validation", "test"):
            assert set(labels[plan.sets(cells, fold=fold) == side]) == {"normal", "blast"}


def test_validation_takes_the_rarest_class_from_as_many_subjects_as_it_can() -> None:
    """Two normal subjects have many cells and seven a few: a share of cells alone would often be met by one subject."""
    few = sorted({cell.subject for cell in make_cells(30) if cell.label == "normal"})[:9]
    cells = [
        cell
        for number, cell in enumerate(make_cells(30, per_subject=12))
        if cell.label == "blast" or cell.subject in few[:2] or (cell.subject in few and number % 3 == 0)
    ]
    settings, held = Split(scheme="holdout", validation=0.3, test=0.2), []
    for seed in range(12):
        sets = make_split(cells, settings, seed=seed).sets(cells, fold=0)
        normal = {
            cell.subject
            for cell, name in zip(cells, sets, strict=True)
            if name == "validation" and cell.label == "normal"
        }
        held.append(len(normal))
    assert min(held) >= 3


def test_subjects_that_share_bytes_are_one_group() -> None:
    cells = make_cells(6)
    cells[0] = replace(cells[0], sha256=cells[12].sha256)
    cells[13] = replace(cells[13], sha256=cells[25].sha256)
    assert list(subject_groups(cells)) == ["S0+S2+S4", "S1", "S3", "S5"]
    assert "S1+S5" in subject_groups(cells, linked=[("S5", "S1")])


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_rows(tmp_path: Path) -> None:
    cells = make_cells(20)
    plan = make_split(cells, Split(), seed=7)
    assert plan.hash == make_split(cells, Split(), seed=7).hash
    assert plan.hash != make_split(cells, Split(), seed=8).hash
    write_split(tmp_path / "split.json", plan)
    assert read_split(tmp_path / "split.json", cells[::-1]) == plan


def test_a_split_made_to_leak_by_hand_names_the_subject(tmp_path: Path) -> None:
    cells = make_cells(20)
    path = tmp_path / "split.json"
    write_split(path, make_split(cells, Split(), seed=0))
    table = read_json(path)
    table["folds"][0]["train"].append(table["folds"][0]["test"][0])
    write_json(path, table)
    with pytest.raises(SplitError, match=rf"{table['folds'][0]['test'][0]} is in train and test of split.json, fold 0"):
        read_split(path, cells)


def test_a_split_in_which_linked_subjects_were_parted_by_hand_names_both(tmp_path: Path) -> None:
    cells = make_cells(20)
    path = tmp_path / "split.json"
    plan = make_split(cells, Split(), seed=0)
    write_split(path, plan)
    group = {side: next(iter(getattr(plan.folds[0], side))) for side in ("train", "test")}
    rows = {side: next(i for i, cell in enumerate(cells) if cell.subject == name) for side, name in group.items()}
    cells[rows["test"]] = replace(cells[rows["test"]], sha256=cells[rows["train"]].sha256)
    with pytest.raises(SplitError, match="share a byte-identical image") as refused:
        read_split(path, cells)
    assert group["train"] in str(refused.value)
    assert group["test"] in str(refused.value)


def test_a_changed_hash_and_another_table_are_refused(tmp_path: Path) -> None:
    cells = make_cells(20)
    path = tmp_path / "split.json"
    write_split(path, make_split(cells, Split(), seed=0))
    with pytest.raises(SplitError, match="another table"):
        read_split(path, cells[:-1])
    write_json(path, read_json(path) | {"seed": 99})
    with pytest.raises(SplitError, match="changed after it was made"):
        read_split(path, cells)
    write_json(path, {"folds": []})
    with pytest.raises(SplitError, match="not a split"):
        read_split(path, cells)


@pytest.mark.parametrize(("again", "gives_up", "tested"), [(1, ("S0", "part_1", 1), 48), (9, ("S0", "part_0", 6), 57)])
def test_subjects_in_two_parts_give_up_the_side_with_fewer_cells(
    again: int, gives_up: tuple[str, str, int], tested: int
) -> None:
    cells = make_cells(24)  # S0 has six cells in part_0
    cells += [
        replace(cells[0], part="part_1", name=f"again{number}.png", sha256=f"{number:064x}") for number in range(again)
    ]
    plan = make_split(cells, Split(scheme="parts", test_parts=("part_1",)), seed=0)
    assert [(row.group, row.part, row.cells) for row in plan.excluded] == [gives_up]
    assert all(len(sides) == 1 for sides in sides_of(plan, cells, fold=0).values())
    assert (plan.sets(cells, fold=0) == "test").sum() == tested


def test_the_leaky_split_puts_a_patient_on_both_sides_and_says_so() -> None:
    cells = make_cells(8, per_subject=20)
    plan = make_split(cells, Split(scheme="holdout", leaky=True), seed=0)
    assert plan.leaky
    assert plan.unit == "image"
    assert any(len(sides) > 1 for sides in sides_of(plan, cells, fold=0).values())


@pytest.mark.parametrize(
    ("cells", "settings", "reason"),
    [
        (make_cells(1), Split(), "only the class"),
        (make_cells(2), Split(), "one or two subjects"),
        (make_cells(4), Split(folds=5), "Set split.folds to 4"),
        (make_cells(20)[::2][:30], Split(scheme="parts", test_parts=("nowhere",)), "no labelled cell in part"),
        (make_cells(9), Split(scheme="parts", train_parts=("part_0",), test_parts=("part_0",)), "Choose one"),
        ([replace(cell, label="") for cell in make_cells(6)], Split(), "no label"),
    ],
)
def test_an_impossible_split_says_what_to_do(cells: list[Cell], settings: Split, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        make_split(cells, settings, seed=0)


def test_four_classes_are_split_too() -> None:
    names = ("Benign", "Early", "Pre", "Pro")
    cells = [replace(cell, label=names[int(cell.subject[1:]) % 4]) for cell in make_cells(40)]
    plan = make_split(cells, Split(folds=4), seed=0)
    assert plan.classes == names


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("leaky", [False, True])
def test_one_cell_per_subject_is_split_or_refused_in_plain_words(folds: int, leaky: bool) -> None:
    cells = make_cells(6, per_subject=1)
    try:
        plan = make_split(cells, Split(folds=folds, leaky=leaky), seed=0)
    except SplitError as refused:
        assert "cannot be cut" in str(refused) or "too few subjects" in str(refused)  # noqa: PT017
    else:
        assert len(plan.folds) == folds
