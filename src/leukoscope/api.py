"""Public functions of `import leukoscope`: each does the work of one command."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .config import Experiment, read_experiment
from .data.index import Layout, index
from .errors import UsageError
from .inference.opinions import Opinions
from .inference.predictor import Image, Predictor, load

if TYPE_CHECKING:
    from .adaptation import Adapted
    from .bundle.manifest import Bundle
    from .evaluation.results import Comparison
    from .fields.cells import FieldCell
    from .inference.explaining import Explanation
    from .inference.sources import Look

Place = str | os.PathLike[str]
"""A path."""
Model = Predictor | str | os.PathLike[str] | None
"""A predictor, the folder of a bundle, 'default', or an address such as 'hf://owner/name'; None: the shipped bundle."""


def predict(
    images: Image | Iterable[Image],
    *,
    model: Model = None,
    point: str = "balanced",
    kind: "Look" = "auto",
    um_per_px: float | None = None,
    with_crops: bool = True,
) -> Opinions:
    """Return the opinions on one or several images: one per cell, in the order of the images.

    images: paths of image files, folders or CSV tables, arrays uint8 (height, width, 3) with red first, or PIL images;
    cells cut out on black, smear fields or slides.
    point: 'balanced', 'high-sensitivity' or 'high-specificity'.
    kind: what the images show, 'crops' or 'fields'; 'auto' decides for each.
    um_per_px: scale of the fields in micrometres per pixel; estimated where it is not given.
    with_crops: keep the crop of each cell, which `Opinions.plot` and notebooks show: about 0.2 MB a cell.

    An image that cannot be used is refused with the reason; the others are predicted.

    Raises:
        UsageError: a path does not exist, or `images` is neither an image nor several.
        DataError: a folder contains no image, or a table has no column path.
        BundleError: the model cannot be used.
        MissingExtraError: an image shows a smear field, and the extra `fields` is not installed.
    """
    return _predictor(model).predict(images, point=point, kind=kind, um_per_px=um_per_px, with_crops=with_crops)


def find_cells(image: Image, *, um_per_px: float | None = None) -> "list[FieldCell]":
    """Return the white cells of a smear field in reading order, each with its box, outline, size and flags.

    image: a path, an array uint8 (height, width, 3) with red first, or a PIL image. Lengths are in pixels of the field
    unless the name gives a unit (area_um2). um_per_px: the scale; read from the file or estimated if not given.

    Raises:
        ImageError: the image cannot be read, or shows no stained smear.
        MissingExtraError: the extra `fields` is not installed.
    """
    from .inference.sources import ready_for

    ready_for("field")
    from .fields.cells import field_of, open_field
    from .fields.cells import find_cells as find
    from .fields.scale import Scale

    if isinstance(image, str | os.PathLike):
        return find(open_field(Path(image), um_per_px=um_per_px))
    scale = Scale.exact(um_per_px, source="user") if um_per_px else None
    return find(field_of(_pixels(image), name="image", scale=scale))


def explain(
    image: Image,
    *,
    model: Model = None,
    method: Literal["", "cam", "occlusion", "lime"] = "",
    target: str = "",
    check: bool = False,
    seed: int = 0,
) -> "Explanation":
    """Return a heat map of the evidence in one cell, cut out on black.

    method: by default cam, or occlusion where the network's map cannot locate evidence.
    target: the class that is explained; by default the most probable one. check: measure deletion and insertion too.
    seed: of the random sets of lime.

    Raises:
        ImageError: the image cannot be read, or holds no cell.
        UnknownNameError: the model has no such class, or there is no such method.
        UsageError: cam is requested, and the network's map cannot locate evidence.
    """
    from .images.read import read_image
    from .inference.explaining import Explainer

    pixels = read_image(Path(image)) if isinstance(image, str | os.PathLike) else _pixels(image)
    return Explainer(_predictor(model), method=method, seed=seed, curves=check).explain(pixels, target=target)


def run(
    data: Place | None,
    output: Place,
    *,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    synthetic: int = 0,
    labels: Place | None = None,
    layout: Layout | None = None,
    skip_unusable: bool = False,
    resume: bool = False,
    until: Literal["audit", "split", "pack", "train", "report"] = "report",
) -> Path:
    """Train and evaluate a model on images, with a report in the folder OUTPUT; return the last file written.

    data: a folder of images or a CSV table; None with `synthetic`, the number of cells to draw instead.
    config: a TOML file, or the name of a shipped experiment: 'demo', 'fine-tune', 'ellassir-2022'.
    settings: changes to it by dotted name, such as {'train.epochs': 5}.

    Raises:
        UsageError: OUTPUT contains something else, or a setting is not allowed.
        DataError: the images cannot be used.
        MissingExtraError: the extra `train` is not installed.
    """
    from .pipeline import Input, run_experiment

    if data is not None and not Path(data).exists():
        raise UsageError(f"{data} does not exist. Check the path.")
    overrides = tuple(f"{name}={json.dumps(value)}" for name, value in (settings or {}).items())
    kept = Path(output) / "config.toml"
    resumed = resume and kept.exists() and config is None and not overrides
    experiment = Experiment.read(kept) if resumed else read_experiment(config, overrides)
    given = Input(
        Path(data) if data is not None else None, synthetic, layout, Path(labels) if labels else None, skip_unusable
    )
    return run_experiment(given, Path(output), experiment, resume=resume, until=until)


def compare(run_a: Place, run_b: Place) -> "Comparison":
    """Return the paired difference between two evaluated runs on the test cells that they share.

    Every metric is a dict with value, low and high: a 95 % interval over subject groups.

    Raises:
        DataError: a run is not evaluated, or the two share too few cells.
    """
    from .evaluation.compare import compare as compare_runs

    return compare_runs(Path(run_a), Path(run_b))


def export(
    run_folder: Place,
    output: Place,
    *,
    name: str = "",
    folds: Sequence[int] = (),
    store: Literal["single", "half", "int8"] = "single",
    alpha: float = 0.1,
) -> "Bundle":
    """Write a model bundle of an evaluated run, which predicts without PyTorch, and return it.

    folds: all of them, averaged, unless some are named. store: 4, 2 or 1 bytes for each weight. alpha: share of each
    class that may be called another; more cells are unsure when it is smaller.

    Raises:
        DataError: the run is not evaluated.
        UsageError: the run has no such fold, or OUTPUT exists.
        MissingExtraError: the extra `train` is not installed.
    """
    from .exporting import export_run

    return export_run(Path(run_folder), Path(output), name=name, folds=folds, store=store, alpha=alpha, say=_silent)


def adapt(
    reviewed: Place,
    *,
    model: str | os.PathLike[str] | None = None,
    output: Place | None = None,
    even_if_worse: bool = False,
    seed: int = 0,
) -> "Adapted":
    """Fit a new head of a bundle to reviewed cells of a laboratory, and compare it with the old one.

    reviewed: a labelled folder or table, or an unpacked data set of the reading room; pictures that cannot be used are
    left out with a warning. output: where the new bundle is written if it is better (`better` of the result), or with
    `even_if_worse`.

    Raises:
        DataError: there are too few cells of a class, or cells of classes that the bundle does not have.
        UsageError: OUTPUT exists.
        MissingExtraError: the extra `adapt` is not installed.
    """
    from .adaptation import adapt as fit
    from .adaptation import refuse_existing, write
    from .bundle.manifest import open_bundle

    folder, target = Path(reviewed), Path(output) if output is not None else None
    if not folder.exists():
        raise UsageError(f"{folder} does not exist. Check the path.")
    if target:
        refuse_existing(target)
    bundle = open_bundle(None if model is None else os.fspath(model))
    table = folder / "cells.csv" if (folder / "cells.csv").is_file() else folder
    found = index(table)
    adapted, cells = fit(bundle, found.cells, seed=seed)
    for refused in (*(f"{name}: {reason}" for name, reason in found.refused), *cells.refused):
        warnings.warn(f"Left out: {refused}", stacklevel=2)
    if target and (adapted.better or even_if_worse):
        write(bundle, target, adapted, cells)
    return adapted


def _predictor(model: Model) -> Predictor:
    if isinstance(model, Predictor):
        return model
    return load(None if model is None else os.fspath(model))


def _pixels(image: Any) -> Any:
    from .inference.predictor import pixels_of

    return pixels_of(np.asarray(image) if isinstance(image, list) else image)


def _silent(line: str) -> None:
    """Discard a line that the command line would print."""
