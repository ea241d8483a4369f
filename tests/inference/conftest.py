"""Bundles made by real exports of small real runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic_core import to_jsonable_python

from leukoscope.bundle.manifest import Bundle, open_bundle, write_bundle
from leukoscope.config import Experiment
from leukoscope.exporting import export_run
from leukoscope.files import fingerprint, read_json
from leukoscope.pipeline import Input, run_experiment

SETTINGS = {
    "prepare": {"view": "frame", "size": 64},
    "split": {"scheme": "kfold", "folds": 2},
    "train": {"epochs": 2, "accelerator": "cpu", "learning_rate": 0.003},
    "evaluate": {"replicates": 100},
}


def _silent(_: str) -> None:
    return None


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two folds on 160 synthetic cells."""
    run = tmp_path_factory.mktemp("synthetic") / "run"
    run_experiment(Input(synthetic=160), run, Experiment.of(SETTINGS))
    return run


@pytest.fixture(scope="session")
def ensemble(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Both folds of the synthetic run as one bundle."""
    return export_run(synthetic_run, tmp_path_factory.mktemp("ensemble") / "bundle", say=_silent)


@pytest.fixture(scope="session")
def single(synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One fold of the synthetic run, without any rule to refuse or to be unsure, so that every cell is answered."""
    exported = export_run(synthetic_run, tmp_path_factory.mktemp("single") / "bundle", folds=[1], say=_silent)
    return changed(exported, exported.path.parent / "open", quality={}, out_of_distribution={}, conformal={})


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Bundle], Path]:
    """Copy a bundle to a folder that the test may damage."""

    def copy(bundle: Bundle) -> Path:
        return Path(shutil.copytree(bundle.path, tmp_path / "bundle"))

    return copy


def changed(bundle: Bundle, folder: Path, **changes: object) -> Bundle:
    """Write the bundle again with other entries, properly sealed: as somebody would who means it."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    write_bundle(folder, bundle.manifest, files=files)
    table = read_json(folder / "bundle.json") | to_jsonable_python(changes)
    del table["seal"]
    (folder / "bundle.json").write_text(json.dumps(table | {"seal": fingerprint(table)}))
    return open_bundle(folder)


def facts(path: Path) -> dict[str, object]:
    """Return bundle.json as it stands."""
    table: dict[str, object] = read_json(path / "bundle.json")
    return table
