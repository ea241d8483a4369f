"""The container files say what the program understands; building them needs Docker, which not every machine has."""

import re
from pathlib import Path

import yaml
from click.testing import CliRunner

from leukoscope.cli import leukoscope

ROOT = Path(__file__).resolve().parents[2]


def test_the_image_runs_as_nobody_special_and_checks_its_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER reader$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "/api/v1/health" in last
    assert last.index("USER") < last.index("ENTRYPOINT")


def test_the_extras_that_the_image_installs_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r"'\.\[(.+?)\]'", (ROOT / "Dockerfile").read_text())
    assert asked
    assert set(asked[1].split(",")) <= extras.keys()


def test_compose_asks_for_options_that_serve_has() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    shown = CliRunner().invoke(leukoscope, ["serve", "--help"]).output
    command = services["room"]["command"]
    assert command[0] == "serve"
    for word in command[1:]:
        assert not word.startswith("--") or word in shown, word
    assert all(port.startswith("127.0.0.1:") for port in services["room"]["ports"])
    assert "ports" not in services["database"], "the database is nobody else's"
