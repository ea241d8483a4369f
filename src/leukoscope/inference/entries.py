"""What rules and pages read out of those entries of bundle.json that Manifest leaves open to what is added later.

The entries stay the plain dicts that they are in the file. Here it is only made sure that what will be read is there,
and of its kind, so that a bundle is refused when it is opened and not halfway through somebody's cells.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class _Entry(BaseModel):
    """A part of bundle.json: nothing is turned into another kind, more names than these are welcome."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _ascending(values: list[float]) -> list[float]:
    if not 0 <= values[0] < values[1] < values[2]:
        raise ValueError("lowest, middle and highest do not ascend from 0")
    return values


Three = Annotated[list[float], Field(min_length=3, max_length=3)]
Range = Annotated[Three, AfterValidator(_ascending)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Quality(_Entry):
    side: Range
    detail: Range
    contrast: Range


class _Gate(_Entry):
    threshold: float = Field(gt=0)


class _Conformal(_Entry):
    alpha: float = Field(gt=0, lt=0.5)
    smallest_plausible: list[Share | None]
    """One for each class."""


class _Stain(_Entry):
    lab_mean: Three
    lab_spread: Three
    colours: list[Three] = Field(min_length=2, max_length=2)
    amounts: list[float] = Field(min_length=2, max_length=2)
    pixels: int


class _Verdict(_Entry):
    text: str


class _Data(_Entry):
    painted: bool = False


class _Figure(_Entry):
    value: float | None
    low: float | None
    high: float | None


class _Metrics(_Entry):
    verdict: _Verdict | None = None
    data: _Data = _Data()
    estimators: dict[str, dict[str, _Figure]] = {}


class _Credit(_Entry):
    data: str
    credit: str
    licence: str


class _Entries(_Entry):
    quality: _Quality | None = None
    gate: _Gate | None = None
    conformal: _Conformal | None = None
    stain: _Stain | None = None
    metrics: _Metrics | None = None
    credits: list[_Credit] = []


def check_entries(table: Mapping[str, Any]) -> None:
    """Make sure of the entries of bundle.json; one that is missing or empty is none, and right.

    Raises:
        pydantic.ValidationError: something that will be read is missing or of another kind.
    """
    _Entries.model_validate({name: table[name] for name in _Entries.model_fields if table.get(name)})
