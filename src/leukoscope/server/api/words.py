"""What a request may hold: numbers that both databases can store, and text that people can read."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Path, Request, Response
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


PICTURE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The picture"},
        304: {"description": "You have it already"},
    },
}
"""What a route of pictures says of itself."""
_FOR_EVER = "private, max-age=31536000, immutable"
_ASK = "private, no-cache"


def picture_answer(
    request: Request, digest: str, what: str, draw: Callable[[], bytes], *, media: str = "image/jpeg"
) -> Response:
    """Return what is drawn from a picture; an address with `v` never changes its content, others are asked again."""
    etag = f'"{digest[:32]}-{what}"'
    kept = _FOR_EVER if "v" in request.query_params else _ASK
    headers = {"ETag": etag, "Cache-Control": kept, "Vary": "Cookie"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(draw(), media_type=media, headers=headers)
