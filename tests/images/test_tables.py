"""Tables as spreadsheets and Windows write them all say the same."""

import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.errors import DataError
from leukoscope.images.listing import file_of, one_spelling, read_table

ROWS = [("cells/a.bmp", "all", "Müller"), ("cells/b.bmp", "hem", "H2")]
WANT = [dict(zip(("path", "label", "subject"), row, strict=True)) for row in ROWS]


def lines(separator: str = ",", head: str = "path,label,subject", blank: str = "") -> str:
    rows = [head.replace(",", separator + blank), *((separator + blank).join(row) for row in ROWS)]
    return "\n".join(rows) + "\n"


TABLES = {
    "plain": lines().encode(),
    "semicolon": lines(";").encode(),
    "tab": lines("\t").encode(),
    "bom": b"\xef\xbb\xbf" + lines().encode(),
    "utf-16": lines("\t").encode("utf-16"),
    "utf-16 without mark": lines(";").encode("utf-16-le"),
    "windows-1252": lines(";").encode("cp1252"),
    "sep": b"sep=;\r\n" + lines(";").encode(),
    "sep quoted, bom": b'\xef\xbb\xbf"sep=;"\r\n' + lines(";").encode(),
    "blanks": lines(blank="  ").encode(),
    "capitals": lines(head="Path,LABEL,Subject").encode(),
    "quoted": lines(head='"path","label","subject"').encode(),
    "crlf": lines().replace("\n", "\r\n").encode(),
    "old mac": lines().replace("\n", "\r").encode(),
    "empty rows": (lines() + ",,\n,,\n\n   \n").encode(),
    "empty columns": (lines(head="path,label,subject,,").replace(".bmp,all,Müller", ".bmp,all,Müller,,")).encode(),
    "first line empty": b"\n\n" + lines().encode(),
    "nbsp": lines(blank="\u00a0").encode(),
    "blanks of no width": lines(head="path,label\u200b,\ufeffsubject\u2060", blank="\u200b ").encode(),
    "texts by formula": lines().replace("H2", '"=""H2"""').encode(),
    "utf-32": lines("\t").encode("utf-32"),
    "a column twice": lines(head="path,label,subject,Subject")
    .replace("Müller", "Müller,Müller")
    .replace("H2", "H2,H2")
    .encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling_of_one_table_is_read_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_bytes(TABLES[name])
    table = read_table(tmp_path / "t.csv")
    assert table.columns(("path", "label", "subject")) == WANT
    assert bool(table.notes) == (name == "windows-1252")


NAMES = {
    "gbk": ("GBK", ["张伟", "王芳"]),
    "gb18030": ("GBK", ["刘洋", "李娜"]),
    "cp932": ("Shift-JIS", ["山田太郎", "佐藤"]),
    "cp1251": ("Windows-1251", ["Иванов", "Петрова"]),
    "big5": ("Big5", ["陳怡君", "林志豪"]),
    "euc_jp": ("EUC-JP", ["山田太郎", "佐藤"]),
    "cp949": ("Korean", ["김민수", "박지훈"]),
    "cp1253": ("Windows-1253", ["Παπαδόπουλος"]),
    "cp1250": ("Windows-1250", ["Łukasz Żak", "Grażyna"]),
    "mac_roman": ("Mac Roman", ["Jürgen Groß", "François"]),
}


@pytest.mark.parametrize("codec", NAMES)
def test_a_table_in_another_encoding_is_refused_with_the_encoding_and_the_words(tmp_path: Path, codec: str) -> None:
    called, names = NAMES[codec]
    rows = [f"cells/{number}.bmp;all;{name}\n" for number, name in enumerate(names)]
    (tmp_path / "t.csv").write_bytes(("path;label;subject\n" + "".join(rows)).encode(codec))
    with pytest.raises(DataError, match=r"Save it as 'CSV UTF-8'\.$") as refused:
        read_table(tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(refused.value)
    assert called in str(refused.value)
    assert names[0].split()[0] in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "Größe (µm)",
        "José «Pepe» Núñez – €5",
        "åäö",
        "FRANÇOIS L’Hôpital",
        "“Šimon Žižek”",
        "mean±SD",
        "Gal·la Mª José, 2ª",
        "cm³ 50 %–60 %",
        "Œuvre …",
    ],
)
def test_western_words_in_windows_1252_are_read_and_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"path;label\n{text};1\n".encode("cp1252"))
    table = read_table(tmp_path / "t.csv")
    assert table.rows == ((text, "1"),)
    assert next(word for word in text.split() if not word.isascii()) in table.notes[0]


@pytest.mark.parametrize("kind", ["xlsx", "xls", "ods"])
def test_a_workbook_is_refused_by_name_with_the_cure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"cells.{kind}"
    if kind == "xls":
        path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("xl/workbook.xml", "")
    with pytest.raises(DataError, match=r"workbook.*CSV UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"path,label\na,b,c\n", "does not have 2 cells"),
        (b"path,path\na,b\n", "two columns"),
        (b"path,Path\na,b\n", "two columns called path"),
        (b"file\na\n", "lacks the column path. It has: file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\0\0", "not a table"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=said) as refused:
        read_table(tmp_path / "t.csv").columns(("path",))
    assert str(tmp_path / "t.csv") in str(refused.value)


TEXT = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1)


@given(
    st.lists(
        st.lists(st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1), min_size=2, max_size=2),
        max_size=5,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    import csv

    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    read = [[row["path"], row["label"]] for row in read_table(path).columns(("path", "label"))]
    clean = [[cell.strip() for cell in row] for row in rows]
    assert read == [row for row in clean if any(row)]


def test_paths_of_windows_lead_to_files_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.bmp").touch()
    table = tmp_path / "t.csv"
    for text in (
        "cells\\a.bmp",
        "C:\\Users\\me\\study\\cells\\a.bmp",
        "\\\\server\\share\\cells\\a.bmp",
        ".\\cells\\a.bmp",
    ):
        assert file_of(text, table) == tmp_path / "cells" / "a.bmp", text
    with pytest.raises(DataError, match="path of another computer"):
        file_of("D:\\other\\b.bmp", table)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one(tmp_path: Path, stored: str) -> None:
    (tmp_path / unicodedata.normalize(stored, "Prüfung")).mkdir()
    file = tmp_path / unicodedata.normalize(stored, "Prüfung") / unicodedata.normalize(stored, "Müller_1.bmp")
    file.touch()
    for form in ("NFC", "NFD"):
        found = file_of(unicodedata.normalize(form, "Prüfung/Müller_1.bmp"), tmp_path / "t.csv")
        assert found.samefile(file)


def test_classes_that_differ_in_case_are_one_and_that_is_said() -> None:
    labels, said = one_spelling(["all", "ALL", "all", "hem", "Hem", ""])
    assert labels == ["all", "all", "all", "hem", "hem", ""]
    assert said == ["ALL is read as all.", "Hem is read as hem."]


def test_a_name_in_other_capitals_is_found_where_it_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "Cells").mkdir()
    (tmp_path / "Cells" / "Prüfung.BMP").touch()
    assert file_of("CELLS\\PRÜFUNG.bmp", tmp_path / "t.csv") == tmp_path / "Cells" / "Prüfung.BMP"
    (tmp_path / "Cells" / "prüfung.bmp").touch()
    assert not file_of("cells/PRÜFUNG.bmp", tmp_path / "t.csv").exists()


def test_a_table_whose_patients_have_another_name_says_so(tmp_path: Path) -> None:
    for head, said in (("path,label,Patient ID", "Patient ID"), ("path,label,subject", ""), ("path,label,date", "")):
        (tmp_path / "t.csv").write_text(lines(head=head), encoding="utf-8")
        notes = read_table(tmp_path / "t.csv").note_on_subjects()
        assert bool(notes) == bool(said)
        assert all(said in note for note in notes)


@pytest.mark.parametrize("text", ["x" * 300 + "/a.png", "a" * 5000, "a\0/b.png"])
def test_a_path_that_no_disk_takes_is_a_file_that_is_not_there(tmp_path: Path, text: str) -> None:
    assert file_of(text, tmp_path / "t.csv") == tmp_path / text
    with pytest.raises(DataError, match="another computer"):
        file_of("C:\\" + "y" * 400 + "\\a.png", tmp_path / "t.csv")
