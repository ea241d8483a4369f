"""Are the explanations to be believed? Checks of every method on real cells, through a bundle.

Usage: python benchmarks/explanations.py BUNDLE [--data ../shared/data] [--cells 24] [--json FILE] [--figure FILE.svg]

Columns: inside = share of heat on the cell (`cell` is what even heat would have); deletion and insertion = area under
the curve, in brackets that of smooth random heat, `d` the difference to it with its 95 % interval over cells;
randomised = rank correlation with the same network, its weights shuffled within each tensor (needs the package onnx);
occlusion = rank correlation with occlusion; s = seconds per cell, one thread.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from leukoscope.explanation import (
    Crops,
    Predict,
    check,
    deletion,
    enlarge,
    insertion,
    lime,
    occlude,
    random_heat,
    rank_correlation,
)
from leukoscope.files import write_json
from leukoscope.images.crop import prepare_crop
from leukoscope.images.read import read_image
from leukoscope.inference.predictor import Predictor, load

Method = Callable[[np.ndarray, int], np.ndarray]


def main() -> None:
    """Print one row per method."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", type=Path)
    ask.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    ask.add_argument("--cells", type=int, default=24)
    ask.add_argument("--json", type=Path)
    ask.add_argument("--figure", type=Path)
    asked = ask.parse_args()
    predictor = load(asked.model)
    crops = real_crops(asked.data, predictor, count=asked.cells)
    maps, predict = outputs_of(predictor)
    random_maps, random_predict = randomised(predictor)
    print(f"{len(crops)} cells, crops of {crops.shape[1]} px, {maps(crops[:1]).shape[2]} places a side")
    ours = methods(predict, maps)
    theirs = methods(random_predict, random_maps)
    occlusion = [ours["occlusion"](crop, said(predict, crop)) for crop in crops]
    print(
        f"{'method':20} inside (cell)  deletion (rand)  d                insertion (rand)  d                "
        "randomised  occlusion      s"
    )
    told = {
        name: row(name, ours[name], theirs[name], predict=predict, crops=crops, occlusion=occlusion) for name in ours
    }
    if asked.json:
        write_json(asked.json, told)
    if asked.figure:
        draw(told, asked.figure)


def real_crops(data: Path, predictor: Predictor, *, count: int) -> Crops:
    """Return prepared crops of cells of as many subjects as there are cells asked for."""
    with (data / "cnmc" / "cells.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    rng = np.random.default_rng(0)
    rng.shuffle(rows)
    first = {row["subject_group"]: row for row in rows}
    chosen = (list(first.values()) + rows)[:count]
    prepare = predictor.manifest.members[0].prepare
    return np.stack([prepare_crop(read_image(data / "cnmc" / row["file"]), prepare) for row in chosen])


def outputs_of(predictor: Predictor) -> tuple[Predict, Predict]:
    """Return what gives maps and what gives probabilities of crops."""
    return (
        lambda crops: predictor.outputs_of_crops(crops).maps,
        lambda crops: predictor.outputs_of_crops(crops).probabilities,
    )


def randomised(predictor: Predictor) -> tuple[Predict, Predict]:
    """Return the same of the first member with the weights shuffled within each tensor, so that their scale stays."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(predictor.bundle.read(predictor.manifest.members[0].graph))
    rng = np.random.default_rng(0)
    for tensor in graph.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype in (np.float32, np.float16) and weights.size > 16:
            tensor.CopyFrom(
                numpy_helper.from_array(rng.permutation(weights.ravel()).reshape(weights.shape), tensor.name)
            )
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    run = {
        name: lambda crops, name=name: session.run([name], {"crops": np.ascontiguousarray(crops)})[0]
        for name in ("map", "probabilities")
    }
    return run["map"], run["probabilities"]


def methods(predict: Predict, maps: Predict) -> dict[str, Method]:
    """Return every method as a function of a crop and a class."""
    return {
        "cam": lambda crop, target: enlarge(maps(crop[None])[0, target], size=len(crop)),
        "occlusion": lambda crop, target: occlude(predict, crop, target=target),
        "lime": lambda crop, target: lime(predict, crop, target=target, rng=np.random.default_rng(0)),
    }


def said(predict: Predict, crop: np.ndarray) -> int:
    """Return the class that the model says."""
    return int(np.argmax(predict(crop[None])[0]))


def row(name: str, method: Method, other: Method, *, predict: Predict, crops: Crops, occlusion: list) -> dict:
    """Check one method, print its row and return its numbers."""
    found = check(predict, method, crops, rng=np.random.default_rng(1), randomised=other)
    started = time.perf_counter()
    heats = [method(crop, said(predict, crop)) for crop in crops]
    found["seconds"] = (time.perf_counter() - started) / len(crops)
    found["occlusion"] = float(
        np.nanmean([rank_correlation(a, b, crop=c) for a, b, c in zip(heats, occlusion, crops, strict=True)])
    )
    found["gain"] = {each.__name__: gain(each, predict, crops, heats) for each in (deletion, insertion)}
    shown = {each: "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found["gain"][each]) for each in found["gain"]}
    print(
        f"{name:20} {found['inside'] or 0:.3f} ({found['cell_share']:.3f})  "
        f"{found['deletion']:.3f} ({found['deletion_random']:.3f})   {shown['deletion']}  "
        f"{found['insertion']:.3f} ({found['insertion_random']:.3f})    {shown['insertion']}  "
        f"{signed(found['randomised'])}      {found['occlusion']:+.3f}      {found['seconds']:.2f}",
        flush=True,
    )
    return found


def signed(value: float | None) -> str:
    """Return a correlation, or a dash where the network with shuffled weights answers the same to everything."""
    return "  –   " if value is None else f"{value:+.3f}"


def gain(curve: Callable, predict: Predict, crops: Crops, heats: list) -> list[float]:
    """Return the mean difference of the area to random heat, with its 95 % interval over cells."""
    rng = np.random.default_rng(2)
    areas = []
    for crop, heat in zip(crops, heats, strict=True):
        target = said(predict, crop)
        noise = curve(predict, crop, random_heat(crop, rng), target=target).area
        areas.append(curve(predict, crop, heat, target=target).area - noise)
    drawn = rng.choice(areas, (2000, len(areas))).mean(axis=1)
    return [float(value) for value in (np.mean(areas), *np.quantile(drawn, [0.025, 0.975]))]


def draw(told: dict, path: Path) -> None:
    """Draw the mean deletion and insertion curves of every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("deletion", "insertion"), strict=True):
        for name, found in told.items():
            axes.plot(found["curves"][kind]["shares"], found["curves"][kind]["values"], label=name)
        noise = next(iter(told.values()))["curves"][f"{kind}_random"]
        axes.plot(noise["shares"], noise["values"], color="0.5", linestyle="--", label="random heat")
        axes.set(title=kind.capitalize(), xlabel="Share of the cell", ylabel="Probability of the class", ylim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
