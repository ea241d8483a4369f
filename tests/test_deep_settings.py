"""Settings that are nested without end: one clear error, whatever reads them."""

from pathlib import Path

import pytest

from leukoscope.config import Experiment
from leukoscope.errors import ConfigError


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "[" * 100 + "]" * 100, "a" + ".b" * 90 + " = 1"]
)
def test_deep_toml_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.toml").write_text(text)
    with pytest.raises(ConfigError, match="nested too deeply"):
        Experiment.read(tmp_path / "deep.toml")
