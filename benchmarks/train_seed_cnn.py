"""Training the paper's seed-cnn from BMP files: leukoscope beside Keras, from the same weights over the same batches.

    python benchmarks/train_seed_cnn.py --keras-python VENV/bin/python [--images 320] [--rounds 5]

VENV is an environment of its own with tensorflow (or tensorflow-cpu). One round is one epoch of either side in turn, in
processes that live throughout: 450 px, batch 32, Adam, no augmentation, no dropout (so that the losses can be compared
step by step). Keras reads the files in both ways of its documentation: a tf.data pipeline that decodes them in parallel
in every epoch, or one array of all of them in memory. leukoscope packs them once, which is measured too.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from board import SIDE, Chart, Peer, Spent, median, publish, ratio, spent, write_files
from lightning_fabric import Fabric

from leukoscope.config import Experiment
from leukoscope.data.cells import pack, write_cells
from leukoscope.data.index import index
from leukoscope.data.split import make_split, write_split
from leukoscope.training.batches import Prepared, cut, read_prepared, rng_of
from leukoscope.training.loop import FoldTraining, start_fold, train_epoch

BATCH, RATE = 32, 0.001
EPOCHS = 20  # of the paper, for the figure that has the packing in it

KERAS = """
import json, sys, time
import keras, numpy as np, tensorflow as tf
from keras import layers

weights, batch, rate, ways = np.load(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), ("tf.data", "array")

def network():
    image = keras.Input((450, 450, 3))
    x = layers.Rescaling(1 / 255)(image)
    for filters in (16, 32, 64, 128):
        x = layers.Conv2D(filters, 2, strides=2, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x)
        x = layers.Dropout(0.0)(x) if filters == 128 else layers.MaxPooling2D(2, 2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(x))
    for number, variable in enumerate(model.weights):
        variable.assign(weights[str(number)])
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model

def image(path, label):
    return tf.cast(tf.io.decode_bmp(tf.io.read_file(path), channels=3), tf.float32), label

models = {way: network() for way in ways}
kept = {}
for line in sys.stdin:
    asked = json.loads(line)
    model, paths, labels = models[asked["way"]], asked["paths"], np.array(asked["labels"], "float32")[:, None]
    if asked["way"] == "array" and not kept:
        for path in paths:
            kept[path] = tf.io.decode_bmp(tf.io.read_file(path), channels=3).numpy()
    start, used = time.perf_counter(), time.process_time()
    if asked["way"] == "array":
        images = np.stack([kept[path] for path in paths])
        fitted = model.fit(images, labels, batch_size=batch, shuffle=False, verbose=0)
    else:
        files = tf.data.Dataset.from_tensor_slices((paths, labels)).map(image, num_parallel_calls=tf.data.AUTOTUNE)
        fitted = model.fit(files.batch(batch).prefetch(tf.data.AUTOTUNE), verbose=0)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(json.dumps({"seconds": seconds, "processor": used, "loss": fitted.history["loss"][0],
                      "versions": {"keras": keras.__version__, "tensorflow": tf.__version__}}), flush=True)
"""


def prepare(folder: Path, *, images: int) -> tuple[Prepared, Spent]:
    """Write files and a run folder; return it, and what packing took."""
    write_files(folder / "images", count=images, classes=("hem", "all"))
    run, cells = folder / "run", index(folder / "images").cells
    settings = Experiment.of(
        {
            "prepare": {"view": "window", "window": SIDE, "size": SIDE},
            "split": {"scheme": "holdout"},
            "model": {"name": "seed-cnn", "dropout": 0.0},
            "augment": {"flip": False, "rotate": False, "stain": 0, "colour": 0},
            "train": {"batch_size": BATCH, "learning_rate": RATE, "balance": "none", "accelerator": "cpu"},
        }
    )
    write_cells(run / "cells.csv", cells)
    settings.write(run / "config.toml")
    write_split(run / "split.json", make_split(cells, settings.split, seed=0))
    _, packing = spent(lambda: pack(cells, run / "pack", prepare=settings.prepare))
    return read_prepared(run), packing


def keras_weights(task: FoldTraining, path: Path) -> None:
    """Write the network's weights in the order and layout of Keras."""
    kept = [value for name, value in task.network.state_dict().items() if "num_batches" not in name]
    arrays = [value.detach().contiguous().numpy() for value in kept]
    order = [a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T if a.ndim == 2 else a for a in arrays]
    np.savez(path, **{str(number): value for number, value in enumerate(order)})  # type: ignore[arg-type]


def compare(python: Path, *, task: FoldTraining, weights: Path, rounds: int) -> tuple[dict[str, list[Spent]], Any, Any]:
    """Return what each epoch of each side took, the losses, and the versions of the other side."""
    times: dict[str, list[Spent]] = {"tf.data": [], "array": [], "leukoscope": []}
    losses: dict[str, list[float]] = {name: [] for name in times}
    cells, labels = task.prepared.cells, task.prepared.labels
    with Peer(python, KERAS, weights, BATCH, RATE) as keras:
        for epoch in range(rounds + 1):  # the first one warms up
            order = task.sets.order(rng_of("order", *task.where(epoch, 0)))
            files = {"paths": [str(cells[row].path) for row in order], "labels": labels[order].tolist()}
            for way in ("tf.data", "array"):
                answer = keras.ask(way=way, **files)
                times[way].append(Spent(answer["seconds"], answer["processor"]))
                losses[way].append(answer["loss"])
            row, took = spent(lambda epoch=epoch: train_epoch(task, epoch=epoch))
            times["leukoscope"].append(took)
            losses["leukoscope"].append(row["train_loss"])
            print({name: f"{each[-1].seconds:.2f} s, loss {losses[name][-1]:.6f}" for name, each in times.items()})
    return {name: each[1:] for name, each in times.items()}, losses, answer["versions"]


def write(times: dict[str, list[Spent]], losses: Any, *, count: int, packing: Spent, versions: Any) -> None:
    middle = {name: median(each) for name, each in times.items()}
    ours = middle["leukoscope"]
    names = {
        "leukoscope": "leukoscope",
        "tf.data": "Keras, tf.data from files",
        "array": "Keras, array in memory",
    }
    rows = [
        [
            names[name],
            f"{count / each.seconds:.1f}",
            f"{1000 * each.processor / count:.1f}",
            ratio(each.seconds, ours.seconds),
            ratio(each.processor, ours.processor),
            f"{losses[name][-1]:.5f}",
        ]
        for name in names
        for each in [middle[name]]
    ]
    whole = packing.seconds + EPOCHS * ours.seconds
    apart = max(abs(a - b) / b for a, b in zip(losses["leukoscope"], losses["tf.data"], strict=True))
    publish(
        "train-seed-cnn",
        title="Training seed-cnn beside Keras",
        about=(__doc__ or "").partition("VENV is")[2].partition(". ")[2].replace("\n", " "),
        columns=["", "images/s", "processor ms an image", "times as slow", "… in processor time", "last training loss"],
        rows=rows,
        chart=Chart({names[name]: count / middle[name].seconds for name in names}, "images/s in training"),
        notes=f"{count} files, medians of {len(times['array'])} epochs of each, taking turns; PyTorch on "
        f"{torch.get_num_threads()} thread(s), TensorFlow on as many as it takes. From files, packing "
        f"({packing.seconds:.1f} s) and {EPOCHS} epochs take leukoscope {whole:.0f} s, Keras "
        f"{EPOCHS * middle['tf.data'].seconds:.0f} s: {EPOCHS * middle['tf.data'].seconds / whole:.2f} times as long. "
        f"Of the training loss in any epoch, the two differ by {apart:.1e} of it at most.\n\n"
        "Where the time goes and how near the machine's limit this is: [profile](profile.md).",
        versions=versions,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras-python", type=Path, required=True)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepared, packing = prepare(Path(name), images=asked.images)
        fabric = Fabric(accelerator="cpu", devices=1)
        torch.manual_seed(0)
        task = start_fold(fabric, prepared, fold=0)
        task = dataclasses.replace(task, sets=dataclasses.replace(task.sets, train=np.arange(asked.images)))
        assert all(len(batch) == BATCH for batch in cut(task.sets.train, batch_size=BATCH)), "give a multiple of 32"
        keras_weights(task, Path(name) / "weights.npz")
        times, losses, versions = compare(
            asked.keras_python, task=task, weights=Path(name) / "weights.npz", rounds=asked.rounds
        )
    write(times, losses, count=asked.images, packing=packing, versions=versions)


if __name__ == "__main__":
    main()
