"""Bundles by address, through huggingface_hub, from a hub that runs on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import leukoscope as lk
from leukoscope.bundle.manifest import SHIPPED

pytest.importorskip("huggingface_hub")

COMMIT = hashlib.sha1(b"first", usedforsecurity=False).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """The part of a model hub that serves files: /owner/name/resolve/REVISION/FILE."""

    def __init__(self, *args: object, models: Path, asked: list[str]) -> None:
        self.models, self.asked = models, asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        repository, found, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.asked.append(f"{self.command} {name}")
        if not found or not (self.models / repository).is_dir():
            return self._refuse("RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._refuse("RevisionNotFound")
        path = self.models / repository / name
        if not path.is_file():
            return self._refuse("EntryNotFound")
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder that the hub serves; it holds the shipped bundle as laboratory/lymphoblasts."""
    shutil.copytree(SHIPPED, tmp_path / "models" / "laboratory" / "lymphoblasts")
    return tmp_path / "models"


@pytest.fixture
def hub(models: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a program that knows this hub and no other."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, models=models, asked=asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    server.shutdown()


def loaded(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Load a bundle in a process of its own, for the hub's address is read when its client is imported."""
    code = "import sys, leukoscope as lk\ntry: print(lk.load(sys.argv[1]).manifest.seal)\n"
    code += "except lk.errors.LeukoscopeError as error: print(type(error).__name__, error)"
    return subprocess.run(
        [sys.executable, "-c", code, address], env=os.environ | environment, capture_output=True, text=True, check=True
    )


def test_a_bundle_is_fetched_once_and_then_found_without_the_network(hub: dict[str, str], models: Path) -> None:
    seal = lk.load().manifest.seal
    assert loaded("hf://laboratory/lymphoblasts", hub).stdout.strip() == seal
    shutil.rmtree(models / "laboratory")
    assert loaded("hf://laboratory/lymphoblasts", hub | {"HF_HUB_OFFLINE": "1"}).stdout.strip() == seal


def test_a_revision_is_understood_and_an_unknown_one_named(hub: dict[str, str]) -> None:
    assert loaded("hf://laboratory/lymphoblasts@v1", hub).stdout.strip() == lk.load().manifest.seal
    assert "has no such revision" in loaded("hf://laboratory/lymphoblasts@v9", hub).stdout


def test_what_is_not_there_is_said_in_one_sentence(hub: dict[str, str]) -> None:
    assert "BundleError hf://laboratory/nothing does not exist" in loaded("hf://laboratory/nothing", hub).stdout
    for wrong in ("hf://lymphoblasts", "hf://a/b/c", "hf://", "hf:///x"):
        assert "UsageError" in loaded(wrong, hub).stdout
    offline = loaded("hf://laboratory/other", hub | {"HF_HUB_OFFLINE": "1"}).stdout
    assert "BundleError" in offline
    assert "cannot be reached" in offline


def test_a_changed_file_is_not_loaded(hub: dict[str, str], models: Path) -> None:
    graph = models / "laboratory" / "lymphoblasts" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert "SHA-256 differs" in loaded("hf://laboratory/lymphoblasts", hub).stdout


def test_a_manifest_cannot_name_files_outside_the_bundle(hub: dict[str, str], models: Path, tmp_path: Path) -> None:
    folder = models / "laboratory" / "lymphoblasts"
    table = json.loads((folder / "bundle.json").read_text())
    for name in ("../../../../outside", "/outside", "a\\..\\b"):
        (folder / "bundle.json").write_text(json.dumps(table | {"files": {name: "0" * 64}}))
        said = loaded("hf://laboratory/lymphoblasts", hub | {"HF_HOME": str(tmp_path / name.strip("./\\"))}).stdout
        assert "outside the bundle" in said


def test_a_repository_without_a_bundle_is_none(hub: dict[str, str], models: Path) -> None:
    (models / "laboratory" / "text").mkdir()
    assert "is not a model bundle: it has no bundle.json" in loaded("hf://laboratory/text", hub).stdout


def test_the_command_line_takes_the_address(hub: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    call = [sys.executable, "-m", "leukoscope", "models", "show", "hf://laboratory/lymphoblasts"]
    shown = subprocess.run(call, env=os.environ | hub, capture_output=True, text=True, check=True)
    assert lk.load().manifest.seal in shown.stderr
