"""What a request may hold: numbers that both databases can store, and text that people can read."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

LARGEST = 2**53 - 1  # the largest whole number that a browser's number holds


def _readable(text: str) -> str:
    if any(not (letter.isprintable() or letter in "\n\t") for letter in text):
        raise ValueError("may not hold control characters")
    return text


Id = Annotated[int, Path(ge=1, le=LARGEST)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_readable)]
Word = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True), AfterValidator(_readable)]
Note = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_readable)]
Password = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_readable)]
Point = Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=2, max_length=2)]
Outline = Annotated[list[Point], Field(min_length=3, max_length=2000)]

Answer = dict[str, Any]


class Body(BaseModel):
    """Base of what is sent: closed to names that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
