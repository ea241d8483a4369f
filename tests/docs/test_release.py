"""What is handed out: the source archive, its licences, and one version everywhere."""

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from .blocks import ROOT
from .site import load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files of the source archive, without its top folder."""
    folder = tmp_path_factory.mktemp("sdist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    assert archive.name == f"leukoscope-{PROJECT['version']}.tar.gz"
    with tarfile.open(archive) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


def test_the_source_archive_holds_what_is_kept_and_nothing_else(names: set[str]) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git here to say what is kept")
    kept = {path for path in listed.stdout.splitlines() if (ROOT / path).exists()}
    assert names - kept == {"PKG-INFO"}
    wanted = {path for path in kept if path.startswith(("src/", "tests/", "docs/"))}
    assert wanted - names == set()
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "constraints.txt", "SECURITY.md"} <= names


def test_the_source_archive_says_that_the_package_is_typed(names: set[str]) -> None:
    assert "src/leukoscope/py.typed" in names


def test_no_image_of_a_patient_is_in_the_source_archive(names: set[str]) -> None:
    """What tests.formats.make writes is made of synthetic cells."""
    others = {name for name in names if not name.startswith("tests/formats/")}
    pictures = {name for name in others if re.search(r"(?i)\.(bmp|tiff?|dcm|svs|ndpi|webp|zip)$", name)}
    assert pictures == set()
    assert all(name.startswith("docs/") for name in others if re.search(r"(?i)\.(png|jpe?g)$", name))


def test_every_licence_in_the_core_lets_anybody_use_it() -> None:
    page = load("licences_page")
    core = page.closure()
    assert {"numpy", "onnxruntime", "pydantic", "scikit-learn"} <= core
    asking = {name: page.licence_of(name) for name in core if not page.PERMISSIVE.search(page.licence_of(name))}
    assert asking == {}
    assert [name for name in core if page.COPYLEFT.search(page.licence_of(name))] == []


def test_no_install_brings_a_licence_that_would_bind_the_program() -> None:
    page = load("licences_page")
    brought = set().union(*(page.closure(extra) for extra in page.SHOWN))
    binding = {name: page.licence_of(name) for name in brought if page.COPYLEFT.search(page.licence_of(name))}
    # Weak copyleft, file by file: used as it is, it asks for nothing of ours.
    assert {name for name, licence in binding.items() if not re.search(r"LGPL|Lesser|MPL|Mozilla", licence)} == set()


def test_parts_under_the_lgpl_are_named() -> None:
    page = load("licences_page")
    assert {"psycopg", "fpdf2"} <= page.lesser()
    assert "| psycopg |" in page.page().partition("## Under the LGPL")[2]


def test_all_extras_are_on_the_page_of_licences() -> None:
    inner = {"fields", "test", "docs"}  # part of others, or for those who work on the program
    assert set(load("licences_page").SHOWN) | inner == PROJECT["optional-dependencies"].keys()


def test_one_version_stands_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == PROJECT["version"]


def test_every_pin_is_one_exact_version() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\-]+==[\w.]+", pin)] == []


def test_what_the_container_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert f"!{path}" in ignored
    assert Path(PROJECT["readme"]).name in " ".join(copied)
