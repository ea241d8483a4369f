"""Probe mode: a logistic head on features that are computed once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukoscope.config import Experiment, Model
from leukoscope.data.cells import read_cells
from leukoscope.data.pack import open_pack
from leukoscope.files import read_csv, read_json, sha256_of
from leukoscope.models.catalogue import build_network
from leukoscope.training.checkpoint import load_checkpoint
from leukoscope.training.loop import train
from leukoscope.training.prepared import read_prepared
from leukoscope.training.probe import embed_in_onnx

MakeRun = Callable[..., Path]
KFOLD = {"scheme": "kfold", "folds": 2, "validation": 0.3}


@pytest.mark.parametrize("labels", [("hem", "all"), ("Benign", "Early", "Pre")])
def test_the_head_is_scikit_learns_and_the_network_gives_the_table(make_run: MakeRun, labels: tuple[str, ...]) -> None:
    run = make_run(split=KFOLD, train__mode="probe", labels=labels, subjects=18)
    train(run)
    prepared = read_prepared(run)
    network = build_network(Model(), classes=len(labels), size=32).eval()
    load_checkpoint(run / "fold-0" / "checkpoints" / "best.safetensors", network)
    strength = read_json(run / "fold-0" / "checkpoints" / "best.json")["strength"]
    with torch.no_grad():
        crops = torch.from_numpy(np.array(open_pack(run / "pack")))
        features, chances = network.embedding(crops).numpy(), torch.softmax(network(crops), dim=1).numpy()
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000))
    rows, test = prepared.rows("train", fold=0), prepared.rows("test", fold=0)
    peer.fit(features[rows], prepared.labels[rows])
    np.testing.assert_allclose(chances[test], peer.predict_proba(features[test]), atol=1e-3)
    place = {cell.path: number for number, cell in enumerate(read_cells(run / "cells.csv"))}
    for row in read_csv(run / "predictions.csv"):
        if row["fold"] == "0":
            mine = [float(row[f"prob_{name}"]) for name in prepared.plan.classes]
            np.testing.assert_allclose(mine, chances[place[(run / row["path"]).resolve()]], atol=1e-5)


def test_features_are_computed_once_for_all_folds_and_runs(make_run: MakeRun) -> None:
    run = make_run(split=KFOLD, train__mode="probe")
    train(run)
    kept = list((run / "embeddings").glob("*.npy"))
    assert len(kept) == 1
    table, when = sha256_of(run / "predictions.csv"), kept[0].stat().st_mtime_ns
    for path in run.glob("fold-*/*.csv"):
        path.unlink()
    train(run, resume=True)
    assert kept[0].stat().st_mtime_ns == when
    assert sha256_of(run / "predictions.csv") == table


@pytest.mark.parametrize("balance", ["none", "sampler", "size-sampler"])
def test_the_probe_knows_every_way_of_balancing(make_run: MakeRun, balance: str) -> None:
    run = make_run(train__mode="probe", train__balance=balance, subjects=14, split__validation=0.3)
    train(run)
    assert float(read_csv(run / "fold-0" / "history.csv")[0]["validation_auroc"]) > 0.9


def test_features_of_another_gain_are_not_taken_for_these(make_run: MakeRun) -> None:
    run = make_run(train__mode="probe")
    train(run)
    for path in (*run.glob("fold-*/*.csv"), *run.glob("fold-*/checkpoints/*")):
        path.unlink()
    Experiment.read(run / "config.toml", overrides=("model.gain=2",)).write(run / "config.toml")
    train(run)
    assert len(list((run / "embeddings").glob("*.npy"))) == 2


@pytest.mark.parametrize("name", ["seed-cnn", "timm:test_efficientnet"])
def test_onnx_runtime_gives_the_features_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(Model(name=name), classes=2, size=32).eval()
    crops = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        features = network.embedding(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(embed_in_onnx(network, size=32)(crops), features, rtol=1e-4, atol=1e-5)
