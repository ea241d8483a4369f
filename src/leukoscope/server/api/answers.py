"""Pictures as answers: with ETag, kept by the browser, and 304 where it has them already."""

from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

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
