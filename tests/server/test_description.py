"""Requests made up from the API's own description: none may break it, and every answer is as described."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.conftest import Place, Visitor, cell_picture

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 4  # of each route, allowed ones and forbidden ones each
ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")  # what takes things away comes last


def test_no_request_breaks_the_room(place: Place) -> None:
    me = place.local()
    me.case(pictures=[cell_picture(1)])
    schema = schemathesis.openapi.from_dict(place.app.openapi())
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 35
    for operation in sorted(
        operations, key=lambda each: (each.path.endswith("/session"), ORDER.index(each.method.upper()))
    ):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            walk(operation, mode, me)


def walk(operation: Any, mode: GenerationMode, me: Visitor) -> None:
    """Send made-up requests to one route."""
    cookie = f"leukoscope_session={me.client.cookies.get('leukoscope_session', '')}"
    headers = {"Cookie": cookie, "X-CSRF-Token": me.csrf}
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return  # nothing that could be wrong

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1", headers=headers)
        if sent.get("files"):
            sent["files"] = [(name, (file, _as_text(value), *more)) for name, (file, value, *more) in sent["files"]]
        answer = me.client.request(**sent)
        answer.request.read()  # schemathesis shows it when a check fails
        case.validate_response(answer, checks=CHECKS)

    send()


def _as_text(value: Any) -> Any:
    """Return what a form can carry: schemathesis leaves numbers in lists of unknown fields."""
    return value if isinstance(value, bytes | str) else str(value)
