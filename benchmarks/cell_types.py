"""What kind of cell, on three data sets: confusion matrices, mature cells called blast, and the surest mistakes.

    python benchmarks/cell_types.py ../shared/data                  # all of BCCD, and some of PBC and C-NMC
    python benchmarks/cell_types.py ../shared/data --only bccd --model BUNDLE
    for kind in neutrophil platelet …; do leukoscope predict ../shared/data/pbc/$kind --to csv -o OUT/$kind; done
    python benchmarks/cell_types.py ../shared/data --pbc-answers OUT        # PBC in parts, all of it

Everything goes through `leukoscope.load(...).predict`, as users do it. The shipped model has learned from most of these
cells: what it is worth in a laboratory that it has not learned from stands in the first table, which is measured in
training (benchmarks/train_cell_types.py) and read from bundle.json. Cells of a field that the border cuts off, and
smudged ones, are refused before a type is told, and stand in a column of their own. Writes
docs/benchmarks/cell-types.md, and a picture of the surest mistakes beside it.
"""

import argparse
import csv
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import leukoscope
from leukoscope.bundle.manifest import NOT_ASKED, REFUSED, TYPES, Manifest
from leukoscope.files import read_csv
from leukoscope.images.read import RGB, read_image
from leukoscope.inference.cell_types import LYMPHOID, UNSURE_TYPE, wilson
from leukoscope.inference.opinions import Opinion

NAMES = {"lymphocyte": LYMPHOID, "ig": "immature granulocyte"} | {name: name for name in TYPES}
MATURE = ("neutrophil", "eosinophil", "basophil", "monocyte")
TITLES = {
    "bccd": "BCCD: {} white cells of the 275 fields, where all of a field are of one type (learned from)",
    "pbc": "PBC: the labelled cell of {:,} fields (Acevedo et al. 2020, CellaVision DM96; learned from)",
    "cnmc": "C-NMC 2019: {} cells cut out on black, all lymphoid (learned from in part)",
}
NOT_FOUND = "not found"
COLUMNS = (*TYPES, UNSURE_TYPE, "smudge", REFUSED, NOT_FOUND)
PAGE = Path("docs/benchmarks/cell-types.md")
_SHOWN, _SIDE = 24, 128  # mistakes on the picture, pixels of each


@dataclass(frozen=True)
class Judged:
    """One labelled cell and what was said of it."""

    data: str
    name: str
    true: str
    opinion: Opinion


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--only", choices=("bccd", "pbc", "cnmc"), action="append")
    parser.add_argument("--every", type=int, default=8, help="Of PBC and C-NMC, one in so many.")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--pbc-answers", type=Path, help="Folders of predict --to csv, one for each class of PBC.")
    asked = parser.parse_args()
    predictor = leukoscope.load(asked.model)
    if not predictor.manifest.types:
        raise SystemExit("This bundle tells no types.")
    whole = partial(pbc_answered, folder=asked.pbc_answers) if asked.pbc_answers else pbc
    sources = {"bccd": bccd, "pbc": whole, "cnmc": cnmc}
    answers = " --pbc-answers OUT" if asked.pbc_answers else ""
    head = _HEAD.replace("ARGUMENTS", f"--every {asked.every}{answers}")
    lines, mistakes = [head, *left_out(predictor.manifest)], []
    for name in asked.only or sources:
        start = time.perf_counter()
        cells = list(sources[name](predictor, asked.data, asked.every))
        seconds = time.perf_counter() - start
        lines += section(name, cells)
        mistakes += [cell for cell in cells if cell.opinion.type not in (cell.true, UNSURE_TYPE, "smudge", "")]
        print(name, len(cells), f"{seconds:.0f} s", flush=True)
    picture = asked.page.with_suffix(".jpg")
    lines += surest(mistakes, picture)
    asked.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(asked.page)


def bccd(predictor: leukoscope.Predictor, data: Path, _: int) -> Iterator[Judged]:
    """Yield the cells of the fields whose white cells are all of one type."""
    with (data / "bccd" / "types.csv").open() as file:
        types = {row["file"]: set(row["types"].split()) for row in csv.DictReader(file)}
    fields = sorted((data / "bccd" / "JPEGImages").glob("*.jpg"))
    for opinion in predictor.predict(fields, kind="fields"):
        told = types.get(Path(opinion.field or opinion.name).name, set())
        if len(told) == 1 and opinion.found is not None:
            yield Judged("bccd", opinion.name, NAMES[told.copy().pop()], opinion)


def pbc(predictor: leukoscope.Predictor, data: Path, every: int) -> Iterator[Judged]:
    """Yield the cell in the middle of each field; one that is not found counts as refused."""
    with (data / "pbc" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))[::every]
    told = {str(data / "pbc" / row["file"]): row for row in rows}
    found: dict[str, Opinion] = {}
    for opinion in predictor.predict([Path(path) for path in told], kind="fields"):
        if opinion.found is not None and in_the_middle(opinion.found.box, told[opinion.field]):
            found[opinion.field] = opinion
    for path, row in told.items():
        opinion = found.get(path, Opinion(path, REFUSED, NOT_FOUND))
        yield Judged("pbc", path, NAMES[row["class"]], opinion)


def in_the_middle(box: Sequence[float], row: dict[str, str]) -> bool:
    """Return whether a cell (left, top, right, bottom) is the labelled one of its field of PBC."""
    left, top, right, bottom = box
    return left - 4 <= int(row["width"]) / 2 <= right + 4 and top - 4 <= int(row["height"]) / 2 <= bottom + 4


def pbc_answered(predictor: leukoscope.Predictor, data: Path, _: int, *, folder: Path) -> Iterator[Judged]:
    """Yield the same of all fields, from what `leukoscope predict` wrote of each class of them."""
    with (data / "pbc" / "cells.csv").open() as file:
        told = {row["file"]: row for row in csv.DictReader(file)}
    found: dict[str, Opinion] = {}
    for table in sorted(folder.glob("*/predictions.csv")):
        for row in read_csv(table):
            name = "/".join(Path(row["path"]).parts[-2:])
            sides = [float(row[side]) for side in ("left", "top", "right", "bottom") if row[side]]
            if sides and in_the_middle(sides, told[name]):
                found[name] = answered(row, predictor, path=str(data / "pbc" / name))
    for name, row in told.items():
        opinion = found.get(name, Opinion(name, REFUSED, NOT_FOUND))
        yield Judged("pbc", name, NAMES[row["class"]], opinion)


def answered(row: dict[str, str], predictor: leukoscope.Predictor, *, path: str) -> Opinion:
    """Return a row of predictions.csv as the opinion that it was; unsure ones have lost what they were called."""
    decision = row["decision"]
    called = decision if decision in predictor.classes else ""
    chances = {name: float(row[f"prob_type_{name}"]) for name in TYPES if row[f"prob_type_{name}"]}
    return Opinion(path, decision, row["reason"], type=row["type"], types=chances or None, called=called)


def cnmc(predictor: leukoscope.Predictor, data: Path, every: int) -> Iterator[Judged]:
    """Yield cells of C-NMC, all of which are lymphoid."""
    with (data / "cnmc" / "cells.csv").open() as file:
        files = [data / "cnmc" / row["file"] for row in csv.DictReader(file) if row["label"]][:: 2 * every]
    for opinion in predictor.predict(files, kind="crops"):
        yield Judged("cnmc", opinion.name, LYMPHOID, opinion)


def left_out(manifest: Manifest) -> list[str]:
    """Return the confusion in laboratories that were left out of training."""
    counts = np.asarray(manifest.types.confusion, int)
    table = {
        name: Counter(dict(zip((*TYPES, UNSURE_TYPE), row.tolist(), strict=True)))
        for name, row in zip(TYPES, counts, strict=True)
    }
    return ["## Laboratories that it had not learned from", "", *matrix(table, (*TYPES, UNSURE_TYPE)), ""]


def section(name: str, cells: Sequence[Judged]) -> list[str]:
    """Return the confusion of one data set, and what mature cells were called."""
    table: dict[str, Counter[str]] = {}
    for cell in cells:
        told = NOT_FOUND if cell.opinion.reason == NOT_FOUND else cell.opinion.type or REFUSED
        table.setdefault(cell.true, Counter())[told] += 1
    return [f"## {TITLES[name].format(len(cells))}", "", *matrix(table, COLUMNS), "", *asked_lines(cells), ""]


def matrix(table: dict[str, Counter[str]], columns: Sequence[str]) -> list[str]:
    """Return a confusion matrix as Markdown: rows are true types; recall with its 95 % interval (Wilson)."""
    shown = [name for name in columns if any(row[name] for row in table.values())]
    lines = ["| true type | " + " | ".join(shown) + " | right |", "|---|" + "---:|" * (len(shown) + 1)]
    for name in TYPES:
        total = sum(table.get(name, Counter()).values())
        if total:
            low, high = wilson(table[name][name], total)
            right = f"{table[name][name] / total:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {name} | " + " | ".join(str(table[name][each] or "") for each in shown) + f" | {right} |")
    return lines


def asked_lines(cells: Sequence[Judged]) -> list[str]:
    """Say how many mature cells were asked about blasts, and called blast."""
    lines = []
    for what, kinds in (("mature granulocytes and monocytes", MATURE), ("lymphoid cells", (LYMPHOID,))):
        chosen = [cell.opinion for cell in cells if cell.true in kinds]
        if not chosen:
            continue
        blast = sum(each.decision == each.called != "" and each.called == "all" for each in chosen)
        asked = sum(each.type == LYMPHOID for each in chosen)
        kept = sum(each.decision == NOT_ASKED for each in chosen)
        low, high = wilson(blast, len(chosen))
        lines.append(
            f"Of {len(chosen):,} {what}, {blast} were called blast ({100 * blast / len(chosen):.1f} %, "
            f"{100 * low:.1f} to {100 * high:.1f}), {asked} asked about it, {kept} not asked."
        )
    return lines


def surest(mistakes: Sequence[Judged], picture: Path) -> list[str]:
    """Draw the mistakes that the model was surest of, and return where."""
    chosen = sorted(mistakes, key=lambda cell: -max((cell.opinion.types or {"": 0.0}).values()))[:_SHOWN]
    if not chosen:
        return []
    letters = ImageFont.load_default(13)
    words = [captions(cell) for cell in chosen]
    wide = max(_SIDE, *(round(letters.getlength(line)) for lines in words for line in lines)) + 14
    columns, tall = 5, _SIDE + 48
    sheet = Image.new("RGB", (columns * wide, -(-len(chosen) // columns) * tall), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (cell, lines) in enumerate(zip(chosen, words, strict=True)):
        left, top = number % columns * wide, number // columns * tall
        sheet.paste(Image.fromarray(shown(cell.opinion)).resize((_SIDE, _SIDE)), (left, top))
        for line, text in enumerate(lines):
            pen.text((left, top + _SIDE + 2 + 16 * line), text, fill="black", font=letters)
    sheet.save(picture, quality=85)
    text = "Cells of PBC (CC BY 4.0), BCCD (MIT) and C-NMC 2019 (CC BY 3.0)."
    return ["## The mistakes that it was surest of", "", f"![{text}]({picture.name})", "", text]


def captions(cell: Judged) -> tuple[str, str]:
    """Return what stands under a picture: what the cell is, and what it was called."""
    sure = max((cell.opinion.types or {"": 0.0}).values())
    return f"{cell.data}: {cell.true}", f"called {cell.opinion.type}, {sure:.0%}"


def shown(opinion: Opinion) -> RGB:
    """Return a cell as the network of types saw it, or as it came."""
    if opinion.crop is not None:
        return opinion.crop
    return read_image(Path(opinion.name))


_HEAD = """# Cell types

Made by `python benchmarks/cell_types.py ../shared/data ARGUMENTS`, whose top says what is measured, and what is not.
Intervals are 95 %, by Wilson, with cells as the unit: neither PBC nor BCCD names its subjects, so they are too narrow.
Research use, not a diagnosis.
"""

if __name__ == "__main__":
    main()
