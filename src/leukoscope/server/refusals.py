"""What a request may hold, and what the API refuses: an HTTP status, a code for programs, a sentence for people."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Path, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import JSONResponse

from ..errors import Refusal as Refusal  # noqa: PLC0414  # the server takes all of its refusals from here
from .database import MOST_READERS


def not_found(what: str, item: int | str) -> Refusal:
    """Return the refusal for something that is not there, or belongs to another laboratory: both look the same."""
    return Refusal(404, "not_found", f"There is no {what} {item} here. Go back to the list and choose again.")


def unknown_caller() -> Refusal:
    """Return the refusal for somebody who has not logged in."""
    refusal = Refusal(401, "not_signed_in", "You are not signed in, or your session has ended. Sign in again.")
    refusal.headers = {"WWW-Authenticate": "Bearer"}
    return refusal


def not_allowed(role: str) -> Refusal:
    """Return the refusal for somebody whose role is too low."""
    return Refusal(403, "not_allowed", f"This needs the role {role}. Ask somebody who has it.", needs=role)


def signed_off(case: int) -> Refusal:
    """Return the refusal for a change of a case that has been signed off."""
    return Refusal(409, "signed", f"Case {case} is signed off. A reviewer can open it again.")


def changed_meanwhile(now: dict[str, Any]) -> Refusal:
    """Return the refusal for a change of something that is no longer as the caller saw it; `now` is how it is."""
    text = "Somebody has changed this since you saw it, so nothing was saved. Look at it again, then decide."
    refusal = Refusal(412, "changed", text, **now)
    etag = next((item["etag"] for item in now.values() if isinstance(item, dict) and "etag" in item), "")
    refusal.headers = {"ETag": f'"{etag}"'} if etag else {}
    return refusal


def try_again() -> Refusal:
    """Return the refusal for a change that met another one of the same thing at the same moment."""
    text = "Somebody else changed the same thing at the same moment, so nothing was saved. Look again, then try again."
    refusal = Refusal(409, "again", text)
    refusal.headers = {"Retry-After": "1"}
    return refusal


@dataclass(frozen=True)
class IfMatch:
    """The states that a caller has seen and wants to change, from the header If-Match."""

    etags: frozenset[str] = frozenset()
    given: bool = False
    """Whether there was such a header at all; `*` names no state."""

    def check(self, etag: str, now: Callable[[], dict[str, Any]]) -> None:
        """Refuse when the state `etag` is not one of them.

        Raises:
            Refusal: the header is missing or names nothing (428), or something else was seen (412); the answer then
                holds `now`.
        """
        if not self.etags:
            what = "was not understood: it names no state" if self.given else "is missing"
            form = "-".join([*etag.split("-")[:-2], "12-1"])
            text = f'The header If-Match {what}. Send the etag of what you saw, in the form If-Match: "{form}".'
            raise Refusal(428, "if_match", text)
        if etag not in self.etags:
            raise changed_meanwhile(now())


def bad_request(message: str, *, code: str = "bad_request", **detail: Any) -> Refusal:
    """Return the refusal for a request that cannot be understood or makes no sense."""
    return Refusal(422, code, message, **detail)


def too_large(message: str) -> Refusal:
    """Return the refusal for a request that is larger than allowed."""
    return Refusal(413, "too_large", message)


def internal_error() -> Refusal:
    """Return the answer to a request that met an error in the program."""
    text = "An error occurred in the program; nothing was changed. See its log for details. Try again, or report it."
    return Refusal(500, "broken", text)


def answer_of(refusal: Refusal) -> JSONResponse:
    """Return a refusal as the API's one shape of an error."""
    body = {"error": {"code": refusal.code, "message": str(refusal), "detail": refusal.detail}}
    return JSONResponse(body, status_code=refusal.status, headers=refusal.headers)


LARGEST = 2**53 - 1  # the largest whole number that a browser's number holds


def readable(text: str) -> str:
    """Return text without control characters, or refuse it."""
    if any(not (letter.isprintable() or letter in "\n\t") for letter in text):
        raise ValueError("holds control characters. Take them out and send it again.")
    return text


def one_line(text: str) -> str:
    """Return text of one line without control characters, or refuse it."""
    if "\n" in text:
        raise ValueError("is longer than one line. Take the line breaks out and send it again.")
    return readable(text)


Id = Annotated[int, Path(ge=1, le=LARGEST)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(one_line)]
Word = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True), AfterValidator(one_line)]
Note = Annotated[str, StringConstraints(max_length=4000), AfterValidator(readable)]
Password = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(readable)]
Point = Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=2, max_length=2)]
Outline = Annotated[list[Point], Field(min_length=3, max_length=2000)]
Readers = Annotated[int, Field(ge=1, le=MOST_READERS)]
Settling = Literal["third", "consensus"]

Answer = dict[str, Any]


class RequestBody(BaseModel):
    """Base of what is sent: closed to names that it does not know."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


PICTURE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "The picture"},
        304: {"description": "You have it already"},
    },
}
"""OpenAPI responses of a route of pictures."""
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
