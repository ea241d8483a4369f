"""Downloads go on where they broke, archives never leave their folder, and flipped bytes are found."""

import contextlib
import http.server
import io
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from leukoscope.data.release import download, fetch, unpack
from leukoscope.errors import DataError

CONTENT = os.urandom(3_000_000)


class Moody(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, understands ranges, and cuts the connection as often as `cuts` says."""

    content = CONTENT
    cuts = 0
    requests: list[str | None] = []  # noqa: RUF012 - reset for each test

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).requests.append(wanted)
        if self.path == "/missing.zip":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        cut = type(self).cuts > 0
        type(self).cuts -= cut
        self.wfile.write(self.content[start : start + 700_000] if cut else self.content[start:])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[type[Moody], str]]:
    class Handler(Moody):
        requests: list[str | None] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Handler, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as writer:
        for name, content in files.items():
            writer.writestr(name, content)
    return packed.getvalue()


def test_a_broken_connection_goes_on_where_it_ended(server: tuple[type[Moody], str], tmp_path: Path) -> None:
    handler, url = server
    handler.cuts = 3
    path = download(f"{url}/a.zip", tmp_path / "a.zip")
    assert path.read_bytes() == CONTENT
    assert handler.requests == [None, "bytes=700000-", "bytes=1400000-", "bytes=2100000-"]
    assert not (tmp_path / "a.zip.part").exists()


def test_a_connection_that_always_breaks_keeps_what_came(server: tuple[type[Moody], str], tmp_path: Path) -> None:
    handler, url = server
    handler.content = os.urandom(20_000_000)
    handler.cuts = 99
    with pytest.raises(DataError, match="broke 6 times.*same command again"):
        download(f"{url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == handler.content[: 6 * 700_000]
    assert not (tmp_path / "a.zip").exists()
    handler.cuts = 0
    assert download(f"{url}/a.zip", tmp_path / "a.zip").read_bytes() == handler.content


def test_a_download_that_was_killed_at_its_last_byte_is_whole(server: tuple[type[Moody], str], tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert download(f"{server[1]}/a.zip", tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_refusal_is_told_with_its_cure(server: tuple[type[Moody], str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404 Not Found. Check the address"):
        download(f"{server[1]}/missing.zip", tmp_path / "a.zip")


def test_a_key_stays_with_its_host(tmp_path: Path) -> None:
    """A redirect to another host goes without the key; one on the same host keeps it."""
    seen: dict[str, str | None] = {}

    class First(http.server.BaseHTTPRequestHandler):
        elsewhere = ""

        def do_GET(self) -> None:
            seen[self.path] = self.headers.get("Authorization")
            self.send_response(302)
            self.send_header("Location", "/again" if self.path == "/a.zip" else f"{self.elsewhere}/b.zip")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Second(First):
        def do_GET(self) -> None:
            seen["elsewhere"] = self.headers.get("Authorization")
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"zip")

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), First) as first,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Second) as second,
    ):
        First.elsewhere = f"http://localhost:{second.server_port}"
        for running in (first, second):
            threading.Thread(target=running.serve_forever, daemon=True).start()
        key = {"Authorization": "Basic c2VjcmV0"}
        download(f"http://127.0.0.1:{first.server_port}/a.zip", tmp_path / "a.zip", headers=key)
        first.shutdown()
        second.shutdown()
    assert seen == {"/a.zip": key["Authorization"], "/again": key["Authorization"], "elsewhere": None}


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "without"])
def test_a_download_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    monkeypatch.setattr("leukoscope.data.release._MOST_DOWNLOAD", 2_000_000)

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if told:
                self.send_header("Content-Length", "2000000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(100_000))

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with pytest.raises(DataError, match="not the release"):
            download(f"http://127.0.0.1:{running.server_port}/a.zip", tmp_path / "a.zip")
        running.shutdown()
    assert list(tmp_path.iterdir()) == [] or sum(each.stat().st_size for each in tmp_path.iterdir()) <= 2_000_000


def test_fetch_downloads_and_unpacks(server: tuple[type[Moody], str], tmp_path: Path) -> None:
    handler, url = server
    handler.content = archive({"C-NMC_Leukemia/a.bmp": b"a" * 1000, "C-NMC_Leukemia/b/c.bmp": b"c"})
    fetch(f"{url}/archive.zip", tmp_path / "out")
    assert (tmp_path / "out" / "C-NMC_Leukemia" / "b" / "c.bmp").read_bytes() == b"c"


def test_flipped_bytes_in_an_archive_are_found(tmp_path: Path) -> None:
    content = bytearray(archive({"a.bmp": os.urandom(10_000)}))
    content[5_000] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []  # no half-written file


@pytest.mark.parametrize("name", ["../evil.bmp", "/evil.bmp", "a/../../evil.bmp", "..\\evil.bmp", "C:/evil.bmp"])
def test_an_archive_that_would_leave_its_folder_is_not_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(archive({"good.bmp": b"", name: b"evil"}))
    with pytest.raises(DataError, match="unsafe name"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert {path.name for path in tmp_path.rglob("*")} <= {"a.zip", "out"}


def test_a_link_in_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        writer.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="unsafe name"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_unpacking_again_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive({"a.bmp": b"12345", "b.bmp": b"678"}))
    unpack(tmp_path / "a.zip", tmp_path)
    kept = (tmp_path / "a.bmp").stat().st_mtime_ns
    (tmp_path / "b.bmp").write_bytes(b"6")  # as an interrupted copy would leave it
    unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "a.bmp").stat().st_mtime_ns == kept
    assert (tmp_path / "b.bmp").read_bytes() == b"678"


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>log in</html>")
    with pytest.raises(DataError, match="no zip archive"):
        unpack(tmp_path / "a.zip", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        unpack(tmp_path / "b.zip", tmp_path)


def test_kaggle_without_an_account_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    with pytest.raises(DataError, match="KAGGLE_USERNAME"):
        fetch("kaggle", tmp_path / "out")
