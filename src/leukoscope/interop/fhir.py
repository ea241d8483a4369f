"""FHIR R4: a case as a DiagnosticReport with an Observation for each number, in one transaction, safe to repeat."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UnreachableError, require, why_unreachable
from ..files import write_json
from .case_result import NOTICE, CaseResult, Observation, codings_of, interval_text

_UCUM = "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SERVICE = "http://terminology.hl7.org/CodeSystem/v2-0074"
_TIMEOUT_S = 30.0
_SHOWN = 5  # issues of a refusal that are repeated


def bundle_of(result: CaseResult) -> dict[str, Any]:
    """Return the transaction as JSON data, checked by the R4B classes of fhir.resources.

    Every resource carries an identifier of its own and is created only where the server has none with that
    identifier, so that sending twice makes no second report.

    Raises:
        MissingExtraError: the extra `hospital` is not installed.
        DataError: two rows have the same name and unit, so that nobody could tell them apart.
    """
    resources = require("fhir.resources.R4B.bundle", feature="FHIR", extra="hospital")
    observations = {f"{row.name} {row.unit}": _observation(result, row) for row in result.rows}
    if len(observations) < len(result.rows):
        raise DataError(f"The result of {result.case} has two rows of the same name and unit.")
    report = _report(result, [f"urn:uuid:{result.uuid(part)}" for part in observations])
    entries = [_entry(resource, result, part) for part, resource in observations.items()]
    transaction = {
        "resourceType": "Bundle",
        "type": "transaction",
        "timestamp": result.when.isoformat(),
        "entry": [*entries, _entry(report, result, "report")],
    }
    checked = resources.Bundle.model_validate(transaction)
    return dict(json.loads(checked.model_dump_json()))


def write_bundle(path: Path, result: CaseResult) -> None:
    """Write the transaction as a JSON file."""
    write_json(path, bundle_of(result))


def send(url: str, bundle: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> int:
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
        raise DataError(f"{url} refused the result (HTTP {answer.status_code}): {_why(answer.text)}")
    return sum(
        entry.get("response", {}).get("status", "").startswith("201") for entry in _object(answer.text).get("entry", [])
    )


def _observation(result: CaseResult, row: Observation) -> dict[str, Any]:
    codings = [vars(coding) for coding in codings_of(row, specimen=result.specimen)]
    note = ". ".join(filter(None, [interval_text(row), NOTICE.rstrip(".")])) + "."
    return {
        "resourceType": "Observation",
        "status": _status(result),
        "category": [{"coding": [{"system": _CATEGORY, "code": "laboratory"}]}],
        "code": {"coding": codings, "text": codings[0]["display"]},
        "valueQuantity": {"value": round(row.value, 4), "unit": row.unit, "system": _UCUM, "code": row.unit},
        "device": {"display": result.algorithm},
        "note": [{"text": note}],
        **_common(result),
    }


def _report(result: CaseResult, observations: list[str]) -> dict[str, Any]:
    performers = [{"display": name} for name in (*result.readers, result.laboratory) if name]
    orders = {"basedOn": [{"identifier": {"value": result.order}}]} if result.order else {}
    return {
        "resourceType": "DiagnosticReport",
        "status": _status(result),
        "category": [{"coding": [{"system": _SERVICE, "code": "HM"}]}],
        "code": {"text": "White cells of a stained smear"},
        "issued": result.when.isoformat(),
        "conclusion": f"{NOTICE} {result.conclusion}".strip(),
        "result": [{"reference": reference} for reference in observations],
        **({"performer": performers} if performers else {}),
        **orders,
        **_common(result),
    }


def _common(result: CaseResult) -> dict[str, Any]:
    subject = {"subject": {"identifier": {"value": result.patient_id}}} if result.patient_id else {}
    specimen = {"display": " ".join(filter(None, [result.specimen, result.accession]))}
    if result.accession:
        specimen["identifier"] = {"value": result.accession}  # type: ignore[assignment]
    placed = {"specimen": specimen} if specimen["display"] else {}
    return {"effectiveDateTime": result.when.isoformat(), **subject, **placed}


def _entry(resource: dict[str, Any], result: CaseResult, part: str) -> dict[str, Any]:
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


def _status(result: CaseResult) -> str:
    return "final" if result.final else "preliminary"


def _why(text: str) -> str:
    """Return the words of an OperationOutcome, else the start of the answer."""
    issues = [
        issue.get("diagnostics") or (issue.get("details") or {}).get("text") or issue.get("code", "")
        for issue in _object(text).get("issue", [])
    ]
    return "; ".join(filter(None, issues[:_SHOWN])) or text[:200] or "no reason given"


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
