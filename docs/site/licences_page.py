"""The licences of all packages that the installs bring, from the packages' own records."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SHOWN = (
    "train",
    "survival",
    "fields",
    "wsi",
    "heic",
    "dicom",
    "hospital",
    "adapt",
    "hub",
    "pandas",
    "sign",
    "serve",
    "tensorboard",
    "cluster",
)
# What may stand in the core beside Apache-2.0 without asking anything of who uses it but to keep the notice.
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zlib|0BSD|CC0|Unlicense|MIT-CMU|Matplotlib)\b",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\b(A?GPL|GNU|LGPL|MPL|EPL|CDDL|SSPL)", re.IGNORECASE)
_INTRODUCTION = """# Licences

leukoscope is under Apache-2.0. These are the packages that its installs bring, each with the licence that it states of
itself; made when this site was built. `make sbom` writes the same as a bill of materials (CycloneDX).
"""
_LESSER = """These are libraries that the program calls and does not change. Who passes an installation on, as in a
container, passes on their licences with it and lets them be exchanged for other versions; `pip install` of another
version is enough. Wheels of `opencv-python-headless` hold parts of FFmpeg, and those of `pi-heif` libheif and libde265,
under the LGPL too, whatever the package states of itself; their licence files lie beside them."""


def page() -> str:
    """Return the page as Markdown: the core first, then what each extra adds to it."""
    core = closure()
    parts = [_INTRODUCTION, "## The core", _table(core)]
    for extra in SHOWN:
        added = closure(extra) - core
        parts += [f"## leukoscope[{extra}]", _table(added) if added else "Nothing more."]
    return "\n\n".join([*parts, "## Under the LGPL", _LESSER, _table(lesser())]) + "\n"


def lesser() -> set[str]:
    """Return the installed packages of all extras that are under the LGPL, as they state it themselves."""
    everything = set().union(*(closure(extra) for extra in ("", *SHOWN)))
    return {name for name in everything if re.search(r"LGPL|Lesser General", licence_of(name))}


def closure(extra: str = "") -> set[str]:
    """Return the names of all installed packages that the core, or the core with an extra, needs directly or not."""
    found: set[str] = set()
    todo = [("leukoscope", frozenset({extra} - {""}))]
    while todo:
        name, extras = todo.pop()
        for need in _needs(name, extras):
            key = canonicalize_name(need.name)
            if key == "leukoscope" or (key not in found and _installed(key)):
                found |= {key} - {"leukoscope"}
                todo.append((key, frozenset(need.extras)))
    return found


def licence_of(name: str) -> str:
    """Return what a package says of its licence: the expression, else the classifiers, else the first line of text."""
    about = metadata.metadata(name)
    expression = about.get("License-Expression") or ""
    classified = [
        text.split(" :: ")[-1] for text in about.get_all("Classifier") or [] if text.startswith("License :: ")
    ]
    stated = [text for text in classified if text != "OSI Approved"]
    return expression or ", ".join(stated) or (about.get("License") or "not stated").strip().splitlines()[0][:60]


def _needs(name: str, extras: frozenset[str]) -> list[Requirement]:
    if name == "leukoscope":  # as written down, not as it stood when this checkout was installed
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        chosen = [project["optional-dependencies"][extra] for extra in sorted(extras)]
        return [Requirement(line) for lines in [project["dependencies"], *chosen] for line in lines]
    wanted = [Requirement(line) for line in metadata.requires(name) or []]
    return [
        need
        for need in wanted
        if not need.marker or any(need.marker.evaluate({"extra": one}) for one in extras or {""})
    ]


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _table(names: set[str]) -> str:
    rows = [f"| {name} | {metadata.version(name)} | {licence_of(name)} |" for name in sorted(names)]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows])
