"""Numbers in README and docs that a run or a study measured, written from its JSON: `make numbers`.

A number stands between two comments, which no reader of the page sees:

    <!--number docs/evidence/leak.json: splits/arms/images at random/auroc | .2 -->.89<!--/number-->

First the file, from the root of the repository; then the keys down to a number, or to its value, low and high; last how
it is written: `.2` (.89, two digits), `span .2` (.89 (.86 to .92)), `percent 1` (63.6 %), `count` (4,133), `text`.
A share that another source gave, or a run that is not kept as JSON, stands between <!--from SOURCE--> and <!--/from-->,
so that nobody takes it for one of these: the source is a command, a publication, a rule. On the pages that people write
a share that stands in neither is an error (`unsourced`). Pages that a program writes (docs/evidence, docs/benchmarks)
need no marks; the test compares their figures with the JSON beside them.

Usage: python docs/site/page_numbers.py [--check]
"""

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(
    r"<!--number (?P<file>[^:>]+): (?P<keys>[^|>]+?) \| (?P<form>[^>]+?) -->(?P<now>.*?)<!--/number-->", re.S
)
OPENED = "<!--number"
# No "--" in a source: some readers of Markdown then take it for text.
_FROM = re.compile(r"<!--from (?:(?!--)[^>])+-->.*?<!--/from-->", re.S)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.S | re.M)
# .89, 0.893, 63.6 %; not the level of an interval, a length, a version or a DOI
_SHARE = re.compile(r"(?<![\w./])(?:[01]?\.\d\d+|(?!95 %|100 %)\d+(?:\.\d+)? %)(?![\w/.]*\w)(?! (?:µm|s\b|p\b))")
_PEOPLES = ("README.md", "docs/*.md", "docs/explanation/*.md", "docs/how-to/*.md")


def pages(root: Path = ROOT) -> list[Path]:
    """Return every page that people write."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


def written(text: str, *, root: Path = ROOT) -> str:
    """Return a page with every marked number as its file has it.

    Raises:
        ValueError: a mark is not closed, or names a file, a key or a form that is not there.
    """
    if text.count(OPENED) != len(MARKED.findall(text)):
        raise ValueError("a <!--number …--> is not written as <!--number FILE: KEYS | FORM -->TEXT<!--/number-->")
    return MARKED.sub(
        lambda mark: mark[0][: mark.start("now") - mark.start()] + _said(mark, root) + "<!--/number-->", text
    )


def unsourced(text: str) -> list[str]:
    """Return the shares of a page that stand neither in a mark of a file nor in one that names a source, with lines.

    Raises:
        ValueError: a mark of a source is not closed.

    >>> unsourced("It reaches .89 (95 %); <!--from a run-->.93<!--/from--> before, `0.5` in code.")
    ['line 1: .89']
    """
    if text.count("<!--from ") != len(_FROM.findall(text)) or text.count("<!--/from-->") != text.count("<!--from "):
        raise ValueError("a <!--from …--> is not written as <!--from SOURCE-->TEXT<!--/from--> (no -- in the source)")
    for known in (_CODE, MARKED, _FROM):
        text = known.sub(lambda found: "\n" * found[0].count("\n"), text)
    return [f"line {text.count(chr(10), 0, share.start()) + 1}: {share[0]}" for share in _SHARE.finditer(text)]


def peoples(root: Path = ROOT) -> list[Path]:
    """Return the pages on which every share needs a source."""
    return sorted(page for pattern in _PEOPLES for page in root.glob(pattern))


def _said(mark: re.Match[str], root: Path) -> str:
    found: Any = _read(root / mark["file"])
    for key in mark["keys"].split("/"):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"{mark['file']} has no '{key}' of {mark['keys']}") from None
    name, _, digits = mark["form"].partition(" ")
    form = _FORMS.get(name.partition(".")[0])
    if form is None:
        raise ValueError(f"'{mark['form']}' is no form; known: .2, span .2, percent 1, count, text")
    return form(found, int((digits or name).strip(" .") or 0) if name not in ("count", "text") else 0)


@cache
def _read(path: Path) -> Any:
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return json.loads(path.read_text(encoding="utf-8"))


def _value(found: Any) -> float:
    return float(found["value"] if isinstance(found, dict) else found)


def _short(value: float, digits: int) -> str:
    """Return a share without its leading zero, as the docs write it."""
    return f"{value:.{digits}f}".replace("-", "−").replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


_FORMS: dict[str, Callable[[Any, int], str]] = {
    "": lambda found, digits: _short(_value(found), digits),
    "span": lambda found, digits: (
        f"{_short(_value(found), digits)} ({_short(found['low'], digits)} to {_short(found['high'], digits)})"
    ),
    "percent": lambda found, digits: f"{100 * _value(found):.{digits}f} %",
    "count": lambda found, _: f"{_value(found):,.0f}",
    "text": lambda found, _: str(found),
}


def main(arguments: list[str]) -> int:
    """Write the pages anew, or with --check say which of them differ."""
    differ = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            new = written(text)
        except ValueError as wrong:
            sys.stderr.write(f"{page.relative_to(ROOT)}: {wrong}\n")
            return 2
        if new != text:
            differ.append(str(page.relative_to(ROOT)))
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    sys.stdout.write("\n".join(differ or ["All numbers are those of their files."]) + "\n")
    return int("--check" in arguments and bool(differ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
