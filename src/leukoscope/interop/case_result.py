"""The result of a case as a hospital's systems take it: numbers with unit, interval and code, and who says so."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import NAMESPACE_URL, UUID, uuid5

SCHEME = "99LEUKOSCOPE"
CODE_SYSTEM = "https://leukoscope.readthedocs.io/codes"
LOINC = "http://loinc.org"
NOTICE = "Research use, not a diagnosis."
# Codes of shares of the leukocytes in blood, from the panel that https://loinc.org/24318-8 publishes. They name blood
# as the specimen, so they are given only where the specimen is stated to be blood. Other rows have no code that was
# looked up, and carry the program's own alone. The estimate of platelets is 49497-1, which
# https://www.findacode.com/loinc/49497-1 describes: platelets of an average field of a smear, times a factor.
LOINC_OF_BLOOD = {
    ("basophil", "%"): ("30180-4", "Basophils/100 leukocytes in Blood"),
    ("blast", "%"): ("26446-5", "Blasts/100 leukocytes in Blood"),
    ("eosinophil", "%"): ("26450-7", "Eosinophils/100 leukocytes in Blood"),
    ("estimated platelets", "10*9/L"): ("49497-1", "Platelets [#/volume] in Blood by Estimate"),
}
FOUND_AS_WHITE = "platelet found as a white cell"
"""Giant or clumped platelets among the cells that were found: no count of the platelets, which has a row of its own."""
Specimen = Literal["blood", "bone marrow", ""]


@dataclass(frozen=True)
class Coding:
    """A code, the system that defines it, and its meaning."""

    system: str
    code: str
    display: str


@dataclass(frozen=True)
class CellShare:
    """One row of a differential: a kind of white cell, or of what is counted beside them."""

    name: str
    cells: int
    percent: float | None = None
    """Of the white cells that were told apart, which sum to 100; None for other things, or too few cells."""
    low: float | None = None
    high: float | None = None
    """95 % interval of `percent`."""


@dataclass(frozen=True)
class Observation:
    """One number of a result."""

    name: str
    """What is counted, such as 'neutrophil'."""
    value: float
    unit: str
    """UCUM: '%' of the white cells, '{cells}', or that of a number of inference.blood_count."""
    low: float | None = None
    """Lower limit of the 95 % interval, in the same unit."""
    high: float | None = None


@dataclass(frozen=True)
class CaseResult:
    """What is reported of one case."""

    case: str
    """Name of the case in its laboratory; with the laboratory it identifies the report."""
    laboratory: str
    when: datetime
    """When the case was signed off, else analysed; with a time zone."""
    rows: tuple[Observation, ...]
    algorithm: str
    """Program, version and model."""
    final: bool = False
    """Signed off by a person."""
    readers: tuple[str, ...] = ()
    specimen: Specimen = ""
    patient_id: str = ""
    accession: str = ""
    order: str = ""
    conclusion: str = ""

    @property
    def identifier(self) -> str:
        """Return what names this report wherever it is sent, the same every time."""
        return f"urn:uuid:{self.uuid('report')}"

    def uuid(self, part: str) -> UUID:
        """Return the UUID of a part of this result, the same every time."""
        key = [self.laboratory, self.case, self.when.isoformat(), part]
        return uuid5(NAMESPACE_URL, f"{CODE_SYSTEM}/{'/'.join(key)}")


def codings_of(row: Observation, *, specimen: Specimen) -> Iterator[Coding]:
    """Yield the codes of a row: the program's own, and LOINC's where one was looked up for a number of blood."""
    end, meaning = {"%": ("_SHARE", ", share of white cells"), "{cells}": ("_COUNT", ", number of cells")}.get(
        row.unit, ("", "")
    )
    yield Coding(CODE_SYSTEM, f"{re.sub('[^A-Z0-9]+', '_', row.name.upper())}{end}", f"{row.name}{meaning}")
    if specimen == "blood" and (row.name, row.unit) in LOINC_OF_BLOOD:
        yield Coding(LOINC, *LOINC_OF_BLOOD[row.name, row.unit])


def interval_text(row: Observation) -> str:
    """Return the interval in words, or nothing where there is none.

    >>> interval_text(Observation("blast", 41.0, "%", 30.2, 52.7))
    '95 % interval 30.2 to 52.7 %'
    """
    if row.low is None or row.high is None:
        return ""
    low, high = (f"{end:.1f}" if row.unit == "%" else f"{end:.4g}" for end in (row.low, row.high))
    return f"95 % interval {low} to {high} {row.unit}".strip()
