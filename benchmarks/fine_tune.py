"""Fine-tuning EfficientNet-Lite0 at 224 px beside a plain PyTorch script, and probe mode beside fine-tuning.

    python benchmarks/fine_tune.py [--images 128] [--rounds 3] [--threads 1]

The plain script is what most public repositories on C-NMC have: ImageFolder, Resize, ToTensor, Normalize, a DataLoader
with workers that decodes every file in every epoch, the same backbone, AdamW. Both sides start from random weights, in
batches of 32, without augmentation; one round is one epoch of each in turn, in processes that live throughout.

Probe mode embeds every image once through ONNX Runtime and fits the head. Its time over 10,000 images is its time an
image times 10,000, with the measured export before and the measured fit to 10,000 drawn embeddings after; that of
one epoch of fine-tuning is its time an image times 10,000.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from board import Chart, Peer, Spent, median, publish, ratio, spent, write_files
from lightning_fabric import Fabric

from leukoscope.config import Experiment
from leukoscope.data.cells import pack, write_cells
from leukoscope.data.index import index
from leukoscope.data.split import make_split, write_split
from leukoscope.training.batches import Prepared, read_prepared
from leukoscope.training.loop import FoldTraining, start_fold, train_epoch
from leukoscope.training.probe import choose_head, embed_in_onnx

BACKBONE, SIZE, BATCH, MANY = "tf_efficientnet_lite0", 224, 32, 10_000

PLAIN = """
import json, resource, sys, time
import timm, torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

torch.set_num_threads(int(sys.argv[2]))
steps = [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
files = ImageFolder(sys.argv[1], transforms.Compose(steps))
loader = DataLoader(files, batch_size=32, shuffle=True, num_workers=2)
model = timm.create_model("tf_efficientnet_lite0", num_classes=2)
optimizer, criterion = torch.optim.AdamW(model.parameters(), lr=4e-4), nn.CrossEntropyLoss()

def used():
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime

for line in sys.stdin:
    start, before = time.perf_counter(), used()
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    print(json.dumps({"seconds": time.perf_counter() - start, "processor": used() - before}), flush=True)
"""


def prepare(folder: Path, *, images: int) -> tuple[Prepared, Spent]:
    """Write files and a run folder; return it, and what packing took."""
    write_files(folder / "images", count=images, classes=("hem", "all"))
    run, cells = folder / "run", index(folder / "images").cells
    settings = Experiment.of(
        {
            "prepare": {"view": "frame", "size": SIZE},
            "split": {"scheme": "holdout"},
            "model": {"name": f"timm:{BACKBONE}"},
            "augment": {"flip": False, "rotate": False, "stain": 0, "colour": 0},
            "train": {"batch_size": BATCH, "optimizer": "adamw", "learning_rate": 4e-4, "accelerator": "cpu"},
        }
    )
    write_cells(run / "cells.csv", cells)
    settings.write(run / "config.toml")
    write_split(run / "split.json", make_split(cells, settings.split, seed=0))
    _, packing = spent(lambda: pack(cells, run / "pack", prepare=settings.prepare))
    return read_prepared(run), packing


def compare(task: FoldTraining, images: Path, *, rounds: int, threads: int) -> dict[str, Spent]:
    """Return the medians of an epoch of either side, and of embedding the same images in probe mode."""
    times: dict[str, list[Spent]] = {"leukoscope": [], "plain PyTorch": [], "embedding": []}
    embed = embed_in_onnx(task.network.eval(), size=SIZE)
    rows = np.array_split(task.sets.train, len(task.sets.train) // BATCH)
    with Peer(sys.executable, PLAIN, images, threads) as plain:
        for epoch in range(rounds + 1):  # the first one warms up
            times["leukoscope"].append(spent(lambda epoch=epoch: train_epoch(task, epoch=epoch))[1])
            times["plain PyTorch"].append(Spent(**plain.ask()))
            times["embedding"].append(spent(lambda: [embed(task.prepared.crops.read(batch)) for batch in rows])[1])
            print({name: f"{each[-1].processor:.1f} s of processor" for name, each in times.items()}, flush=True)
    return {name: median(each[1:]) for name, each in times.items()}


def probe_extra(task: FoldTraining) -> dict[str, Spent]:
    """Return what exporting the backbone and fitting the head to many drawn embeddings take."""
    _, exporting = spent(lambda: embed_in_onnx(task.network, size=SIZE))
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=MANY)
    features = (rng.normal(size=(MANY, task.network.channels)) + 0.1 * labels[:, None]).astype(np.float32)
    sets = dataclasses.replace(task.sets, train=np.arange(MANY * 4 // 5), validation=np.arange(MANY * 4 // 5, MANY))
    _, fitting = spent(lambda: choose_head(task.network, features, labels, sets=sets))
    return {"exporting": exporting, "fitting": fitting}


def write(times: dict[str, Spent], extra: dict[str, Spent], *, count: int, packing: Spent, about: str) -> None:
    per_image = {name: 1000 * each.processor / count for name, each in times.items()}
    ours = times["leukoscope"]
    probe = per_image["embedding"] * MANY / 1000 + sum(each.processor for each in extra.values())
    epoch = per_image["leukoscope"] * MANY / 1000
    rows: list[list[Any]] = [
        [
            name,
            f"{count / times[name].seconds:.1f}",
            f"{per_image[name]:.1f}",
            ratio(times[name].seconds, ours.seconds),
            ratio(times[name].processor, ours.processor),
        ]
        for name in ("leukoscope", "plain PyTorch")
    ]
    publish(
        "fine-tune",
        title="Fine-tuning EfficientNet-Lite0, and probe mode",
        about=about,
        columns=["", "images/s", "processor ms an image", "times as slow", "… in processor time"],
        rows=rows,
        chart=Chart(
            {
                "leukoscope, probe": per_image["embedding"],
                "leukoscope": per_image["leukoscope"],
                "plain PyTorch": per_image["plain PyTorch"],
            },
            "processor ms an image, one epoch",
        ),
        notes=f"{count} files, packed once in {packing.seconds:.1f} s. Probe mode: {per_image['embedding']:.1f} ms of "
        f"processor an image, export {extra['exporting'].processor:.1f} s, fitting {MANY:,} cells "
        f"{extra['fitting'].processor:.1f} s; so 10,000 images take {probe:.0f} s of processor, one epoch of "
        f"fine-tuning them {epoch:.0f} s: {epoch / probe:.1f} times as much.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as name:
        prepared, packing = prepare(Path(name), images=asked.images)
        task = start_fold(Fabric(accelerator="cpu", devices=1), prepared, fold=0)
        task = dataclasses.replace(task, sets=dataclasses.replace(task.sets, train=np.arange(asked.images)))
        times = compare(task, Path(name) / "images", rounds=asked.rounds, threads=asked.threads)
        extra = probe_extra(task)
    about = f"Batches of {BATCH}, {asked.threads} thread(s) of PyTorch each, medians of {asked.rounds} epochs, in turn."
    write(times, extra, count=asked.images, packing=packing, about=about)


if __name__ == "__main__":
    main()
