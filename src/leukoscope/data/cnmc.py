"""What is known of C-NMC 2019: its names, its parts, its labels and the digest of every file.

Source: Gupta & Gupta, ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive, 2019,
doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0.
"""

import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from ..artifacts import read_csv, sha256_of
from ..errors import DataError
from ..progress import track
from .pack import in_parallel

SOURCE = "C-NMC 2019"
LABEL_COLUMNS = ("Patient_ID", "new_names", "labels")
SIDES = (450, 600)
"""Pixels; the final test is 600x600, everything else 450x450."""
SHARED_FILES = (("20", "21"), ("51", "75", "78"), ("H2", "H4", "H5", "H6"), ("H3", "H10"))
"""Subject ids of the release under which byte-identical files appear."""
SHARED_CELLS = (("1", "15", "17", "18", "20"), ("H2", "H7"))
"""Further ids under which the same cell appears twice, photographed or normalised anew, so that the bytes differ;
found by `leukoscope data audit` on 4,137 originals and seen by eye. Both tables are held true by tests; they are
stated here because a part of the release may lack the very images that prove them."""
_NAME = re.compile(r"UID_(?P<subject>[Hh]?\d+)_(?P<image>\d+)_(?P<cell>\d+)_(?P<label>all|hem)")
_TEST_FOLDER = re.compile(r"C-NMC_test_(prelim|final)_phase_data")
_LABELS_FILE = "C-NMC_test_prelim_phase_data_labels.csv"


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of the release as published."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Verified:
    """What a folder holds of the release; every name is the release's own path, except in `extra`."""

    intact: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.changed or self.extra)


def part_of(path: PurePosixPath) -> str:
    """Return fold_0, fold_1, fold_2, prelim_test or final_test from the folders of a path, or '' for none of them."""
    for folder in reversed(path.parent.parts):
        if re.fullmatch(r"fold_\d", folder):
            return folder
        if test := _TEST_FOLDER.match(folder):
            return f"{test[1]}_test"
    return ""


def label_and_subject(name: str) -> tuple[str, str] | None:
    """Read ('all', '20') from UID_20_1_2_all.bmp; None when the name is of another kind. Subject h3 becomes H3."""
    found = _NAME.match(name)
    return (found["label"], found["subject"].upper()) if found else None


def is_cnmc(paths: list[PurePosixPath]) -> bool:
    """Say whether these files lie in the release's own folders and carry its names."""
    return any(part_of(path) and (label_and_subject(path.name) or part_of(path).endswith("_test")) for path in paths)


def read_labels(path: Path) -> dict[str, str]:
    """Read the labels of the preliminary test: {'1': 'UID_57_29_1_all.bmp', …}, keyed by file name without suffix.

    Raises:
        DataError: a row stands twice, or an original id is not of the release's form.
    """
    originals: dict[str, str] = {}
    for row in read_csv(path, required=LABEL_COLUMNS):
        image, original = Path(row["new_names"]).stem, row["Patient_ID"]
        if image in originals:
            raise DataError(f"{path} has two rows for {row['new_names']}. Keep the right one and delete the other.")
        if label_and_subject(original) is None:
            raise DataError(f"{path}: '{original}' is not of the form UID_<subject>_<image>_<cell>_<all|hem>.bmp.")
        originals[image] = original
    return originals


def find_labels(root: Path) -> Path | None:
    """Return the labels CSV of the preliminary test anywhere under a folder, or None."""
    return next(iter(sorted(root.rglob("*prelim*labels*.csv"))), None)


def release_files() -> Iterator[ReleaseFile]:
    """Yield every file of the release with its SHA-256: 15,114 images and the labels CSV."""
    with (
        resources.files(__package__).joinpath("cnmc_release.csv.gz").open("rb") as packed,
        gzip.open(packed, "rt") as text,
    ):
        for row in csv.DictReader(text):
            yield ReleaseFile(row["path"], row["sha256"], int(row["bytes"]))


def verify(root: Path) -> Verified:
    """Compare a folder with the release, file by file, by SHA-256.

    The folder may be the top of the release or any part of it unpacked under any name: files are matched by part,
    class and name.

    Raises:
        DataError: the folder does not exist or holds no file of the release.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that the release was unpacked to.")
    expected = {_key(PurePosixPath(file.path)): file for file in release_files()}
    found = {path: PurePosixPath(path.relative_to(root.parent)) for path in sorted(root.rglob("*")) if path.is_file()}
    matched = {path: expected[_key(inside)] for path, inside in found.items() if _key(inside) in expected}
    if not matched:
        raise DataError(f"{root} holds no file of C-NMC 2019. Give the folder that the release was unpacked to.")
    digests = dict(zip(matched, track(in_parallel(sha256_of, matched), "Hashing", total=len(matched)), strict=True))
    intact = {path for path, file in matched.items() if digests[path] == file.sha256}
    return Verified(
        intact=tuple(matched[path].path for path in matched if path in intact),
        missing=tuple(sorted({file.path for file in expected.values()} - {file.path for file in matched.values()})),
        changed=tuple(matched[path].path for path in matched if path not in intact),
        extra=tuple(str(path.relative_to(root)) for path in found if path not in matched),
    )


def _key(path: PurePosixPath) -> tuple[str, str]:
    """Return what identifies a file of the release wherever it was unpacked to."""
    return ("", path.name) if path.name == _LABELS_FILE else (part_of(path), path.name)
