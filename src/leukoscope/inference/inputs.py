"""From what stands on the command line to image files with their subjects."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import read_csv
from ..data.cells import natural
from ..data.images import FORMATS
from ..errors import CallError, DataError


@dataclass(frozen=True, slots=True)
class Source:
    """An image file, and whose cell it shows; the subject is empty where nobody said."""

    path: Path
    subject: str = ""


def sources_of(given: Iterable[Path], *, suffixes: Collection[str] = FORMATS) -> list[Source]:
    """Return the images that are named, those of folders, and those of CSV tables, in the order given; each once.

    A table has the columns path (seen from its folder) and, if it likes, subject. In a folder, the name of a
    sub-folder is the subject; where several folders are given, the folder's own name is. Of a folder, files with
    one of the `suffixes` are taken.

    Raises:
        CallError: a folder or table does not exist.
        DataError: a folder holds no image, or a table has no rows or no column path.
    """
    given = list(given)
    several = sum(path.is_dir() for path in given) > 1
    found: dict[Path, Source] = {}
    for path in given:
        for source in _sources(path, several=several, suffixes=suffixes):
            found.setdefault(source.path, source)
    return list(found.values())


def _sources(path: Path, *, several: bool, suffixes: Collection[str]) -> list[Source]:
    if path.is_dir():
        return _in_folder(path, several=several, suffixes=suffixes)
    if path.suffix.lower() == ".csv":
        return _in_table(path)
    if not path.exists() and path.suffix.lower() not in suffixes:
        raise CallError(f"{path} does not exist. Check the path.")
    return [Source(path)]  # one file that is missing or broken is refused by name while the others are answered


def _in_folder(folder: Path, *, several: bool, suffixes: Collection[str]) -> list[Source]:
    inside = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file()
    ]  # fmt: skip
    visible = [path for path in inside if not any(step.startswith((".", "__MACOSX")) for step in path.parts)]
    if not visible:
        raise DataError(f"{folder} holds no image ({', '.join(suffixes)}). Check the path.")
    own = folder.resolve().name if several else ""
    visible.sort(key=lambda path: [natural(step) for step in path.parts])
    return [Source(folder / path, own or (path.parts[0] if len(path.parts) > 1 else "")) for path in visible]


def _in_table(table: Path) -> list[Source]:
    if not table.exists():
        raise CallError(f"{table} does not exist. Check the path.")
    rows = read_csv(table, required=("path",))
    if not rows:
        raise DataError(f"{table} lists no images.")
    return [Source(table.parent / row["path"], row.get("subject", "")) for row in rows]
