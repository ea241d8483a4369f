"""Lists of images: what is in a folder, and tables as spreadsheets write them.

A folder: files that are read, and those that are not, with the reason, so that none is left out silently. A table: any
separator, any encoding, column names in any case; and the image files that it lists.
"""

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from ..errors import DataError
from ..files import unescape_formula
from .read import FORMATS, format_of

_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_RESOURCES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_TABLES = (".csv", ".tsv", ".txt", ".json", ".xml", ".md", ".log", ".html", ".pdf", ".xlsx", ".xls", ".ods", ".zip")
# Kinds of pictures that one may find beside those that are read.
_PICTURES = (
    ".gif",
    ".jp2",
    ".jxl",
    ".heic",
    ".avif",
    ".psd",
    ".ppm",
    ".tga",
    ".dng",
    ".nef",
    ".cr2",
    ".arw",
    ".svs",
    ".ndpi",
    ".scn",
    ".bif",
    ".mrxs",
    ".czi",
    ".lif",
    ".nd2",
    ".vsi",
    ".dcm",
    ".dicom",
    ".ima",
)
_HEAD = 4096
_NAMED = 3


@dataclass(frozen=True)
class Passed:
    """A skipped file, and why."""

    path: Path
    reason: str

    @property
    def picture(self) -> bool:
        """Whether it is a picture in an unsupported format."""
        return self.reason.endswith("supported") or self.path.suffix.lower() in _PICTURES


@dataclass
class Listing:
    """The files of a folder."""

    files: list[Path] = field(default_factory=list)
    """Files to be read, sorted by name."""
    passed: list[Passed] = field(default_factory=list)
    hidden: int = 0
    """Hidden and system files (._*, .DS_Store, Thumbs.db)."""
    unread: list[OSError] = field(default_factory=list)
    """Errors of subfolders that could not be read."""

    def counts(self) -> Counter[str]:
        """Return the number of skipped files by reason."""
        return Counter(one.reason for one in self.passed)


def list_folder(folder: Path, *, suffixes: Collection[str] = FORMATS, dicom: bool = False) -> Listing:
    """List a folder recursively; links are followed, each folder once.

    Files with one of the suffixes are listed, also broken links, which raise an error when they are read. Files without
    a suffix are listed by content.

    Args:
        folder: the folder.
        suffixes: in lower case, with their dots.
        dicom: whether to list DICOM files, whatever their names.

    Raises:
        OSError: the folder itself cannot be read.
    """
    found = Listing()
    for path in sorted(_walk(folder, found)):
        reason = _reason(path, suffixes, dicom=dicom)
        if reason is None:
            found.files.append(path)
        else:
            found.passed.append(Passed(path, reason))
    return found


def passed_over(passed: Sequence[Passed], *, hidden: int = 0) -> list[str]:
    """Describe skipped files: pictures by name, others by number and reason.

    >>> passed_over([Passed(Path("a.gif"), "GIF, which is not supported"), Passed(Path("b.txt"), ".txt file")])[0]
    'Skipped 1 picture in an unsupported format: a.gif (GIF, which is not supported). Save it as PNG or TIFF.'
    """
    pictures = [one for one in passed if one.picture]
    others = Counter(one.reason for one in passed if not one.picture)
    lines = [_of_pictures(pictures)] if pictures else []
    if others:
        counts = ", ".join(f"{number:,} {reason}{'s' * (number > 1)}" for reason, number in others.most_common())
        files = f"{others.total():,} other file{'s' * (others.total() > 1)}"
        lines.append(f"Skipped {files}: {counts}.")
    if hidden:
        lines.append(f"Ignored {hidden:,} hidden or system file{'s' * (hidden > 1)}.")
    return lines


def _of_pictures(pictures: Sequence[Passed]) -> str:
    more = f" and {len(pictures) - _NAMED:,} more" if len(pictures) > _NAMED else ""
    named = ", ".join(f"{one.path} ({one.reason})" for one in pictures[:_NAMED])
    one = len(pictures) == 1
    return (
        f"Skipped {len(pictures):,} {'picture in an unsupported format' if one else 'pictures in unsupported formats'}"
        f": {named}{more}. Save {'it' if one else 'them'} as PNG or TIFF."
    )


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden or a system file."""
    return name.startswith((".", "__MACOSX")) or name.lower() in _RESOURCES


def _walk(root: Path, found: Listing) -> Iterator[Path]:
    """Yield every file below a folder; folders that are linked to come last, so that real ones keep their names."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            yield from _walk_real(start, seen, links, found)
        waiting = links


def _walk_real(root: Path, seen: set[tuple[int, int]], links: list[Path], found: Listing) -> Iterator[Path]:
    if not _first_time(root, seen):
        return

    def unread(error: OSError) -> None:
        if Path(error.filename) == root:
            raise error
        found.unread.append(error)

    for where, folders, files in os.walk(root, onerror=unread):
        found.hidden += sum(is_hidden(name) for name in (*folders, *files))
        visible = [name for name in folders if not is_hidden(name)]
        links += [Path(where, name) for name in visible if Path(where, name).is_symlink()]
        folders[:] = [
            name for name in visible if not Path(where, name).is_symlink() and _first_time(Path(where, name), seen)
        ]
        yield from (Path(where, name) for name in files if not is_hidden(name))


def _first_time(folder: Path, seen: set[tuple[int, int]]) -> bool:
    facts = folder.stat()
    key = (facts.st_dev, facts.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True


def _reason(path: Path, suffixes: Collection[str], *, dicom: bool) -> str | None:
    """Return why a file is passed over; None for one that is to be read."""
    suffix = path.suffix.lower()
    ordinary = path.is_file()
    if suffix in suffixes and (ordinary or not path.exists()):
        return None
    if not ordinary:  # to open a pipe waits without end for somebody who writes into it
        return "link that leads nowhere" if path.is_symlink() and not path.exists() else "pipe or device file"
    if suffix in _TABLES:
        return f"{suffix} file"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as failed:
        return f"file that cannot be opened ({failed.strerror})"
    return _reason_by_content(head, suffixes, suffix=suffix, dicom=dicom)


def _reason_by_content(head: bytes, suffixes: Collection[str], *, suffix: str, dicom: bool) -> str | None:
    kind = format_of(head)
    if kind == "DICOM":
        if b"1.2.840.10008.1.3.10" in head:
            return "DICOM directory"
        return None if dicom else "DICOM, which is not supported"
    read = {name for allowed, kinds in FORMATS.items() if allowed in suffixes for name in kinds}
    if kind in read and not _known_otherwise(suffix):
        return None
    if kind:
        return f"{kind}, which is not supported"
    return "empty file" if not head else f"{suffix} file" if suffix else "file of an unknown kind"


def _known_otherwise(suffix: str) -> bool:
    """Tell whether a suffix means something else though its content is that of a TIFF, such as a camera's raw image."""
    return suffix in (".dng", ".nef", ".cr2", ".arw", ".svs", ".ndpi", ".scn", ".bif", ".lsm", ".qptiff")


_WORKBOOKS = {b"PK\x03\x04": "a workbook (Excel, OpenDocument)", b"\xd0\xcf\x11\xe0": "a workbook (old Excel)"}
_SEPARATORS = ",;\t|"
_UNSEEN = "\ufeff\u200b\u200c\u200d\u2060"  # blanks of no width, which str.strip leaves
_SUBJECTS = re.compile(r"subject|patient|donor|proband|(?<![a-z])(?:person|case|pid)(?![a-z])", re.IGNORECASE)
Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """The cells of a table as text without blanks around it."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """The line of the file on which each row begins; the header's is not in it."""
    separator: str
    notes: tuple[str, ...] = ()
    """What was taken for granted, as sentences."""

    def columns(self, required: Sequence[str], optional: Sequence[str] = (), *, cure: str = "") -> list[Row]:
        """Return the rows with the requested columns, under these names; an optional one that is missing is left out.

        Names are compared without regard to upper and lower case, exact ones first. cure: what to do about a missing
        column.

        Raises:
            DataError: a required column is missing, or there twice.
        """
        places = {name: place for name in (*required, *optional) if (place := self._place(name)) is not None}
        missing = [name for name in required if name not in places]
        if missing:
            raise DataError(
                f"{self.path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. "
                f"It has: {', '.join(self.header) or 'nothing'}." + f" {cure}" * bool(cure)
            )
        return [{name: row[place] for name, place in places.items()} for row in self.rows]

    def note_on_subjects(self) -> list[str]:
        """Return a note where no column is called subject and others look as if they named patients."""
        if self._place("subject") is not None:
            return []
        similar = [name for name in self.header if _SUBJECTS.search(name)]
        return (
            [f"{self.path.name} has no column subject, so subjects cannot be distinguished; is it {similar[0]}?"]
            if similar
            else []
        )

    def _place(self, name: str) -> int | None:
        exact = [place for place, found in enumerate(self.header) if found == name]
        folded = [place for place, found in enumerate(self.header) if found.casefold() == name.casefold()]
        for places in (exact, folded):
            if len({tuple(row[place] for row in self.rows) for place in (folded if places else ())}) > 1:
                raise DataError(f"{self.path} has two columns called {name}. Rename or delete one.")
            if places:
                return places[0]
        return None


def read_table(path: Path) -> Table:
    """Read a table with a header: comma, semicolon, tab or bar; UTF-8, UTF-16 or Windows-1252.

    A first line `sep=;` is obeyed, blanks around cells and empty rows are dropped.

    Raises:
        DataError: it is missing, a workbook, not text or in another encoding, or a row has too many or too few cells.
    """
    text, notes = _text(path)
    text, separator = _separator(text)
    skipped = 1 if separator else 0
    separator = separator or _likeliest(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines = [], []
    bare = _cell if any(sign in text for sign in ('="', "'", *_UNSEEN)) else str.strip
    start = 1
    try:
        for row in reader:
            cells = list(map(bare, row))
            if any(cells):
                rows.append(cells)
                lines.append(start + skipped)
            start = reader.line_num + 1
    except csv.Error as broken:
        raise DataError(f"{path}, line {reader.line_num + skipped}: {broken}. Is a quotation mark left open?") from None
    if not rows:
        raise DataError(f"{path} is empty. It needs a header line and one line per row.")
    header = rows[0]
    while header and not header[-1]:
        header.pop()
    body = [tuple(_fitted(row, len(header), path, line)) for row, line in zip(rows[1:], lines[1:], strict=True)]
    return Table(path, tuple(header), tuple(body), tuple(lines[1:]), separator, tuple(notes))


def _cell(text: str) -> str:
    """Return a cell without blanks around it, also those that are not seen, and without the sign of a text.

    >>> _cell("\\u00a0subject\\u200b"), _cell('="007"'), _cell("'=A1")
    ('subject', '007', '=A1')
    """
    while text and (text[0] in _UNSEEN or text[-1] in _UNSEEN or text != text.strip()):
        text = text.strip().strip(_UNSEEN)
    return text[2:-1] if len(text) > 2 and text.startswith('="') and text.endswith('"') else unescape_formula(text)


def file_of(text: str, table: Path) -> Path:
    """Return the file that a cell of a table names, seen from the table's folder.

    Back-slashes and a drive of Windows are mapped to where the file lies beside the table; names are compared in
    composed and decomposed form; \\udcff as `files.write_csv` writes a byte that is not UTF-8 is that byte again.

    Raises:
        DataError: it is a path of another computer, and no such file lies beside the table.
    """
    folder = table.parent
    plain = folder / text
    if _exists(plain):
        return plain
    if (bytes_again := _BYTE.sub(lambda found: chr(int(found[1], 16)), text)) != text:
        found = folder / bytes_again
        if _exists(found):
            return found
    if "\\" in text or PureWindowsPath(text).drive:
        return _from_windows(text, folder, table)
    return _spelled(plain) or plain


def _from_windows(text: str, folder: Path, table: Path) -> Path:
    """Return the file beside the table whose last steps are those of a path of Windows."""
    path = PureWindowsPath(text)
    steps = [step for step in path.parts if step != path.anchor]
    if not path.drive and not path.root:
        whole = folder.joinpath(*steps)
        return whole if _exists(whole) else _spelled(whole) or whole
    for first in range(len(steps)):
        near = folder.joinpath(*steps[first:])
        found = near if _exists(near) else _spelled(near)
        if found is not None:
            return found
    raise DataError(
        f"{table} lists {text}, a path of another computer. Put {steps[-1] if steps else 'the file'} beside the table, "
        "or write paths relative to the folder of the table."
    )


def _spelled(path: Path) -> Path | None:
    """Return the file whose name is the same in another form of Unicode; None where there is none."""
    folder: Path | None = path.parent
    if not _is_folder(path.parent):
        folder = _spelled(path.parent) if path.parent != path.parent.parent else None
    if folder is None:
        return None
    forms = (path.name, unicodedata.normalize("NFC", path.name), unicodedata.normalize("NFD", path.name))
    return next((folder / form for form in forms if _exists(folder / form)), None) or _in_other_case(folder, path.name)


def _in_other_case(folder: Path, name: str) -> Path | None:
    """Return the one file whose name differs in upper and lower case alone, as Windows takes them for the same."""
    if not _is_folder(folder):
        return None
    names = _names_by_case(folder, folder.stat().st_mtime_ns)
    found = names.get(unicodedata.normalize("NFC", name).casefold(), [])
    return folder / found[0] if len(found) == 1 else None


@lru_cache(maxsize=16)
def _names_by_case(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the names in a folder by their form without case; `changed` is when that was, in nanoseconds."""
    names: dict[str, list[str]] = {}
    for found in folder.iterdir():
        names.setdefault(unicodedata.normalize("NFC", found.name).casefold(), []).append(found.name)
    return names


def _is_folder(path: Path) -> bool:
    return _exists(path) and path.is_dir()


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _text(path: Path) -> tuple[str, list[str]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder. Name the table in it.") from None
    for start, what in _WORKBOOKS.items():
        if raw.startswith(start):
            raise DataError(f"{path} is {what}, not a CSV. Save it in the spreadsheet program as 'CSV UTF-8'.")
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return _decoded(raw, "utf-32", path), []
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _decoded(raw, "utf-16", path), []
    if b"\0" in raw[:1000]:
        even, odd = raw[:1000:2].count(0), raw[1:1000:2].count(0)
        if max(even, odd) > 100 or max(even, odd) > 0.3 * len(raw[:1000]):
            return _decoded(raw, "utf-16-be" if even > odd else "utf-16-le", path), []
        raise DataError(f"{path} is not a table of text. Save it as 'CSV UTF-8'.")
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return _as_windows_1252(raw, path)


_RUN = re.compile(r"[^\x00-\x7f]{4}")  # no word of western Europe has four letters with accents side by side
# Signs that occur in no name, or not within or before one, and capitals within one.
_FOREIGN = re.compile(
    r"[ƒˆ†‡˜‚]|[¡-©«-´¶-¹»-¿]{2}|[^\W\d_][¡-©«-°²-´¶¸¹»-¿×÷][^\W\d_]|[£¥¯¹¼¾³§][^\W\d_]|[^\W\d_][ŠŽŸ][a-z]|[a-z][ŠŽŸ]"
)
_WORD = re.compile(r"[^\s,;|\t\"]*[^\x00-\x7f][^\s,;|\t\"]*")
# Codec -> what people call it, and the first bytes of its commonest letters.
_OTHERS: dict[str, tuple[str, tuple[range, ...]]] = {
    "gbk": ("GBK", (range(0xB0, 0xD8),)),
    "cp932": ("Shift-JIS", (range(0x82, 0x84), range(0x88, 0x98))),
    "big5": ("Big5", (range(0xA4, 0xC7),)),
    "cp949": ("Korean (CP949)", (range(0xB0, 0xC9),)),
    "euc_jp": ("EUC-JP", (range(0xA4, 0xA6), range(0xB0, 0xD0))),
    "cp1251": ("Windows-1251", (range(0xC0, 0x100), range(0xA8, 0xA9), range(0xB2, 0xB4), range(0xB8, 0xB9))),
    "cp1253": ("Windows-1253", (range(0xC1, 0xFF), range(0xB8, 0xBB))),
    "cp1250": ("Windows-1250", (range(0x8A, 0x90), range(0x9A, 0xA0), range(0xA3, 0xA6), range(0xB3, 0x100))),
    "mac_roman": ("Mac Roman", (range(0x80, 0xA0), range(0xA7, 0xA8))),
}
_LATIN = ("cp1250", "mac_roman")


def _as_windows_1252(raw: bytes, path: Path) -> tuple[str, list[str]]:
    """Return the text of a table that is not UTF-8, and a note with its first words that are not ASCII.

    Raises:
        DataError: those words cannot be names of western Europe, so that another encoding would be read as nonsense.
    """
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    if not text or _RUN.search(text) or _FOREIGN.search(text):
        others = _likeliest_encodings(raw)
        guess = f" It looks like {' or '.join(others)}." if others else ""
        raise DataError(f"{path} is neither UTF-8 nor Windows-1252.{guess} Save it as 'CSV UTF-8'.")
    return text, [
        f"{path.name} is not UTF-8; it was read as Windows-1252: {_first_words(text)}. If this is wrong, "
        "save it as 'CSV UTF-8'."
    ]


def _likeliest_encodings(raw: bytes) -> list[str]:
    """Name the encodings in which most letters are common ones, each with how the first words would read."""
    shares: dict[str, float] = {}
    texts: dict[str, str] = {}
    for codec, (name, common) in _OTHERS.items():
        try:
            text = raw.decode(codec)
        except UnicodeDecodeError:
            continue
        if codec in _LATIN and _RUN.search(text):
            continue
        firsts = [letter.encode(codec)[0] for letter in text if letter > "\x7f"]
        shares[name] = sum(any(first in places for places in common) for first in firsts) / len(firsts)
        texts[name] = f"{name} ({_first_words(text)})"
    best = max(shares.values(), default=0.0)
    return [texts[name] for name, share in shares.items() if share == best > 0.5]


def _first_words(text: str) -> str:
    """Return up to three words that are not ASCII."""
    return ", ".join(list(dict.fromkeys(_WORD.findall(text)))[:3])


def _decoded(raw: bytes, encoding: str, path: Path) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is neither UTF-8 nor text of another known encoding. Save it as 'CSV UTF-8'."
        ) from None


def _separator(text: str) -> tuple[str, str]:
    """Return the text without a first line such as sep=; and the separator that it names."""
    first, _, rest = text.partition("\n")
    line = first.strip("\r \"'")
    if line.lower().startswith("sep=") and len(line) == 5:
        return rest, line[4]
    return text, "\t" if first.strip("\r\"'").lower() == "sep=\t" else ""


def _likeliest(text: str) -> str:
    """Return the separator that is commonest in the header outside quotation marks."""
    header = text.lstrip("\r\n").partition("\n")[0]
    outside = "".join(header.split('"')[::2])
    return max(_SEPARATORS, key=outside.count)


def _fitted(row: list[str], width: int, path: Path, line: int) -> list[str]:
    """Return a row without the empty cells that a spreadsheet adds at its end."""
    while len(row) > width and not row[-1]:
        row = row[:-1]
    if len(row) != width:
        raise DataError(
            f"{path}, row {line}: it does not have {width} cells. Correct the row, or repeat the command that wrote it."
        )
    return row


def one_spelling(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write class names that differ in case alone as the commonest of them; return them and what was joined.

    >>> one_spelling(["all", "ALL", "all", "hem"])
    (['all', 'all', 'all', 'hem'], ['ALL is read as all.'])
    """
    counts: dict[str, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    chosen: dict[str, str] = {}
    for label in sorted(counts, key=lambda name: -counts[name]):
        chosen.setdefault(label.casefold(), label)
    joined = [
        f"{label} is read as {chosen[label.casefold()]}." for label in counts if chosen[label.casefold()] != label
    ]
    return [chosen[label.casefold()] for label in labels], joined


def is_table(path: Path) -> bool:
    """Tell by its suffix whether a path names a table; a workbook is refused by name when it is read."""
    return path.suffix.lower() in (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
