"""leukoscope models, as it is called."""

from click.testing import CliRunner

from leukoscope.cli.models import models
from leukoscope.errors import UsageError


def test_the_summary_prints_the_papers_totals() -> None:
    result = CliRunner().invoke(models, ["summary", "seed-cnn"], catch_exceptions=False)
    assert "(None, 225, 225, 16)" in result.stdout
    assert "Total parameters: 44,529\nTrainable: 44,049\nNot trainable: 480" in result.stdout


def test_the_list_can_be_searched() -> None:
    result = CliRunner().invoke(models, ["list", "lite0"], catch_exceptions=False)
    assert "timm:tf_efficientnet_lite0" in result.stdout
    assert isinstance(CliRunner().invoke(models, ["list", "qqq"]).exception, UsageError)
    assert isinstance(CliRunner().invoke(models, ["summary", "qqq"]).exception, UsageError)
