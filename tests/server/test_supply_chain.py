"""What the container installs: every package pinned, with its hashes, as constraints.txt has it."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "requirements-container.txt").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    """Return the packages of a list and their versions."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.\-]+)==(\S+)", text, re.MULTILINE)}


def test_every_package_has_hashes_and_no_address() -> None:
    blocks = re.split(r"\n(?=\w)", TEXT.strip())
    for block in blocks:
        assert re.match(r"[\w.\-]+==[\w.]+", block), block.splitlines()[0]
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}(?: |$)", block, re.MULTILINE), block.splitlines()[0]
    assert "://" not in TEXT
    assert "index" not in TEXT


def test_versions_are_those_of_the_constraints() -> None:
    constraints = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert {name: version for name, version in pins(TEXT).items() if constraints.get(name, version) != version} == {}
    assert "--hash" not in (ROOT / "constraints.txt").read_text(encoding="utf-8"), "one would be asked of all"


def test_nothing_that_the_room_needs_is_missing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in ("serve", "survival", "dicom", "sign", "fields") for line in extras[name]),
    ]
    needed = {canonicalize_name(Requirement(line).name) for line in lines} - {"leukoscope"}
    assert needed <= pins(TEXT).keys()


def test_the_image_installs_by_hash_alone() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    installs = re.findall(r"pip install [^\\\n]*", text)
    assert [
        ("--require-hashes" in each) or ("--no-deps" in each and "--no-build-isolation" in each) for each in installs
    ] == [True] * 2
