"""How folders and names say what an image shows and whose it is: one rule for training and for every answer."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import release as cnmc

SUBJECT_PATTERN = r"([^_]+)_"
# Names of folders that are classes and no subjects, in the words of data sets and wards.
_CLASSES = {
    "all", "aml", "cll", "cml", "hem", "blast", "blasts", "normal", "healthy", "control", "controls", "benign", "pro",
    "malignant", "malignancy", "leukemia", "leukaemia", "leukemic", "leukaemic", "cancer", "positive", "negative",
    "disease", "diseased", "abnormal", "early", "pre", "patient", "patients", "donor", "donors",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """What the place of an image says; empty where it says nothing."""

    label: str
    subject: str


def in_class_folders(inside: PurePosixPath, pattern: "re.Pattern[str]") -> Place:
    """Read FOLDER/<class>/<subject>_*.png or FOLDER/<class>/<subject>/*.png.

    >>> in_class_folders(PurePosixPath("all/P7_3.png"), re.compile(SUBJECT_PATTERN))
    Place(label='all', subject='P7')
    """
    label, *between = inside.parts[:-1] or ("",)
    found = pattern.match(inside.name)
    return Place(label, between[0] if between else (found[1] if found else ""))


def places_of(
    images: Sequence[PurePosixPath], *, classes: Collection[str] = (), pattern: str = SUBJECT_PATTERN
) -> list[Place]:
    """Say of images that nobody has labelled whose they are: as a run reads them where the folders are classes.

    Names of the C-NMC release speak for themselves. Where the first folders are not classes they are subjects.

    Args:
        images: seen from the folder that was given.
        classes: those that the model knows; folders called so are classes.
        pattern: of the subject in a file's name, see `in_class_folders`.
    """
    compiled = re.compile(pattern)
    named = [cnmc.label_and_subject(inside.name) for inside in images]
    if images and all(named):
        return [Place(*each) for each in named if each]
    if folders_are_classes(images, classes=classes, pattern=compiled):
        return [in_class_folders(inside, compiled) for inside in images]
    return [Place("", inside.parts[0] if len(inside.parts) > 1 else "") for inside in images]


def folders_are_classes(
    images: Sequence[PurePosixPath], *, classes: Collection[str] = (), pattern: "re.Pattern[str]"
) -> bool:
    """Tell whether the first folders are classes: by their names, or since each holds several subjects of its own."""
    if not images or any(len(inside.parts) < 2 for inside in images):
        return False
    tops = {inside.parts[0] for inside in images}
    known = _CLASSES | {name.casefold() for name in classes}
    if all(top.casefold() in known for top in tops):
        return True
    if any(sign.isdigit() for top in tops for sign in top):
        return False  # people are numbered, classes are not
    subjects: dict[str, set[str]] = defaultdict(set)
    for inside in images:
        found = pattern.match(inside.name)
        if len(inside.parts) > 2 or not found:
            return False
        subjects[inside.parts[0]].add(found[1])
    every = [subject for some in subjects.values() for subject in some]
    return len(tops) > 1 and len(every) == len(set(every)) and min(map(len, subjects.values())) > 1
