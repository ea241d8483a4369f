"""PyTorch, ONNX, the command line and Python agree on every probability of real cells."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from leukoscope import load
from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.config import Experiment
from leukoscope.exporting import export_run
from leukoscope.files import read_csv, write_csv
from leukoscope.images.crop import prepare_crop
from leukoscope.images.read import read_image
from leukoscope.inference.predictor import Predictor
from leukoscope.models.export import Store
from leukoscope.models.network import WithMap
from leukoscope.training.checkpoint import read_network

CLOSE = 1e-4


def torch_answers(run: Path, bundle: Bundle, images: list[np.ndarray]) -> np.ndarray:
    """Calibrate and average what the PyTorch networks of the run say."""
    prepare = Experiment.read(run / "config.toml").prepare
    crops = torch.from_numpy(np.stack([prepare_crop(image, prepare) for image in images]))
    said = []
    for member in bundle.manifest.members:
        with torch.inference_mode():
            raw = WithMap(read_network(run, fold=member.fold))(crops)[0].double()
        said.append(torch.softmax(raw.log() / member.temperature, dim=1).numpy())
    return np.mean(said, axis=0)


def test_all_ways_agree_on_the_shared_sample(
    shared_data: Path, synthetic_run: Path, single: Bundle, tmp_path: Path
) -> None:
    rows = read_csv(shared_data / "cnmc" / "cells.csv")
    paths = [shared_data / "cnmc" / row["file"] for row in rows[:: len(rows) // 60]]
    write_csv(tmp_path / "cells.csv", [{"path": str(path)} for path in paths], columns=("path",))
    expected = torch_answers(synthetic_run, single, [read_image(path) for path in paths])

    opinions = load(single.path).predict(paths)
    python = np.array([list((opinion.probabilities or {}).values()) for opinion in opinions])
    call = ["predict", str(tmp_path / "cells.csv"), "--model", str(single.path)]
    printed = CliRunner().invoke(program, [*call, "--json"])
    assert printed.exit_code == 0, printed.output
    told = np.array([list(cell["probabilities"].values()) for cell in json.loads(printed.stdout)["cells"]])
    assert CliRunner().invoke(program, [*call, "-o", str(tmp_path / "out.csv")]).exit_code == 0
    table = [[float(row["prob_normal"]), float(row["prob_blast"])] for row in read_csv(tmp_path / "out.csv")]

    for other in (python, told, np.array(table)):
        assert np.abs(other - expected).max() < CLOSE
    assert [opinion.name for opinion in opinions] == [row["path"] for row in read_csv(tmp_path / "out.csv")]


@pytest.mark.parametrize(("store", "moved"), [("single", CLOSE), ("half", 2e-2), ("int8", 5e-2)])
def test_small_weights_move_probabilities_by_little(
    synthetic_run: Path, ensemble: Bundle, store: Store, moved: float, tmp_path: Path
) -> None:
    bundle = (
        ensemble
        if store == "single"
        else export_run(synthetic_run, tmp_path / "bundle", store=store, say=lambda _: None)
    )
    images = [read_image(path) for path in sorted((synthetic_run / "synthetic").rglob("*.png"))[:40]]
    said = Predictor(bundle).outputs(images).probabilities
    assert np.abs(said - torch_answers(synthetic_run, bundle, images)).max() < moved
    size = {place.path: (place.path / place.manifest.members[0].graph).stat().st_size for place in (bundle, ensemble)}
    assert store == "single" or size[bundle.path] < 0.7 * size[ensemble.path]
