"""DICOMweb: images fetched from a hospital's archive (QIDO-RS, WADO-RS), results stored in it (STOW-RS)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, UnreachableError, require, why_unreachable
from ..files import write_whole
from ..progress import track

Say = Callable[[str], None]
_TIMEOUT_S = 60.0  # for one answer
_INSTANCE, _SERIES = "00080018", "0020000E"  # tags in QIDO-RS answers
_UID = re.compile(r"[0-9.]{1,64}")
# Reasons that PS3.18, section 10.5.3 (Table I.2-2) gives for instances that were not stored.
_REASONS = {
    0xA700: "the archive is out of resources",
    0xA900: "the data do not match their SOP class",
    0xC000: "the archive cannot understand the data",
    0x0110: "processing failed",
    0x0122: "the archive does not take this SOP class",
    0x0124: "not authorised",
}


@dataclass(frozen=True)
class Archive:
    """The DICOMweb service of an archive."""

    url: str
    """Base URL, such as http://localhost:8042/dicom-web."""
    user: str = ""
    password: str = ""
    token: str = ""
    """Bearer token; used instead of user and password."""

    def client(self) -> Any:
        """Return a client of dicomweb-client.

        Raises:
            MissingExtraError: the extra `hospital` is not installed.
        """
        api = require("dicomweb_client.api", feature="DICOMweb", extra="hospital")
        session = _session()
        if self.user and not self.token:
            session.auth = (self.user, self.password)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        client = api.DICOMwebClient(self.url, session=session, headers=headers)
        client.set_http_retry_params(retry=False)
        return client


def fetch(archive: Archive, folder: Path, *, study: str, series: str = "", say: Say) -> list[Path]:
    """Fetch all images of a study, or of one of its series, as FOLDER/<SOP instance UID>.dcm.

    A file that is there already is not fetched again, so a stopped call continues when it is repeated.

    Raises:
        DataError: the archive cannot be reached, refuses, or has no such images.
    """
    client = archive.client()
    with _explained(archive):
        found = client.search_for_instances(study, series or None)
    if not found:
        raise DataError(f"{archive.url} has no images of study {study}{' in that series' if series else ''}.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for instance in track(found, "Fetching", total=len(found)):
        uid = _first(instance, _INSTANCE)
        if not _UID.fullmatch(uid):  # it becomes a file's name
            raise DataError(f"{archive.url} names an image {uid!r}, which is no UID. Ask who runs the archive.")
        path = folder / f"{uid}.dcm"
        if not path.exists():
            with _explained(archive):
                data = client.retrieve_instance(study, _first(instance, _SERIES), uid)
            with write_whole(path) as beside:
                data.save_as(beside, enforce_file_format=True)
        paths.append(path)
    say(f"Fetched {len(paths)} images of study {study} to {folder}.")
    return paths


def store(archive: Archive, files: Sequence[Path], *, say: Say) -> int:
    """Store DICOM files one by one and return how many were new; what the archive has already is not sent again.

    Raises:
        DataError: a file is not DICOM, or the archive cannot be reached or refuses one; what was stored before stays
            stored, and the same call sends the rest.
    """
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    client = archive.client()
    stored = 0
    for path in track(files, "Storing", total=len(files)):
        try:
            data = pydicom.dcmread(path)
            study, uid = str(data.StudyInstanceUID), str(data.SOPInstanceUID)
        except (OSError, AttributeError, pydicom.errors.InvalidDicomError) as wrong:
            raise DataError(f"{path} is not a DICOM file that can be stored ({wrong}).") from None
        with _explained(archive, done=stored):
            if client.search_for_instances(study, search_filters={"SOPInstanceUID": uid}):
                continue
            answer = client.store_instances([data])
        _check(answer, path, archive)
        stored += 1
    say(f"Stored {stored} of {len(files)} files in {archive.url}; {len(files) - stored} were there already.")
    return stored


def _session() -> Any:
    """Return a session that waits for no answer without end, and carries nothing to where a redirect leads."""
    requests = require("requests", feature="DICOMweb", extra="hospital")

    class Bounded(requests.adapters.HTTPAdapter):  # type: ignore[misc, name-defined]
        def send(self, request: Any, **more: Any) -> Any:
            return super().send(request, **(more | {"timeout": more.get("timeout") or _TIMEOUT_S}))

    session = requests.Session()
    session.max_redirects = 0
    for scheme in ("http://", "https://"):
        session.mount(scheme, Bounded())
    return session


@contextmanager
def _explained(archive: Archive, *, done: int | None = None) -> Iterator[None]:
    """Turn the errors of the connection into one sentence."""
    requests = require("requests", feature="DICOMweb", extra="hospital")
    kept = "" if done is None else f" {done} files were stored; the same command sends the rest."
    try:
        yield
    except requests.HTTPError as refused:
        status = refused.response.status_code if refused.response is not None else "no status"
        text = refused.response.text[:200] if refused.response is not None else ""
        raise DataError(f"{archive.url} refused (HTTP {status}): {text.strip() or 'no reason given'}.{kept}") from None
    except (requests.RequestException, OSError) as failed:
        raise UnreachableError(
            f"{archive.url} cannot be reached ({why_unreachable(failed)}). Check the address.{kept}"
        ) from None


def _check(answer: Any, path: Path, archive: Archive) -> None:
    """Refuse an answer that says the instance was not stored."""
    failed = getattr(answer, "FailedSOPSequence", [])
    if failed:
        code = int(getattr(failed[0], "FailureReason", 0))
        raise DataError(f"{archive.url} did not store {path}: {_REASONS.get(code, f'reason {code:#06x}')}.")


def _first(instance: Mapping[str, Any], tag: str) -> str:
    return str(instance[tag]["Value"][0])
