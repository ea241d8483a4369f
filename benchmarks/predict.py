"""From image files on disk to probabilities: leukoscope beside keras.Model.predict, on the same weights and files.

    python benchmarks/predict.py --keras-python VENV/bin/python [--images 400]
    python benchmarks/predict.py --shipped CELLS

VENV is an environment of its own with tensorflow and pillow. Every image is a 450 px BMP, as in the C-NMC release;
both sides read, rescale and predict it with the paper's seed-cnn. Printed: images per second of either side and their
ratio, the largest difference of a probability, seconds from starting Python to the first answer, and the peak memory
for ten thousand files beside that for five hundred. With --shipped: cells per second and milliseconds of processor for
a cell of the shipped model on the command line, without the start of the program.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from board import Chart, publish
from PIL import Image

SIZE = 450
ROUNDS = 3  # of each side in turn

KERAS = """
import json, sys, time
from pathlib import Path
import keras, numpy as np
from keras import layers

folder, weights, batch = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
image = keras.Input((450, 450, 3))
x = layers.Rescaling(1 / 255)(image)
for filters in (16, 32, 64, 128):
    x = layers.Conv2D(filters, 2, strides=2, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("relu")(x)
    x = layers.Dropout(0.2)(x) if filters == 128 else layers.MaxPooling2D(2, 2, padding="same")(x)
x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
model = keras.Model(image, layers.Dense(1, activation="sigmoid")(x))
for number, variable in enumerate(model.weights):
    variable.assign(weights[str(number)])

def files():
    return keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(450, 450), batch_size=batch, shuffle=False, verbose=False
    )

import tensorflow as tf

paths = sorted(Path(folder).glob("*.bmp"))

def array():
    return np.stack([tf.image.decode_bmp(path.read_bytes(), channels=3).numpy() for path in paths])

model.predict(files().take(2), verbose=0)
for line in sys.stdin:
    start, used = time.perf_counter(), time.process_time()
    if line.strip() == "dataset":
        chances = model.predict(files(), verbose=0)[:, 0]
    else:
        chances = model.predict(array(), batch_size=batch, verbose=0)[:, 0]
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(json.dumps({"seconds": seconds, "processor": used, "chances": chances.tolist(),
                      "versions": {"keras": keras.__version__, "tensorflow": tf.__version__}}), flush=True)
"""

MEMORY = """
import sys
import leukoscope
from pathlib import Path
paths = sorted(Path(sys.argv[2]).glob("*.bmp"))
wanted = int(sys.argv[3])
count = sum(1 for _ in leukoscope.load(sys.argv[1]).stream((i, paths[i % len(paths)]) for i in range(wanted)))
assert count == wanted
# Not getrusage: its peak counts what the parent held before this program was started.
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_images(folder: Path, *, count: int, rng: np.random.Generator) -> None:
    """Write cells of smooth noise on black, BMP as in the release."""
    down, across = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    disc = np.hypot(down, across)[..., None] < 130
    for number in range(count):
        small = Image.fromarray(rng.integers(60, 220, (30, 30, 3), dtype=np.uint8))
        cell = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) * disc
        Image.fromarray(cell.astype(np.uint8)).save(folder / f"cell_{number:05}.bmp")


def write_models(folder: Path) -> tuple[Path, Path]:
    """Write seed-cnn with random weights as a bundle, and the same weights in the order of Keras."""
    import torch

    from leukoscope.bundle.manifest import OPERATING_POINTS, Manifest, Member, write_bundle
    from leukoscope.config import Model, Prepare
    from leukoscope.inference.ensemble import CLASSES_KEY
    from leukoscope.models.catalogue import build_network
    from leukoscope.models.export import to_onnx

    torch.manual_seed(0)
    network = build_network(Model(name="seed-cnn"), classes=2, size=SIZE)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    onnx = to_onnx(network, size=SIZE, metadata={CLASSES_KEY: "hem\nall"})
    member = Member(graph="model.onnx", network="seed-cnn", prepare=Prepare(view="window", size=SIZE, window=SIZE))
    points = dict.fromkeys(OPERATING_POINTS, 0.5)
    manifest = Manifest(
        name="benchmark", classes=("hem", "all"), positive="all", members=(member,), operating_points=points
    )
    bundle = write_bundle(folder / "bundle", manifest, files={"model.onnx": onnx, "card.md": b"benchmark"})
    kept = {name: value.numpy() for name, value in network.state_dict().items() if "num_batches" not in name}
    order = [
        value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        for value in kept.values()
    ]
    np.savez(folder / "keras.npz", **{str(number): value for number, value in enumerate(order)})
    return bundle.path, folder / "keras.npz"


def time_ours(bundle: Path, images: Path) -> tuple[float, float, np.ndarray]:
    """Return seconds and seconds of processor time for all files, and the probabilities."""
    import leukoscope

    predictor = leukoscope.load(bundle)
    paths = sorted(images.glob("*.bmp"))
    predictor.predict(paths[:8])
    start, used = time.perf_counter(), time.process_time()
    chances = [(opinion.probabilities or {})["all"] for opinion in predictor.predict(paths, with_crops=False)]
    return time.perf_counter() - start, time.process_time() - used, np.array(chances)


def compare_speed(keras_python: Path, *, bundle: Path, weights: Path, images: Path, batch: int) -> None:
    """Print images per second of both sides, taking turns on the same machine, and their ratio.

    Keras reads the files in the two ways of its documentation: a dataset that reads ahead, or one array of them all.
    """
    command = [str(keras_python), "-c", KERAS, str(images), str(weights), str(batch)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    times: dict[str, list[tuple[float, float]]] = {"dataset": [], "array": [], "leukoscope": []}
    with subprocess.Popen(command, text=True, **pipes) as keras:  # type: ignore[call-overload]
        for _ in range(ROUNDS):
            for way in ("dataset", "array"):
                keras.stdin.write(way + "\n")
                keras.stdin.flush()
                answer = json.loads(keras.stdout.readline())
                times[way].append((answer["seconds"], answer["processor"]))
            seconds, used, chances = time_ours(bundle, images)
            times["leukoscope"].append((seconds, used))
        keras.stdin.close()
    count = len(chances)
    middle = {way: [statistics.median(each) for each in zip(*rounds, strict=True)] for way, rounds in times.items()}
    ours = middle["leukoscope"]
    names = {way: way if way == "leukoscope" else f"Keras, {way}" for way in ("leukoscope", "dataset", "array")}
    publish(
        "predict",
        title="Predicting from files beside Keras",
        about=f"{count} BMPs of {SIZE} px on disk to probabilities of seed-cnn with the same weights; medians of "
        f"{ROUNDS}, in turn; keras.Model.predict in batches of {batch}, from a dataset that reads ahead or one array.",
        columns=["", "images/s", "processor ms an image", "times as slow", "… in processor time"],
        rows=[
            [
                names[way],
                f"{count / middle[way][0]:.1f}",
                f"{1000 * middle[way][1] / count:.2f}",
                f"{middle[way][0] / ours[0]:.2f}",
                f"{middle[way][1] / ours[1]:.2f}",
            ]
            for way in names
        ],
        chart=Chart({names[way]: 1000 * middle[way][1] / count for way in names}, "processor ms an image"),
        notes=f"Largest difference of a probability: {np.abs(chances - answer['chances']).max():.1e}.",
        versions=answer["versions"],
    )


def first_answer(bundle: Path, images: Path) -> None:
    """Print the seconds from starting Python to the first answer, on the command line and in Python."""
    image = str(next(images.glob("*.bmp")))
    python = f"import leukoscope; leukoscope.load({str(bundle)!r}).predict({image!r})"
    program = "from leukoscope.cli import main; main()"
    for name, command in {
        "Python": [sys.executable, "-c", python],
        "command line": [sys.executable, "-c", program, "predict", image, "--model", str(bundle)],
    }.items():
        seconds, used = [], []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(f"first answer, {name}: {min(seconds):.2f} s ({min(used):.2f} s of processor time)")


def shipped(cells: Path) -> None:
    """Print what the shipped model takes for a cell on the command line, with the threads as they are and with one."""
    files = sorted(each for each in cells.iterdir() if each.suffix in (".bmp", ".png", ".webp"))
    settings: dict[str, dict[str, str]] = {"threads by default": {}, "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"}}
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    program = "from leukoscope.cli import main; main()"
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for _ in range(ROUNDS):
        for name, more in settings.items():
            ends = []
            for images in (str(cells), str(files[0])):  # one file: what it takes to start
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                command = [sys.executable, "-c", program, "predict", images, "-o", os.devnull]
                subprocess.run(command, env=plain | more, check=True, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                ends.append((time.perf_counter() - start, used))
            (wall, used), (wall_to_start, used_to_start) = ends
            cells_more = len(files) - 1
            measured[name].append(((wall - wall_to_start) / cells_more, (used - used_to_start) / cells_more))
    load = os.getloadavg()[0]
    for name, each in measured.items():
        wall, used = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{name}: {1 / wall:.0f} cells/s, {1000 * used:.1f} ms of processor a cell (load {load:.1f})")


def memory(bundle: Path, images: Path) -> None:
    """Print the peak memory for five hundred and for ten thousand files."""
    peaks = []
    for count in (500, 10_000):
        command = [sys.executable, "-c", MEMORY, str(bundle), str(images), str(count)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"peak memory, {count} files: {peaks[-1]:.0f} MiB")
    print(f"  ratio {peaks[1] / peaks[0]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras-python", type=Path, help="Python of an environment with tensorflow and pillow")
    parser.add_argument("--shipped", type=Path, help="only time the shipped model on this folder of cells")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="of keras.Model.predict")
    arguments = parser.parse_args()
    if arguments.shipped:
        shipped(arguments.shipped)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        write_images(folder / "images", count=arguments.images, rng=np.random.default_rng(0))
        bundle, weights = write_models(folder)
        first_answer(bundle, folder / "images")
        if arguments.keras_python:
            compare_speed(
                arguments.keras_python, bundle=bundle, weights=weights, images=folder / "images", batch=arguments.batch
            )
        memory(bundle, folder / "images")


if __name__ == "__main__":
    main()
