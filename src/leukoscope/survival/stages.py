"""Stages at diagnosis: which come first, recognised from their names or given."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..errors import UsageError
from .table import listed

# Each scale runs from mildest to worst. A name matches when, freed of words such as 'stage' or 'risk', it is one of
# the spellings, or a spelling followed by a letter (IIIA, 2b).
_SCALES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("0",), ("i", "1"), ("ii", "2"), ("iii", "3"), ("iv", "4"), ("v", "5")),
    (("cr1",), ("cr2",), ("cr3",), ("relapse", "relapsed", "refractory")),
    (("chronic", "cp"), ("accelerated", "ap"), ("blast", "blastic", "bc")),
    (("verylow",), ("low", "favorable", "favourable", "good", "standard"), ("medium", "intermediate", "moderate"),
     ("high", "adverse", "poor", "unfavorable", "unfavourable"), ("veryhigh",)),
    (("early",), ("late", "advanced")),
    (("a",), ("b",), ("c",), ("d",)),
)  # fmt: skip
_FILLER = {"stage", "risk", "group", "grade", "phase", "class", "score", "disease", "crisis", "rai", "binet", "eln"}


def order_stages(names: Sequence[str], *, given: Sequence[str] = ()) -> tuple[tuple[str, ...], bool]:
    """Return the stages from mildest to worst, and whether that order is known (else they stand by name).

    Raises:
        UsageError: the given order does not name exactly the stages that occur.
    """
    if given:
        _check_given(names, given)
        return tuple(name for name in given if name in names), True
    for scale in _SCALES:
        ranks = [_rank(name, scale) for name in names]
        if all(rank is not None for rank in ranks) and len(set(ranks)) == len(ranks):
            return tuple(name for _, name in sorted(zip(ranks, names, strict=True))), True
    return tuple(sorted(names)), False


def _check_given(names: Sequence[str], given: Sequence[str]) -> None:
    unplaced = [name for name in names if name not in given]
    if unplaced:
        raise UsageError(
            f"--stage-order leaves out {listed(unplaced)}. Write every stage once, mildest first: "
            f'--stage-order "{"<".join(names)}".'
        )
    if len(set(given)) < len(given):
        raise UsageError("--stage-order names a stage twice. Write every stage once, mildest first.")


def _rank(name: str, scale: tuple[tuple[str, ...], ...]) -> tuple[int, str] | None:
    """Return the place of a name on a scale and the letter behind it, or None."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _FILLER]
    bare = "".join(words)
    for place, spellings in enumerate(scale):
        if bare in spellings:
            return place, ""
    for place, spellings in enumerate(scale):
        if bare[:-1] in spellings and bare[-1:] in "abcd" and scale is _SCALES[0]:
            return place, bare[-1]
    return None


def cut_stages(values: np.ndarray, *, cuts: Sequence[float], name: str) -> list[str]:
    """Name the group of each number, such as 'sokal ≤ 0.8', '0.8 < sokal ≤ 1.2', 'sokal > 1.2'; '' for NaN.

    Raises:
        UsageError: the cuts do not rise.
    """
    if list(cuts) != sorted(set(cuts)):
        raise UsageError(f"--stage-cuts must rise: {', '.join(f'{cut:g}' for cut in sorted(set(cuts)))}.")
    names = cut_names(cuts, name=name)
    places = np.searchsorted(np.asarray(cuts, dtype=float), values, side="left")
    return ["" if np.isnan(value) else names[place] for value, place in zip(values, places, strict=True)]


def cut_names(cuts: Sequence[float], *, name: str) -> tuple[str, ...]:
    """Return the names of the groups between cuts, lowest first."""
    middle = [f"{low:g} < {name} ≤ {high:g}" for low, high in pairwise(cuts)]
    return (f"{name} ≤ {cuts[0]:g}", *middle, f"{name} > {cuts[-1]:g}")
