"""A case as messages of a hospital's systems, by both standards of HL7: FHIR R4 and version 2.

FHIR: a DiagnosticReport with an Observation for each number, in one transaction that is safe to repeat. Version 2: an
ORU^R01 message, sent over MLLP until the receiver has acknowledged it.
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from ..errors import DataError, UnreachableError, require, why_unreachable
from ..files import write_json, write_text

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

_TIMEOUT_S = 30.0
_UCUM = "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
_MOST_ISSUES = 5  # issues of a refusal that are repeated
_VERSION = "2.5.1"
_START, _END = b"\x0b", b"\x1c\r"  # of a message in the minimal lower layer protocol
_LONGEST = 1_000_000  # bytes of an acknowledgement
_SYSTEMS = {CODE_SYSTEM: SCHEME, LOINC: "LN"}
_CONTROL_ID = 20  # most letters of MSH-10


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
    """Of the white cells whose type was determined, which sum to 100; None for other things, or too few cells."""
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


def fhir_bundle(result: CaseResult) -> dict[str, Any]:
    """Return the transaction as JSON data, checked by the R4B classes of fhir.resources.

    Every resource carries an identifier of its own and is created only where the server has none with that
    identifier, so that sending twice makes no second report.

    Raises:
        MissingExtraError: the extra `hospital` is not installed.
        DataError: two rows have the same name and unit, so that they could not be distinguished.
    """
    resources = require("fhir.resources.R4B.bundle", feature="FHIR", extra="hospital")
    observations = {f"{row.name} {row.unit}": _fhir_observation(result, row) for row in result.rows}
    if len(observations) < len(result.rows):
        raise DataError(f"The result of {result.case} has two rows of the same name and unit.")
    report = _fhir_report(result, [f"urn:uuid:{result.uuid(part)}" for part in observations])
    entries = [_fhir_entry(resource, result, part) for part, resource in observations.items()]
    transaction = {
        "resourceType": "Bundle",
        "type": "transaction",
        "timestamp": result.when.isoformat(),
        "entry": [*entries, _fhir_entry(report, result, "report")],
    }
    checked = resources.Bundle.model_validate(transaction)
    return dict(json.loads(checked.model_dump_json()))


def write_fhir(path: Path, result: CaseResult) -> None:
    """Write the transaction as a JSON file."""
    write_json(path, fhir_bundle(result))


def send_fhir(url: str, bundle: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> int:
    """Send a transaction to the base URL of a FHIR server; return how many resources it created.

    Raises:
        DataError: the server cannot be reached, or refuses; its own words are in the message.
    """
    requests = require("requests", feature="Sending to FHIR", extra="hospital")
    sent = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json", **(headers or {})}
    try:
        # A redirect would carry the patient's numbers to whatever host it names.
        answer = requests.post(url, data=json.dumps(bundle), headers=sent, timeout=_TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as failed:
        raise UnreachableError(
            f"{url} cannot be reached ({why_unreachable(failed)}). Check the address and try again."
        ) from None
    if answer.is_redirect:
        raise DataError(f"{url} points to {answer.headers.get('Location', 'another address')}. Send to that address.")
    if not answer.ok:
        raise DataError(f"{url} refused the result (HTTP {answer.status_code}): {_outcome(answer.text)}")
    return sum(
        entry.get("response", {}).get("status", "").startswith("201") for entry in _object(answer.text).get("entry", [])
    )


def _fhir_observation(result: CaseResult, row: Observation) -> dict[str, Any]:
    codings = [vars(coding) for coding in codings_of(row, specimen=result.specimen)]
    note = ". ".join(filter(None, [interval_text(row), NOTICE.rstrip(".")])) + "."
    return {
        "resourceType": "Observation",
        "status": _fhir_status(result),
        "category": [{"coding": [{"system": _CATEGORY, "code": "laboratory"}]}],
        "code": {"coding": codings, "text": codings[0]["display"]},
        "valueQuantity": {"value": round(row.value, 4), "unit": row.unit, "system": _UCUM, "code": row.unit},
        "device": {"display": result.algorithm},
        "note": [{"text": note}],
        **_fhir_common(result),
    }


def _fhir_report(result: CaseResult, observations: list[str]) -> dict[str, Any]:
    performers = [{"display": name} for name in (*result.readers, result.laboratory) if name]
    orders = {"basedOn": [{"identifier": {"value": result.order}}]} if result.order else {}
    return {
        "resourceType": "DiagnosticReport",
        "status": _fhir_status(result),
        "category": [{"coding": [{"system": _SERVICE, "code": "HM"}]}],
        "code": {"text": "White cells of a stained smear"},
        "issued": result.when.isoformat(),
        "conclusion": f"{NOTICE} {result.conclusion}".strip(),
        "result": [{"reference": reference} for reference in observations],
        **({"performer": performers} if performers else {}),
        **orders,
        **_fhir_common(result),
    }


def _fhir_common(result: CaseResult) -> dict[str, Any]:
    subject = {"subject": {"identifier": {"value": result.patient_id}}} if result.patient_id else {}
    specimen = {"display": " ".join(filter(None, [result.specimen, result.accession]))}
    if result.accession:
        specimen["identifier"] = {"value": result.accession}  # type: ignore[assignment]
    placed = {"specimen": specimen} if specimen["display"] else {}
    return {"effectiveDateTime": result.when.isoformat(), **subject, **placed}


def _fhir_entry(resource: dict[str, Any], result: CaseResult, part: str) -> dict[str, Any]:
    own = f"urn:uuid:{result.uuid(part)}"
    identified = resource | {"identifier": [{"system": "urn:ietf:rfc:3986", "value": own}]}
    if resource["resourceType"] == "DiagnosticReport":
        identified["specimen"] = [identified["specimen"]] if "specimen" in identified else []
        identified = {name: value for name, value in identified.items() if value != []}
    return {
        "fullUrl": own,
        "resource": identified,
        "request": {
            "method": "POST",
            "url": resource["resourceType"],
            "ifNoneExist": f"identifier=urn:ietf:rfc:3986|{own}",
        },
    }


def _fhir_status(result: CaseResult) -> str:
    return "final" if result.final else "preliminary"


def _outcome(text: str) -> str:
    """Return the words of an OperationOutcome, else the start of the answer."""
    issues = [
        issue.get("diagnostics") or (issue.get("details") or {}).get("text") or issue.get("code", "")
        for issue in _object(text).get("issue", [])
    ]
    return "; ".join(filter(None, issues[:_MOST_ISSUES])) or text[:200] or "no reason given"


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def oru_r01(result: CaseResult) -> str:
    """Return the message in ER7, segments separated by carriage returns, checked by hl7apy's strict validation.

    The control id is the same each time a result is written, so that a receiver recognises a repeated message.

    Raises:
        MissingExtraError: the extra `hospital` is not installed.
        DataError: something in the result cannot be written as HL7.
    """
    core = require("hl7apy.core", feature="HL7", extra="hospital")
    consts = require("hl7apy.consts", feature="HL7", extra="hospital")
    exceptions = require("hl7apy.exceptions", feature="HL7", extra="hospital")
    try:
        message = core.Message("ORU_R01", version=_VERSION, validation_level=consts.VALIDATION_LEVEL.STRICT)
        _hl7_header(message.msh, result)
        patient = message.add_group("ORU_R01_PATIENT_RESULT")
        if result.patient_id:
            patient.oru_r01_patient.pid.pid_3 = _escaped(result.patient_id)
            patient.oru_r01_patient.pid.pid_5 = "^^^^^^U"  # required: a name of type unspecified; names are not kept
        _hl7_observations(patient.add_group("ORU_R01_ORDER_OBSERVATION"), result)
        message.validate()
    except exceptions.HL7apyException as wrong:
        raise DataError(f"{result.case} cannot be written as HL7 ({wrong}).") from None
    return str(message.to_er7())


def write_hl7(path: Path, result: CaseResult) -> None:
    """Write the message as a file, one segment a line ending in a carriage return."""
    write_text(path, oru_r01(result))


def send_hl7(host: str, port: int, message: str) -> str:
    """Send one message over MLLP and return the code of its acknowledgement, AA or CA.

    Raises:
        DataError: nobody answers, or the receiver does not accept the message; its own words are in the error.
    """
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as link:
            link.sendall(_START + message.encode() + _END)
            answer = _acknowledgement(link)
    except OSError as failed:
        text = f"{where} did not take the message ({why_unreachable(failed)}). Check the address and send it again."
        raise UnreachableError(text) from None
    fields = next((line.split("|") for line in answer.split("\r") if line.startswith("MSA|")), [])
    code, text = (fields[1] if len(fields) > 1 else ""), (fields[3] if len(fields) > 3 else "")
    if code not in ("AA", "CA"):
        reason = text or _error_of(answer) or "without a reason"
        raise DataError(f"{where} did not accept the message ({code or 'no acknowledgement'}): {reason}.")
    return code


def _hl7_header(msh: Any, result: CaseResult) -> None:
    msh.msh_3, msh.msh_4 = "LEUKOSCOPE", _escaped(result.laboratory)
    msh.msh_7 = _hl7_time(result.when)
    msh.msh_9 = "ORU^R01^ORU_R01"
    msh.msh_10 = result.uuid("message").hex[:_CONTROL_ID]
    msh.msh_11 = "P"
    msh.msh_18 = "UNICODE UTF-8"


def _hl7_observations(order: Any, result: CaseResult) -> None:
    obr = order.obr
    obr.obr_1, obr.obr_4 = "1", f"SMEAR^White cells of a stained smear^{SCHEME}"
    if result.order:
        obr.obr_2 = _escaped(result.order)
    obr.obr_3 = _escaped(result.accession or result.case)
    obr.obr_7 = obr.obr_22 = _hl7_time(result.when)
    obr.obr_25 = "F" if result.final else "P"
    for number, row in enumerate(result.rows, start=1):
        segment = order.add_group("ORU_R01_OBSERVATION").obx
        segment.obx_1, segment.obx_2 = str(number), "NM"
        segment.obx_3 = _hl7_identifier(row, result)
        segment.obx_5, segment.obx_6 = f"{row.value:.4f}".rstrip("0").rstrip("."), f"{row.unit}^^UCUM"
        segment.obx_11 = "F" if result.final else "P"
        segment.obx_14 = _hl7_time(result.when)
    notes = [NOTICE, result.conclusion, f"By {result.algorithm}.", *_hl7_intervals(result)]
    if result.readers:
        notes.append(f"Read by {', '.join(result.readers)}.")
    for number, text in enumerate(filter(None, notes), start=1):
        note = order.add_segment("NTE")
        note.nte_1, note.nte_3 = str(number), _escaped(text)


def _hl7_intervals(result: CaseResult) -> list[str]:
    return [f"{row.name}: {interval_text(row)}" for row in result.rows if interval_text(row)]


def _hl7_identifier(row: Observation, result: CaseResult) -> str:
    codings = [(code.code, code.display, _SYSTEMS[code.system]) for code in codings_of(row, specimen=result.specimen)]
    return "^".join(_escaped(text) for coding in reversed(codings) for text in coding)


def _hl7_time(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%S%z")


def _escaped(text: str) -> str:
    """Return text with HL7's separators escaped and line ends as blanks.

    >>> print(_escaped("A|B^C & D"))
    A\\F\\B\\S\\C \\T\\ D
    """
    escapes = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\r": " ", "\n": " "}
    return "".join(escapes.get(letter, letter) for letter in text)


def _acknowledgement(link: socket.socket) -> str:
    """Return the first message that comes back, without its frame."""
    received = b""
    while _END not in received and len(received) < _LONGEST:
        part = link.recv(4096)
        if not part:
            break
        received += part
    return received.strip(_START + _END).decode("utf-8", "replace")


def _error_of(answer: str) -> str:
    error = next((line.split("|") for line in answer.split("\r") if line.startswith("ERR|")), [])
    return error[8] if len(error) > 8 else ""
