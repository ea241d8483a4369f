"""Make the reference cells of a bundle: training cells that stand beside the cell in question in the reading room.

    python benchmarks/reference_cells.py cut ../shared/data runs/reference  # crops and thumbnails, once
    python benchmarks/reference_cells.py pack runs/reference  # for the shipped bundle, and again for a new one

Cells of C-NMC 2019 and of Acevedo et al. 2020 (both CC BY), cut out as the room cuts out those of fields. Of C-NMC
those that the bundle calls what they are; of each label, those in the middle of so many groups by k-means.
The pack names the bundle's seal and is shown with no other.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from leukoscope.errors import ImageError
from leukoscope.fields.cells import find_cells, open_field
from leukoscope.fields.crops import cut_crop
from leukoscope.fields.stain import DEFAULT_METHOD, measure, normaliser, sample_crops
from leukoscope.files import read_json, write_json
from leukoscope.images.read import read_image
from leukoscope.inference.explaining import UM_ACROSS, ReferenceCell, embedding_of, write_reference_cells
from leukoscope.inference.fields import stain_of
from leukoscope.inference.predictor import Predictor, load
from leukoscope.progress import track

SIDE, QUALITY = 96, 55
PBC_UM = 0.1
_MIDDLE = 60  # pixels from the middle of its field within which the labelled cell lies
CANDIDATES, KEPT = {"cnmc": 160, "pbc": 40}, {"cnmc": 48, "pbc": 24}
CREDITS = {
    "cnmc": "Gupta & Gupta 2019, C-NMC 2019, doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0",
    "pbc": "Acevedo et al. 2020, doi 10.17632/snkd93bnjr.1, CC BY 4.0",
}
NAMES = {"all": "blast", "hem": "normal lymphoid cell", "ig": "immature granulocyte"}
KINDS = {
    "sne": "segmented neutrophil",
    "bne": "band neutrophil",
    "pmy": "promyelocyte",
    "my": "myelocyte",
    "mmy": "metamyelocyte",
}


def cut(data: Path, work: Path) -> None:
    """Cut out candidates of each label, with their thumbnails."""
    rng = np.random.default_rng(0)
    (work / "crops").mkdir(parents=True, exist_ok=True)
    rows = [*_cut_cnmc(data / "cnmc", work, rng), *_cut_pbc(data / "pbc", work, rng)]
    write_json(work / "candidates.json", rows)
    print(f"{len(rows)} candidates")


def _cut_cnmc(data: Path, work: Path, rng: np.random.Generator) -> list[dict[str, str]]:
    with (data / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in ("all", "hem")]
    found = []
    for label in ("all", "hem"):
        own = [row for row in rows if row["label"] == label]
        groups = sorted({row["subject_group"] for row in own})
        each = -(-CANDIDATES["cnmc"] // len(groups))
        for group in groups:
            of_group = [row for row in own if row["subject_group"] == group]
            for place in rng.permutation(len(of_group))[:each]:
                image = read_image(data / of_group[place]["file"])
                name = f"cnmc-{label}-{len(found):04d}"
                _keep(work, name, image, _square(image, side=UM_ACROSS / 0.06))
                found.append({"name": name, "label": NAMES[label], "class": label, "source": "cnmc"})
    return found


def _cut_pbc(data: Path, work: Path, rng: np.random.Generator) -> list[dict[str, str]]:
    with (data / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["class"] != "platelet"]
    chosen = []
    for kind in sorted({row["kind"] for row in rows}):
        own = [row for row in rows if row["kind"] == kind]
        few = CANDIDATES["pbc"] // 2 if kind in KINDS else CANDIDATES["pbc"]
        chosen += [own[place] for place in rng.permutation(len(own))[:few]]
    cells = []
    for row in track(chosen, "cutting out", total=len(chosen)):
        try:
            field = open_field(data / row["file"], um_per_px=PBC_UM)
        except ImageError:
            continue
        middle = np.array(field.pixels.shape[1::-1]) / 2
        off = [(float(np.abs(np.array(cell.centre) - middle).max()), cell) for cell in find_cells(field)]
        near = [(away, cell) for away, cell in off if away < _MIDDLE and not cell.flags]
        if near:
            cell = min(near, key=lambda each: each[0])[1]
            picture = _square(field.pixels, side=UM_ACROSS / PBC_UM, middle=cell.centre)
            cells.append((row, cut_crop(field, cell), picture))
    source = measure(sample_crops([crop for _, crop, _ in cells]))
    stain = normaliser(DEFAULT_METHOD, source, target=stain_of(load().manifest))
    found = []
    for number, (row, crop, picture) in enumerate(cells):
        name = f"pbc-{row['kind']}-{number:04d}"
        _keep(work, name, stain(crop), picture)
        label = KINDS.get(row["kind"], row["class"])
        found.append({"name": name, "label": label, "class": NAMES.get(row["class"], row["class"]), "source": "pbc"})
    return found


def _square(image: np.ndarray, *, side: float, middle: tuple[float, float] | None = None) -> Image.Image:
    """Return a square around the middle as a thumbnail, grey beyond the picture."""
    x, y = middle or (image.shape[1] / 2, image.shape[0] / 2)
    left, top, wide = round(x - side / 2), round(y - side / 2), round(side)
    whole = Image.new("RGB", (wide, wide), (226, 226, 228))
    whole.paste(Image.fromarray(image), (-left, -top))
    return whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _keep(work: Path, name: str, crop: np.ndarray, picture: Image.Image) -> None:
    Image.fromarray(crop).save(work / "crops" / f"{name}.png")
    picture.save(work / "crops" / f"{name}.webp", quality=QUALITY, method=6)


def pack(work: Path, bundle: str | None, output: Path) -> None:
    """Choose the cells for a bundle and write them."""
    predictor = load(bundle)
    candidates = read_json(work / "candidates.json")
    crops = [read_image(work / "crops" / f"{row['name']}.png") for row in candidates]
    points = np.stack([embedding_of(predictor, crop) for crop in track(crops, "embedding", total=len(crops))])
    agreed = np.array([_agrees(predictor, row, crop) for row, crop in zip(candidates, crops, strict=True)])
    chosen: list[int] = []
    for label in sorted({row["label"] for row in candidates}):
        own = np.array([place for place, row in enumerate(candidates) if row["label"] == label])
        known = own[agreed[own]]
        kept = KEPT[candidates[own[0]]["source"]]
        chosen += [int(place) for place in _spread(known, points, kept)]
        print(f"{label}: {len(known)} of {len(own)} can be taken, {min(kept, len(known))} kept")
    cells = [
        ReferenceCell(
            candidates[place]["label"],
            CREDITS[candidates[place]["source"]],
            (work / "crops" / f"{candidates[place]['name']}.webp").read_bytes(),
        )
        for place in chosen
    ]
    write_reference_cells(output, cells, points[chosen], seal=predictor.manifest.seal)
    print(f"{output}: {len(cells)} cells, {output.stat().st_size:,} bytes")


def _agrees(predictor: Predictor, row: dict[str, str], crop: np.ndarray) -> bool:
    """Return whether the bundle calls a cell of C-NMC what it is; types have their labels from a hospital's readers."""
    if row["source"] == "pbc":
        return True
    opinion = predictor.opinion(crop)
    return bool(opinion.called) and (opinion.called == predictor.manifest.positive) == (row["class"] == "all")


def _spread(places: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Return of cells those that lie nearest to the middles of so many groups of them."""
    from sklearn.cluster import KMeans

    if len(places) <= count:
        return places
    found = KMeans(count, n_init=1, random_state=0).fit(points[places])
    return np.array(
        [
            places[np.flatnonzero(found.labels_ == group)][
                np.argmin(((points[places[found.labels_ == group]] - middle) ** 2).sum(1))
            ]
            for group, middle in enumerate(found.cluster_centers_)
        ]
    )


def main() -> None:
    """Read the command line."""
    from leukoscope.inference.explaining import SHIPPED_REFERENCE_CELLS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    first = parts.add_parser("cut")
    first.add_argument("data", type=Path)
    first.add_argument("work", type=Path)
    second = parts.add_parser("pack")
    second.add_argument("work", type=Path)
    second.add_argument("--bundle")
    second.add_argument("-o", "--output", type=Path, default=SHIPPED_REFERENCE_CELLS)
    given = parser.parse_args()
    if given.part == "cut":
        cut(given.data, given.work)
    else:
        pack(given.work, given.bundle, given.output)


if __name__ == "__main__":
    main()
