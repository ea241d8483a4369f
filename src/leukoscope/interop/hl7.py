"""HL7 version 2: a case as an ORU^R01 message, and its way over MLLP with the receiver's acknowledgement."""

import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import DataError, UnreachableError, require, why_unreachable
from ..files import write_text
from .case_result import CODE_SYSTEM, LOINC, NOTICE, SCHEME, CaseResult, Observation, codings_of, interval_text

VERSION = "2.5.1"
START, END = b"\x0b", b"\x1c\r"  # of a message in the minimal lower layer protocol
_TIMEOUT_S = 30.0
_LONGEST = 1_000_000  # bytes of an acknowledgement
_SYSTEMS = {CODE_SYSTEM: SCHEME, LOINC: "LN"}
_CONTROL_ID = 20  # most letters of MSH-10


def oru_r01(result: CaseResult) -> str:
    """Return the message in ER7, segments separated by carriage returns, checked by hl7apy's strict validation.

    The control id is the same each time a result is written, so that a receiver can tell a repeated message.

    Raises:
        MissingExtraError: the extra `hospital` is not installed.
        DataError: something in the result cannot be said in HL7.
    """
    core = require("hl7apy.core", feature="HL7", extra="hospital")
    consts = require("hl7apy.consts", feature="HL7", extra="hospital")
    exceptions = require("hl7apy.exceptions", feature="HL7", extra="hospital")
    try:
        message = core.Message("ORU_R01", version=VERSION, validation_level=consts.VALIDATION_LEVEL.STRICT)
        _header(message.msh, result)
        patient = message.add_group("ORU_R01_PATIENT_RESULT")
        if result.patient_id:
            patient.oru_r01_patient.pid.pid_3 = _clean(result.patient_id)
            patient.oru_r01_patient.pid.pid_5 = "^^^^^^U"  # required: a name of type unspecified; names are not kept
        _observations(patient.add_group("ORU_R01_ORDER_OBSERVATION"), result)
        message.validate()
    except exceptions.HL7apyException as wrong:
        raise DataError(f"{result.case} cannot be written as HL7 ({wrong}).") from None
    return str(message.to_er7())


def write_message(path: Path, result: CaseResult) -> None:
    """Write the message as a file, one segment a line ending in a carriage return."""
    write_text(path, oru_r01(result))


def send(host: str, port: int, message: str) -> str:
    """Send one message over MLLP and return the code of its acknowledgement, AA or CA.

    Raises:
        DataError: nobody answers, or the receiver does not accept the message; its own words are in the error.
    """
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as link:
            link.sendall(START + message.encode() + END)
            answer = _answer(link)
    except OSError as failed:
        text = f"{where} did not take the message ({why_unreachable(failed)}). Check the address and send it again."
        raise UnreachableError(text) from None
    fields = next((line.split("|") for line in answer.split("\r") if line.startswith("MSA|")), [])
    code, text = (fields[1] if len(fields) > 1 else ""), (fields[3] if len(fields) > 3 else "")
    if code not in ("AA", "CA"):
        reason = text or _error_of(answer) or "without a reason"
        raise DataError(f"{where} did not accept the message ({code or 'no acknowledgement'}): {reason}.")
    return code


def _header(msh: Any, result: CaseResult) -> None:
    msh.msh_3, msh.msh_4 = "LEUKOSCOPE", _clean(result.laboratory)
    msh.msh_7 = _time(result.when)
    msh.msh_9 = "ORU^R01^ORU_R01"
    msh.msh_10 = result.uuid("message").hex[:_CONTROL_ID]
    msh.msh_11 = "P"
    msh.msh_18 = "UNICODE UTF-8"


def _observations(order: Any, result: CaseResult) -> None:
    obr = order.obr
    obr.obr_1, obr.obr_4 = "1", f"SMEAR^White cells of a stained smear^{SCHEME}"
    if result.order:
        obr.obr_2 = _clean(result.order)
    obr.obr_3 = _clean(result.accession or result.case)
    obr.obr_7 = obr.obr_22 = _time(result.when)
    obr.obr_25 = "F" if result.final else "P"
    for number, row in enumerate(result.rows, start=1):
        segment = order.add_group("ORU_R01_OBSERVATION").obx
        segment.obx_1, segment.obx_2 = str(number), "NM"
        segment.obx_3 = _identifier(row, result)
        segment.obx_5, segment.obx_6 = f"{row.value:.4f}".rstrip("0").rstrip("."), f"{row.unit}^^UCUM"
        segment.obx_11 = "F" if result.final else "P"
        segment.obx_14 = _time(result.when)
    notes = [NOTICE, result.conclusion, f"By {result.algorithm}.", *_intervals(result)]
    if result.readers:
        notes.append(f"Read by {', '.join(result.readers)}.")
    for number, text in enumerate(filter(None, notes), start=1):
        note = order.add_segment("NTE")
        note.nte_1, note.nte_3 = str(number), _clean(text)


def _intervals(result: CaseResult) -> list[str]:
    return [f"{row.name}: {interval_text(row)}" for row in result.rows if interval_text(row)]


def _identifier(row: Observation, result: CaseResult) -> str:
    codings = [(code.code, code.display, _SYSTEMS[code.system]) for code in codings_of(row, specimen=result.specimen)]
    return "^".join(_clean(text) for coding in reversed(codings) for text in coding)


def _time(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%S%z")


def _clean(text: str) -> str:
    """Return text with HL7's separators escaped and line ends as blanks.

    >>> print(_clean("A|B^C & D"))
    A\\F\\B\\S\\C \\T\\ D
    """
    escapes = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\r": " ", "\n": " "}
    return "".join(escapes.get(letter, letter) for letter in text)


def _answer(link: socket.socket) -> str:
    """Return the first message that comes back, without its frame."""
    received = b""
    while END not in received and len(received) < _LONGEST:
        part = link.recv(4096)
        if not part:
            break
        received += part
    return received.strip(START + END).decode("utf-8", "replace")


def _error_of(answer: str) -> str:
    error = next((line.split("|") for line in answer.split("\r") if line.startswith("ERR|")), [])
    return error[8] if len(error) > 8 else ""
