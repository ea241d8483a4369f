"""Download a release and unpack it: resumable, checked, and never outside the folder it was told."""

import contextlib
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from ..artifacts import read_json, write_whole
from ..errors import DataError
from ..progress import track

KAGGLE = "https://www.kaggle.com/api/v1/datasets/download/avk256/cnmc-leukemia"
_CHUNK = 1 << 20
_TRIES = 6
# The whole release unpacks to 11 GB; an archive that claims much more is a bomb or something else.
_MOST_BYTES = 40_000_000_000


def fetch(source: str, folder: Path) -> Path:
    """Bring the release into FOLDER and return FOLDER.

    The archive lies beside FOLDER, not in it. A broken download goes on where it ended when the same command is given
    again; files that were already unpacked whole are kept.

    Args:
        source: 'kaggle' (needs KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json), an http(s) URL of a zip
            archive, or the path of one.
        folder: where to unpack.

    Raises:
        DataError: the source cannot be reached, ends early, is no zip archive, or has unsafe names in it.
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
    """Download `url` to `path`, going on from PATH.part if there is one; return `path`.

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
    raise DataError(f"The connection to {url} broke {_TRIES} times. {kept} the same command again to go on.")


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
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as refused:
        if refused.code == 416 and have:  # nothing is left to fetch
            return True
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        for chunk in _chunks(answer, start=start, total=total):
            file.write(chunk)
    return total is None or part.stat().st_size == total


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
    with write_whole(target) as beside, packed.open(member) as source, beside.open("wb") as file:
        written = 0
        while chunk := source.read(_CHUNK):  # zipfile proves the CRC at the end of the file
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
