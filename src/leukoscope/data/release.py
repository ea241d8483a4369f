"""The C-NMC 2019 release: its names, its parts, its labels and the digest of every file.

Source: Gupta & Gupta, ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive, 2019,
doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0.
"""

import contextlib
import csv
import lzma
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from io import TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import DataError
from ..files import atomic_write, read_csv, read_json, sha256_of
from ..progress import in_parallel, track

SOURCE = "C-NMC 2019"
LABEL_COLUMNS = ("Patient_ID", "new_names", "labels")
SIDES = (450, 600)
"""Pixels; the final test is 600x600, everything else 450x450."""
SHARED_FILES = (("20", "21"), ("51", "75", "78"), ("H2", "H4", "H5", "H6"), ("H3", "H10"))
"""Subject ids of the release under which byte-identical files appear."""
SHARED_CELLS = (("1", "15", "16", "17", "18", "20"), ("43", "44"), ("H2", "H7"), ("H14", "H24"))
"""Further ids under which the same cell appears twice, photographed or normalised again, so that the bytes differ;
found by `leukoscope data audit` on 6,596 originals and seen by eye. Tests hold both tables to the images; they are
stated here because a part of the release may lack the very images that show it."""
_NAME = re.compile(r"UID_(?P<subject>[Hh]?\d+)_(?P<image>\d+)_(?P<cell>\d+)_(?P<label>all|hem)")
_TEST_FOLDER = re.compile(r"C-NMC_test_(prelim|final)_phase_data")
_LABELS_FILE = "C-NMC_test_prelim_phase_data_labels.csv"


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of the release as published."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Verified:
    """What a folder holds of the release; every name is the release's own path, except in `extra`."""

    intact: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.changed or self.extra)


def part_of(path: PurePosixPath) -> str:
    """Return fold_0, fold_1, fold_2, prelim_test or final_test from the folders of a path, or '' for none of them."""
    for folder in reversed(path.parent.parts):
        if re.fullmatch(r"fold_\d", folder):
            return folder
        if test := _TEST_FOLDER.match(folder):
            return f"{test[1]}_test"
    return ""


def label_and_subject(name: str) -> tuple[str, str] | None:
    """Read ('all', '20') from UID_20_1_2_all.bmp; None when the name is of another kind. Subject h3 becomes H3."""
    found = _NAME.match(name)
    return (found["label"], found["subject"].upper()) if found else None


def is_cnmc(paths: list[PurePosixPath]) -> bool:
    """Return whether these files have the folders and names of the release."""
    return any(part_of(path) and (label_and_subject(path.name) or part_of(path).endswith("_test")) for path in paths)


def read_labels(path: Path) -> dict[str, str]:
    """Read the labels of the preliminary test: {'1': 'UID_57_29_1_all.bmp', …}, keyed by file name without suffix.

    Raises:
        DataError: a row is there twice, or an original id is not of the release's form.
    """
    originals: dict[str, str] = {}
    for row in read_csv(path, required=LABEL_COLUMNS):
        image, original = Path(row["new_names"]).stem, row["Patient_ID"]
        if image in originals:
            raise DataError(f"{path} has two rows for {row['new_names']}. Keep the right one and delete the other.")
        if label_and_subject(original) is None:
            raise DataError(f"{path}: '{original}' is not of the form UID_<subject>_<image>_<cell>_<all|hem>.bmp.")
        originals[image] = original
    return originals


def find_labels(root: Path) -> Path | None:
    """Return the labels CSV of the preliminary test anywhere under a folder, or None."""
    return next(iter(sorted(root.rglob("*prelim*labels*.csv"))), None)


def release_files() -> Iterator[ReleaseFile]:
    """Yield every file of the release with its SHA-256: 15,114 images and the labels CSV."""
    with (
        resources.files(__package__).joinpath("cnmc_release.csv.xz").open("rb") as packed,
        TextIOWrapper(lzma.open(packed), encoding="utf-8") as text,
    ):
        for row in csv.DictReader(text):
            yield ReleaseFile(row["path"], row["sha256"], int(row["bytes"]))


def verify(root: Path) -> Verified:
    """Compare a folder with the release, file by file, by SHA-256.

    The folder may be the top of the release or any part of it unpacked under any name: files are matched by part,
    class and name.

    Raises:
        DataError: the folder does not exist or holds no file of the release.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder that the release was unpacked to.")
    expected = {_key(PurePosixPath(file.path)): file for file in release_files()}
    found = {path: PurePosixPath(path.relative_to(root.parent)) for path in sorted(root.rglob("*")) if path.is_file()}
    matched = {path: expected[_key(inside)] for path, inside in found.items() if _key(inside) in expected}
    if not matched:
        raise DataError(f"{root} holds no file of C-NMC 2019. Give the folder that the release was unpacked to.")
    digests = dict(zip(matched, track(in_parallel(sha256_of, matched), "Hashing", total=len(matched)), strict=True))
    intact = {path for path, file in matched.items() if digests[path] == file.sha256}
    return Verified(
        intact=tuple(matched[path].path for path in matched if path in intact),
        missing=tuple(sorted({file.path for file in expected.values()} - {file.path for file in matched.values()})),
        changed=tuple(matched[path].path for path in matched if path not in intact),
        extra=tuple(str(path.relative_to(root)) for path in found if path not in matched),
    )


def _key(path: PurePosixPath) -> tuple[str, str]:
    """Return what identifies a file of the release wherever it was unpacked to."""
    return ("", path.name) if path.name == _LABELS_FILE else (part_of(path), path.name)


KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/avk256/cnmc-leukemia"
_CHUNK = 1 << 20
_TRIES = 6
# The whole release unpacks to 11 GB; an archive that claims much more is a bomb or something else.
_MOST_BYTES = 40_000_000_000
_MOST_DOWNLOAD = 20_000_000_000  # the archive of the whole release has less than 11 GB


def fetch(source: str, folder: Path) -> Path:
    """Download and unpack the release into FOLDER, and return FOLDER.

    The archive lies beside FOLDER, not in it. An interrupted download resumes when the same command is given
    again; files that are already unpacked completely are kept.

    Args:
        source: 'kaggle' (needs KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), an http(s) URL of a zip
            archive, or the path of one.
        folder: where to unpack.

    Raises:
        DataError: the source cannot be reached, ends early, is not a zip archive, or has unsafe names in it.
    """
    if source == "kaggle":
        archive = download(KAGGLE, folder.parent / "cnmc-leukemia.zip", headers=_kaggle_headers())
    elif source.startswith(("http://", "https://")):
        name = PurePosixPath(urllib.parse.urlparse(source).path).name or "archive.zip"
        archive = download(source, folder.parent / name)
    else:
        archive = Path(source)
    unpack(archive, folder)
    return folder


def download(url: str, path: Path, *, headers: dict[str, str] | None = None) -> Path:
    """Download `url` to `path`, continuing from PATH.part if there is one; return `path`.

    Raises:
        DataError: the server refuses, or the connection broke time after time.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(_TRIES):
        try:
            if _download_rest(url, part, headers=headers or {}):
                part.replace(path)
                return path
        except urllib.error.HTTPError as refused:
            if refused.code < 500:
                raise DataError(_refusal(url, refused)) from None
        except (OSError, HTTPException) as broken:
            if isinstance(broken, OSError) and broken.filename:  # the disk, not the line
                raise
        time.sleep(min(0.2 * 2**attempt, 5))
    kept = f"What came is kept in {part}; give" if part.exists() else "Nothing came. Check the address, then give"
    raise DataError(f"The connection to {url} broke {_TRIES} times. {kept} the same command again to continue.")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive under FOLDER, each file whole or not at all; keep files that are there whole.

    Raises:
        DataError: not a zip archive, damaged, too large, or a name that would leave the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            targets = {member.filename: _safe(member, folder, archive) for member in members}
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise DataError(
                    f"{archive} would unpack to more than {_MOST_BYTES // 10**9} GB. It is not the release."
                )
            for member in track(members, "Unpacking", total=len(members)):
                target = targets[member.filename]
                if not _is_there(target, member):
                    _unpack_one(packed, member, target)
    except FileNotFoundError:
        raise DataError(f"{archive} does not exist. Give a zip archive, a URL, or 'kaggle'.") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as damaged:
        raise DataError(
            f"{archive} is damaged or no zip archive ({damaged}). Delete it and download it again."
        ) from None


def _download_rest(url: str, part: Path, *, headers: dict[str, str]) -> bool:
    """Fetch what is still missing of one file; return whether it is now whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers=headers | ({"Range": f"bytes={have}-"} if have else {}))
    try:
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=60)
    except urllib.error.HTTPError as refused:
        if refused.code == 416 and have:  # nothing is left to fetch
            return True
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if (total or 0) > _MOST_DOWNLOAD:
            raise DataError(f"{url} {_TOO_LONG}")
        for chunk in _chunks(answer, start=start, total=total):
            file.write(chunk)
            if file.tell() > _MOST_DOWNLOAD:
                part.unlink(missing_ok=True)
                raise DataError(f"{url} {_TOO_LONG}")
    return total is None or part.stat().st_size == total


_TOO_LONG = f"sends more than {_MOST_DOWNLOAD // 10**9} GB. It is not the release. Check the address."


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, without the key to other hosts, and never from https to http."""

    def redirect_request(  # noqa: PLR0917  # as its base calls it
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request that follows, or refuse it."""
        old, new = (urllib.parse.urlsplit(each) for each in (req.full_url, newurl))
        if old.scheme == "https" and new.scheme != "https":
            raise urllib.error.HTTPError(req.full_url, code, "leads to an address without TLS", headers, fp)
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            found.remove_header("Authorization")
        return found


def _chunks(answer: IO[bytes], *, start: int, total: int | None) -> Iterator[bytes]:
    """Yield what the server sends; a connection that breaks ends it, so that what came is kept."""
    count = None if total is None else -(-(total - start) // _CHUNK)
    with contextlib.suppress(HTTPException, ConnectionError, TimeoutError):
        yield from track(iter(lambda: answer.read(_CHUNK), b""), "Downloading", total=count)


def _safe(member: zipfile.ZipInfo, folder: Path, archive: Path) -> Path:
    name = member.filename.replace("\\", "/")
    steps = PurePosixPath(name).parts
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    if name.startswith("/") or ".." in steps or ":" in steps[0] or is_link:
        raise DataError(f"{archive} holds the unsafe name '{member.filename}'. Nothing was unpacked; do not trust it.")
    return folder.joinpath(*steps)


def _unpack_one(packed: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    with atomic_write(target) as beside, packed.open(member) as source, beside.open("wb") as file:
        written = 0
        while chunk := source.read(_CHUNK):  # zipfile verifies the CRC at the end of the file
            written += len(chunk)
            if written > member.file_size:
                raise zipfile.BadZipFile(f"{member.filename} is longer than it claims")
            file.write(chunk)


def _is_there(target: Path, member: zipfile.ZipInfo) -> bool:
    if not target.exists() or target.stat().st_size != member.file_size:
        return False
    crc = 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _refusal(url: str, refused: urllib.error.HTTPError) -> str:
    cure = {
        401: "Check the user name and key.",
        403: "Check the key, and accept the data set's terms on its page.",
        404: "Check the address.",
    }
    return f"{url} answers {refused.code} {refused.reason}. {cure.get(refused.code, 'Try again later.')}"


def _kaggle_headers() -> dict[str, str]:
    user, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    saved = Path.home() / ".kaggle" / "kaggle.json"
    if not (user and key) and saved.exists():
        account = read_json(saved)
        user, key = account.get("username"), account.get("key")
    if not (user and key):
        raise DataError("Kaggle wants an account: set KAGGLE_USERNAME and KAGGLE_KEY, or save ~/.kaggle/kaggle.json.")
    return {"Authorization": "Basic " + b64encode(f"{user}:{key}".encode()).decode()}
