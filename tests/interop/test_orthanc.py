"""DICOMweb against Orthanc, a real archive."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
import requests
from click.testing import CliRunner
from pydicom.uid import VLMicroscopicImageStorage, generate_uid

from leukoscope.cli import leukoscope
from leukoscope.errors import DataError
from leukoscope.interop.dicom import Archive, fetch, store
from tests.interop.test_dicom import _common

pytest.importorskip("dicomweb_client")
_PLUGINS = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = pytest.mark.skipif(
    not (shutil.which("Orthanc") and _PLUGINS.exists()),
    reason="Debian's orthanc-dicomweb is not installed",
)
STUDY = generate_uid()


@dataclass
class Orthanc:
    """A running Orthanc with its DICOMweb plug-in, for user ada with password secret."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def archive(self) -> Archive:
        return Archive(f"http://127.0.0.1:{self.port}/dicom-web", "ada", "secret")

    def start(self) -> None:
        settings = {
            "StorageDirectory": str(self.folder),
            "IndexDirectory": str(self.folder),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "Plugins": [str(_PLUGINS)],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"ada": "secret"},
            "DicomWeb": {"Enable": True},
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        self.process = subprocess.Popen(["Orthanc", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                requests.get(
                    f"http://127.0.0.1:{self.port}/system", auth=("ada", "secret"), timeout=5
                ).raise_for_status()
            except requests.RequestException:
                time.sleep(0.1)
            else:
                return
        raise TimeoutError("Orthanc did not start")

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def count(self) -> int:
        found = requests.get(f"http://127.0.0.1:{self.port}/instances", auth=("ada", "secret"), timeout=10)
        return len(found.json())


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "orthanc").mkdir()
    server = Orthanc(tmp_path / "orthanc", port)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three images of one study."""
    paths = []
    for number in range(3):
        image = _common(VLMicroscopicImageStorage)
        image.StudyInstanceUID = STUDY
        image.Rows = image.Columns = 64
        image.PixelData = bytes([number]) * (64 * 64 * 3)
        paths.append(tmp_path / f"{number}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _quiet(_: str) -> None:
    pass


def test_what_is_stored_is_fetched_again_pixel_by_pixel(orthanc: Orthanc, images: list[Path], tmp_path: Path) -> None:
    assert store(orthanc.archive, images, report=_quiet) == 3
    fetched = fetch(orthanc.archive, tmp_path / "out", study=STUDY, report=_quiet)
    sent = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path).PixelData for path in images}
    assert {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path).PixelData for path in fetched} == sent


def test_an_archive_that_dies_in_the_middle_gets_the_rest_and_nothing_twice(
    orthanc: Orthanc, images: list[Path]
) -> None:
    assert store(orthanc.archive, images[:1], report=_quiet) == 1
    orthanc.kill()
    with pytest.raises(DataError, match="cannot be reached.*sends the rest"):
        store(orthanc.archive, images, report=_quiet)
    orthanc.start()
    assert store(orthanc.archive, images, report=_quiet) == 2
    assert store(orthanc.archive, images, report=_quiet) == 0
    assert orthanc.count() == 3


def test_a_stopped_fetch_continues(orthanc: Orthanc, images: list[Path], tmp_path: Path) -> None:
    store(orthanc.archive, images, report=_quiet)
    first = fetch(orthanc.archive, tmp_path / "out", study=STUDY, report=_quiet)
    kept = first[0].stat().st_mtime_ns
    first[1].unlink()
    assert fetch(orthanc.archive, tmp_path / "out", study=STUDY, report=_quiet) == first
    assert first[0].stat().st_mtime_ns == kept


def test_refusals_are_one_sentence(orthanc: Orthanc, images: list[Path], tmp_path: Path) -> None:
    stranger = Archive(orthanc.archive.url, "eve", "guess")
    with pytest.raises(DataError, match="refused \\(HTTP 401\\)"):
        store(stranger, images, report=_quiet)
    with pytest.raises(DataError, match="has no images of study"):
        fetch(orthanc.archive, tmp_path / "out", study=generate_uid(), report=_quiet)
    (tmp_path / "x.dcm").write_text("not DICOM")
    with pytest.raises(DataError, match="not a DICOM file"):
        store(orthanc.archive, [tmp_path / "x.dcm"], report=_quiet)


def test_the_commands_say_what_they_did(
    orthanc: Orthanc, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "LEUKOSCOPE_PASSWORD", "secret")
    url = orthanc.archive.url
    sent = CliRunner().invoke(leukoscope, ["send", "dicomweb", url, *map(str, images), "--user", "ada"])
    assert (sent.exit_code, sent.output) == (0, f"Stored 3 of 3 files in {url}; 0 were already there.\n")
    out = tmp_path / "out"
    got = CliRunner().invoke(leukoscope, ["fetch", "dicomweb", url, "--study", STUDY, "-o", str(out), "--user", "ada"])
    assert (got.exit_code, got.output) == (0, f"Fetched 3 images of study {STUDY} to {out}.\n")
