"""Training of a small prepared run, from its files to its files."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from leukoscope.config import Experiment, Model
from leukoscope.data.cells import open_pack, read_cells
from leukoscope.data.split import read_split
from leukoscope.errors import DataError, TrainingError, UsageError
from leukoscope.files import read_csv, read_json, sha256_of
from leukoscope.models.catalogue import build_network, leading_weights
from leukoscope.models.network import seed_cnn
from leukoscope.training.batches import Prepared, read_prepared, seed_of
from leukoscope.training.checkpoint import load_checkpoint, read_facts
from leukoscope.training.device import launch
from leukoscope.training.loop import follow, start_fold, train, train_step

MakeRun = Callable[..., Path]


@pytest.fixture
def trained(make_run: MakeRun) -> Path:
    run = make_run(split={"scheme": "kfold", "folds": 2, "validation": 0.3})
    train(run)
    return run


def test_every_labelled_cell_is_tested_once_and_the_table_says_where_it_stood(trained: Path) -> None:
    cells = read_cells(trained / "cells.csv")
    plan = read_split(trained / "split.json", cells)
    rows = read_csv(trained / "predictions.csv")
    assert ",".join(rows[0]) == "path,label,subject,group,part,source,fold,set,prob_hem,prob_all"
    tested = [row["path"] for row in rows if row["set"] == "test"]
    assert len(tested) == len(set(tested)) == sum(bool(cell.label) for cell in cells)
    by_path = {cell.path: cell for cell in cells}
    for row in rows:
        cell = by_path[(trained / row["path"]).resolve()]
        assert (row["label"], row["subject"]) == (cell.label, cell.subject)
        assert plan.sets([cell], fold=int(row["fold"])) == [row["set"]]
        assert float(row["prob_hem"]) + float(row["prob_all"]) == pytest.approx(1, abs=1e-6)


def test_the_best_checkpoint_gives_the_probabilities_of_the_table(trained: Path) -> None:
    network = build_network(Model(), classes=2, size=32)
    load_checkpoint(trained / "fold-1" / "checkpoints" / "best.safetensors", network)
    rows = [row for row in read_csv(trained / "predictions.csv") if row["fold"] == "1"]
    place = {cell.path: number for number, cell in enumerate(read_cells(trained / "cells.csv"))}
    crops = open_pack(trained / "pack")[[place[(trained / row["path"]).resolve()] for row in rows]]
    with torch.no_grad():
        chances = torch.softmax(network.eval()(torch.from_numpy(crops)), dim=1).numpy()
    np.testing.assert_allclose(chances[:, 1], [float(row["prob_all"]) for row in rows], atol=1e-5)


def test_history_and_provenance_can_be_read_by_a_person(trained: Path) -> None:
    history = read_csv(trained / "fold-0" / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    best = read_json(trained / "fold-0" / "checkpoints" / "best.json")
    assert best["validation_loss"] == min(float(row["validation_loss"]) for row in history)
    stage = read_json(trained / "run.json")["train"]
    assert stage["device"] == "cpu"
    assert stage["folds"] == 2


def test_a_second_call_needs_resume_and_then_changes_nothing(trained: Path) -> None:
    with pytest.raises(UsageError, match="--resume"):
        train(trained)
    before = {path: sha256_of(path) for path in trained.glob("fold-*/*/*")}
    train(trained, resume=True)
    assert {path: sha256_of(path) for path in trained.glob("fold-*/*/*")} == before


def test_finished_folds_are_kept(trained: Path) -> None:
    before = (trained / "fold-0" / "history.csv").read_bytes()
    table = sha256_of(trained / "predictions.csv")
    for path in (trained / "fold-1").rglob("*.*"):
        path.unlink()
    train(trained, resume=True)
    assert (trained / "fold-0" / "history.csv").read_bytes() == before
    assert sha256_of(trained / "predictions.csv") == table


def test_changed_settings_cannot_be_resumed(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    (run / "fold-0" / "predictions.csv").unlink()
    Experiment.read(run / "config.toml", overrides=("train.learning_rate=0.5",)).write(run / "config.toml")
    with pytest.raises(TrainingError, match=r"train\.learning_rate changed"):
        train(run, resume=True)


def flipped(content: bytes) -> bytes:
    place = len(content) - 1000  # among the numbers
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:1000], flipped])
def test_a_damaged_checkpoint_is_named(make_run: MakeRun, damage: Callable[[bytes], bytes]) -> None:
    run = make_run()
    train(run)
    (run / "fold-0" / "predictions.csv").unlink()
    last = run / "fold-0" / "checkpoints" / "last.safetensors"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(TrainingError, match=r"last\.safetensors cannot be used"):
        train(run, resume=True)


def test_a_loss_that_is_no_number_stops_with_what_to_try(make_run: MakeRun) -> None:
    run = make_run(train__learning_rate=1e30, train__epochs=5)
    with pytest.raises(TrainingError, match=r"fold 0, epoch \d.*train\.learning_rate"):
        train(run)
    assert not (run / "predictions.csv").exists()


def test_training_stops_early_when_validation_subjects_gain_nothing(make_run: MakeRun) -> None:
    run = make_run(train__learning_rate=1e-12, train__epochs=30, train__patience=2)
    train(run)
    history = read_csv(run / "fold-0" / "history.csv")
    losses = [float(row["validation_loss"]) for row in history]
    assert len(history) == int(np.argmin(losses)) + 1 + 2 < 30


def test_only_the_head_learns_while_the_backbone_is_frozen(make_run: MakeRun) -> None:
    run = make_run(train__mode="head-then-full", train__frozen_epochs=2, train__epochs=2, seed=3)
    train(run)
    (run / "fold-0" / "predictions.csv").unlink()
    trained, fresh = (build_network(Model(), classes=2, size=32) for _ in range(2))
    load_checkpoint(run / "fold-0" / "checkpoints" / "last.safetensors", trained)
    from leukoscope.training.batches import seed_of

    torch.manual_seed(seed_of("weights", 3, 0))
    fresh = build_network(Model(), classes=2, size=32)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]) != name.startswith("head."), name


@pytest.mark.parametrize("balance", ["none", "weights", "sampler", "size-sampler"])
def test_every_way_of_balancing_learns_the_synthetic_difference(make_run: MakeRun, balance: str) -> None:
    run = make_run(train__balance=balance, train__epochs=6, subjects=14, split__validation=0.3)
    train(run)
    assert float(read_csv(run / "fold-0" / "history.csv")[-1]["validation_auroc"]) > 0.9


def test_four_classes_are_learnt_as_four(make_run: MakeRun) -> None:
    run = make_run(labels=("Benign", "Early", "Pre", "Pro"), subjects=24, each=4, train__epochs=1)
    train(run)
    row = read_csv(run / "predictions.csv")[0]
    assert [name for name in row if name.startswith("prob_")] == ["prob_Benign", "prob_Early", "prob_Pre", "prob_Pro"]


def test_a_pack_of_another_size_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    Experiment.read(run / "config.toml", overrides=("prepare.size=64",)).write(run / "config.toml")
    with pytest.raises(DataError, match="data pack again"):
        train(run)


def test_a_device_that_is_not_there_is_named(make_run: MakeRun) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=r"train\.accelerator = 'cuda'"):
        train(make_run(train__accelerator="cuda"))


def test_tensorboard_is_written_only_when_asked(make_run: MakeRun) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    plain, asked = make_run("plain", train__epochs=1), make_run("asked", train__epochs=1, train__tensorboard=True)
    train(plain)
    train(asked)
    assert not list(plain.rglob("events.*"))
    assert list(asked.glob("fold-0/tensorboard/events.*"))


def test_the_facts_beside_a_checkpoint_are_those_inside_it(trained: Path) -> None:
    import safetensors

    for name in ("last", "best"):
        path = trained / "fold-0" / "checkpoints" / f"{name}.safetensors"
        with safetensors.safe_open(path, framework="np") as file:
            assert json.loads(file.metadata()["leukoscope"]) == read_json(path.with_suffix(".json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__batch_size": 1}, "greater than or equal to 2"),
        ({"train__accelerator": "no-such"}, "does not work on this machine"),
        ({"train__precision": "16-mixed"}, "needs a GPU"),
        ({"augment__zoom": (0.0, 1.0)}, "greater than 0"),
        ({"model__name": "timm:no-such"}, "timm has no backbone"),
    ],
)
def test_settings_that_cannot_work_are_the_calls_fault(
    make_run: MakeRun, settings: dict[str, object], message: str
) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        train(make_run(**settings))


def test_a_damaged_pack_is_named(make_run: MakeRun) -> None:
    run = make_run()
    crops = run / "pack" / "crops.npy"
    crops.write_bytes(crops.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"crops\.npy is damaged"):
        train(run)
    (run / "pack" / "pack.json").write_text("{}")
    crops.write_bytes(b"")
    with pytest.raises(DataError, match="data pack again"):
        train(run)


def test_size_sampling_without_sizes_says_which_command_writes_them(make_run: MakeRun) -> None:
    run = make_run(train__balance="size-sampler")
    (run / "traits.csv").unlink()
    with pytest.raises(DataError, match="leukoscope data audit"):
        train(run)


def test_the_average_follows_as_pytorchs_own() -> None:
    torch.manual_seed(0)
    network = seed_cnn(classes=2, dropout=0)
    mine, decay = copy.deepcopy(network), 0.5
    peer = AveragedModel(network, avg_fn=get_ema_avg_fn(decay))
    peer.update_parameters(network)  # its first update copies
    for step in range(20, 25):  # late enough for the full decay
        for weight in network.parameters():
            weight.data.add_(torch.randn_like(weight))
        follow(mine, network, decay=decay, step=step)
        peer.update_parameters(network)
    for (name, average), reference in zip(mine.named_parameters(), peer.module.parameters(), strict=True):
        assert torch.allclose(average, reference, atol=1e-5), name


def test_an_averaged_run_predicts_with_the_average(make_run: MakeRun) -> None:
    run = make_run(train={"epochs": 2, "batch_size": 8, "accelerator": "cpu", "average": 0.9, "keep": "last"})
    train(run)
    checkpoints = run / "fold-0" / "checkpoints"
    with safetensors.safe_open(checkpoints / "last.safetensors", framework="pt") as last:
        averaged = {name.removeprefix("average."): last.get_tensor(name) for name in last.keys() if "average." in name}  # noqa: SIM118
        moved = [not torch.equal(value, last.get_tensor(f"weights.{name}")) for name, value in averaged.items()]
    with safetensors.safe_open(checkpoints / "best.safetensors", framework="pt") as best:
        assert all(torch.equal(best.get_tensor(f"weights.{name}"), value) for name, value in averaged.items())
    assert any(moved)


def test_the_last_epoch_is_kept_when_asked(make_run: MakeRun) -> None:
    """A rate that destroys: the first epoch has the lowest validation loss."""
    train_settings = {"epochs": 3, "batch_size": 8, "accelerator": "cpu", "learning_rate": 3.0}
    epochs = {}
    for keep in ("best", "last"):
        run = make_run(keep, train=train_settings | {"keep": keep})
        train(run)
        epochs[keep] = read_facts(run / "fold-0" / "checkpoints" / "best.safetensors")["epoch"]
    assert epochs["last"] == 3
    assert epochs["best"] < 3


def test_a_run_predicts_with_the_views_that_its_bundle_will_use(make_run: MakeRun) -> None:
    run = make_run(model={"views": "flips"})
    train(run)
    network = build_network(Model(), classes=2, size=32).eval()
    load_checkpoint(run / "fold-0" / "checkpoints" / "best.safetensors", network)
    crops = torch.from_numpy(np.array(open_pack(run / "pack")))
    with torch.no_grad():
        seen = [network(crops.flip(axes)).softmax(dim=1) for axes in ((), (1,), (2,), (1, 2))]
    chances = torch.stack(seen).mean(dim=0).numpy()
    place = {cell.path: number for number, cell in enumerate(read_cells(run / "cells.csv"))}
    rows = [row for row in read_csv(run / "predictions.csv") if row["fold"] == "0"]
    for row in rows:
        assert float(row["prob_all"]) == pytest.approx(chances[place[(run / row["path"]).resolve()], 1], abs=1e-5)


def test_frozen_stages_keep_their_weights_and_the_rest_learns(make_run: MakeRun) -> None:
    train_settings = {"epochs": 1, "batch_size": 8, "accelerator": "cpu", "frozen_stages": 2}
    run = make_run(model={"name": "timm:test_resnet"}, train=train_settings)
    torch.manual_seed(seed_of("weights", 0, 0))
    before = build_network(Model(name="timm:test_resnet"), classes=2, size=32)
    frozen = {id(weight) for weight in leading_weights(before, stages=2)}
    train(run)
    with safetensors.safe_open(run / "fold-0" / "checkpoints" / "best.safetensors", framework="pt") as best:
        for name, weight in before.named_parameters():
            assert torch.equal(best.get_tensor(f"weights.{name}"), weight) == (id(weight) in frozen), name


@pytest.mark.parametrize(
    ("name", "why"), [("seed-cnn", "for timm backbones"), ("timm:test_resnet", "no stage to train")]
)
def test_stages_that_cannot_be_frozen_are_the_calls_fault(make_run: MakeRun, name: str, why: str) -> None:
    run = make_run(model={"name": name}, train={"epochs": 1, "accelerator": "cpu", "frozen_stages": 40})
    with pytest.raises(UsageError, match=why):
        train(run)


def first_loss(prepared: Prepared, weights: list[float], fabric: Fabric | None = None) -> float:
    """Return the loss of the first batch of a fresh network with these weights of the two classes."""
    if fabric is None:
        return float(launch(prepared.experiment.train, lambda found: first_loss(prepared, weights, found)))
    task = start_fold(fabric, prepared, fold=0)
    task = replace(task, sets=replace(task.sets, loss_weights=torch.tensor(weights)))
    rows = task.sets.train[:16]
    return float(train_step(task, rows, prepared.crops.read(rows), epoch=0, step=0)[0])


def test_the_loss_weighs_each_class_as_it_is_told(make_run: MakeRun) -> None:
    prepared = read_prepared(make_run(split={"scheme": "kfold", "folds": 2, "validation": 0.3}))
    first, second = first_loss(prepared, [1, 0]), first_loss(prepared, [0, 1])
    assert first > 0
    assert second > 0
    assert first_loss(prepared, [0.7, 1.9]) == pytest.approx(0.7 * first + 1.9 * second, rel=1e-5)
    unweighted = first_loss(prepared, [1, 1])
    assert first < 0.9 * unweighted


def test_frozen_statistics_stay_as_they_were_loaded_while_the_weights_learn(make_run: MakeRun) -> None:
    run = make_run(split={"scheme": "kfold", "folds": 2, "validation": 0.3}, train={"frozen_statistics": True})
    train(run)
    fresh, trained = (build_network(Model(), classes=2, size=32) for _ in range(2))
    load_checkpoint(run / "fold-0" / "checkpoints" / "last.safetensors", trained)
    before, after = fresh.state_dict(), trained.state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert any(not torch.equal(before[name], after[name]) for name in before if name not in statistics)
