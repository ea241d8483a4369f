"""Settings are closed, validated, and say which key was meant."""

import re
from pathlib import Path

import pytest

from leukoscope.config import Experiment, shipped
from leukoscope.errors import ConfigError, DataError, UnknownNameError


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    experiment = Experiment.read(overrides=("train.epochs=3", "model.name=timm:resnet18", "augment.zoom=[0.8, 1.2]"))
    experiment.write(tmp_path / "config.toml")
    assert Experiment.read(tmp_path / "config.toml") == experiment
    assert (experiment.train.epochs, experiment.model.name, experiment.augment.zoom) == (3, "timm:resnet18", (0.8, 1.2))


@pytest.mark.parametrize("name", ["demo", "ellassir-2022", "fine-tune"])
def test_shipped_experiments_are_valid(name: str) -> None:
    assert Experiment.read(shipped(name)) != Experiment()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'. Did you mean 'train.epochs'?"),
        ("trian.epochs=3", "unknown key 'trian'. Did you mean 'train'?"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.epochs", "write it as key=value"),
        ("seed=-1", "greater than or equal to 0"),
        ("train.learning_rate=inf", "finite number"),
        ("seed.deep=1", "Input should be"),
        ("split.scheme=parts", "needs split.test_parts"),
        ("augment.zoom=[2, 1]", "zoom is [smallest, largest]"),
        ("prepare.view=round", "'frame', 'window', 'cell' or 'area'"),
    ],
)
def test_a_wrong_setting_names_the_right_one(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Experiment.read(overrides=(override,))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("train = [")
    with pytest.raises(ConfigError, match=r"bad.toml is not valid TOML"):
        Experiment.read(path)
    path.write_text("[train]\nepoch = 3\n")
    with pytest.raises(ConfigError, match=r"bad.toml: unknown key 'train.epoch'"):
        Experiment.read(path)
    with pytest.raises(DataError, match="does not exist"):
        Experiment.read(tmp_path / "none.toml")
    with pytest.raises(UnknownNameError, match="Did you mean 'demo'"):
        shipped("dmo")
