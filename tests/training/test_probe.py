"""Probe mode: a logistic head on features that are computed once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukoscope.config import Experiment, Model
from leukoscope.data.cells import open_pack, read_cells
from leukoscope.files import read_csv, read_json, sha256_of
from leukoscope.images.crop import VIEWS, turn
from leukoscope.models.catalogue import build_network
from leukoscope.training.batches import read_prepared
from leukoscope.training.checkpoint import export_folds, load_checkpoint, read_network
from leukoscope.training.loop import train
from leukoscope.training.probe import discriminant, embed_in_onnx

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


def test_the_discriminant_is_scikit_learns_where_each_class_is_one_subject() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    spread = rng.normal(0, 1, (6, 6))
    features = (rng.normal(0, 1, (600, 6)) @ spread + labels[:, None] * rng.normal(0, 1, 6)).astype(np.float32)
    weight, bias = discriminant(features, labels, labels, shrinkage=0.2)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    # scikit-learn shrinks to the mean variance instead of one: bring that to one first
    factor = np.sqrt(np.mean([np.cov(scaled[labels == each].T, bias=True).trace() / 6 for each in (0, 1)]))
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2 / (0.2 + 0.8 * factor**2))
    said = peer.fit(scaled, labels).decision_function(scaled)
    mine = (features @ weight.T + bias)[:, 0]
    assert np.corrcoef(mine, said)[0, 1] > 1 - 1e-9
    assert (mine > 0).tolist() == (said > 0).tolist()


def test_in_the_discriminant_subjects_count_alike() -> None:
    """Cells that are photographed a hundred times more often change nothing but the weight of few cells."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(8), 50)
    labels = (groups >= 4).astype(int)
    features = (rng.normal(0, 1, (400, 3)) + rng.normal(0, 1, (8, 3))[groups] + labels[:, None]).astype(np.float32)
    again = np.concatenate([np.arange(400), np.tile(np.flatnonzero(groups == 0), 20)])
    middle = features.mean(axis=0), features.std(axis=0)  # that the scale of features follows the cells is not asked
    scaled = (features - middle[0]) / middle[1]
    one, _ = discriminant(scaled, labels, groups, shrinkage=1e-6)
    other, _ = discriminant(scaled[again], labels[again], groups[again], shrinkage=1e-6)
    cosine = (one @ other.T) / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine > 0.9999


def test_a_run_with_a_discriminant_gives_what_its_head_says(make_run: MakeRun) -> None:
    run = make_run(split=KFOLD, train__mode="probe", train__head="discriminant", subjects=18)
    train(run)
    facts = read_json(run / "fold-0" / "checkpoints" / "best.json")
    assert facts["strength"] == 0.1
    network = read_network(run, fold=0)
    with torch.no_grad():
        chances = torch.softmax(network(torch.from_numpy(np.array(open_pack(run / "pack")))), dim=1).numpy()
    prepared = read_prepared(run)
    place = {cell.path: number for number, cell in enumerate(prepared.cells)}
    rows = [row for row in read_csv(run / "predictions.csv") if row["fold"] == "0"]
    for row in rows:
        mine = [float(row[f"prob_{name}"]) for name in prepared.plan.classes]
        np.testing.assert_allclose(mine, chances[place[(run / row["path"]).resolve()]], atol=1e-4)


def test_the_folds_are_exported_as_one_network_with_the_mean_of_their_heads(make_run: MakeRun) -> None:
    run = make_run(split=KFOLD, train__mode="probe", train__head="discriminant", subjects=18)
    train(run)
    exported = export_folds(run, folds=[0, 1], metadata={})
    networks = [read_network(run, fold=fold) for fold in (0, 1)]
    crops = np.array(open_pack(run / "pack"))[:8]
    with torch.no_grad():
        logits = [each(torch.from_numpy(crops))[:, 1] for each in networks]
    session = onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])
    chances = session.run(["probabilities"], {"crops": crops})[0][:, 1]
    np.testing.assert_allclose(chances, torch.sigmoid(sum(logits) / 2).numpy(), atol=1e-4)


def test_what_turning_a_cell_changes_decides_less_in_the_discriminant() -> None:
    """Two features separate the classes equally well; one of them changes with how a cell lies."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 50)
    labels = (groups >= 4).astype(int)
    cells = rng.normal(0, 1, (400, 1, 2)) + 2 * labels[:, None, None]
    turned = np.zeros((400, 8, 2))
    turned[..., 1] = rng.normal(0, 1, (400, 8))
    seen = (cells + turned).astype(np.float32)
    share = []
    for invariance in (0, 1, 100):
        weight, bias = discriminant(seen, labels, groups, shrinkage=1e-6, invariance=invariance)
        share.append(abs(weight[0, 1] / weight[0, 0]))
        assert (((seen.mean(axis=1) @ weight.T + bias)[:, 0] > 0) == labels).mean() > 0.7
    assert share[0] > 1.5 * share[1] > 15 * share[2]


def test_a_head_may_learn_from_all_views_of_a_cell(make_run: MakeRun) -> None:
    run = make_run(train__mode="probe", train__head="discriminant", train__invariance=2.0)
    train(run)
    prepared, crops = read_prepared(run), np.array(open_pack(run / "pack"))
    kept = np.load(next((run / "embeddings").glob("*.npy")))
    assert kept.shape[:2] == (len(prepared.cells), 8)
    network = read_network(run, fold=0)
    with torch.no_grad():
        for number, view in enumerate(VIEWS["turns"]):
            seen = np.ascontiguousarray(turn(crops[:5], view, axes=(1, 2)))
            features = network.embedding(torch.from_numpy(seen)).numpy()
            np.testing.assert_allclose(kept[:5, number], features, rtol=1e-3, atol=1e-4)
