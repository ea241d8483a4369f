"""The wheel in an environment of its own: no extra, no PyTorch, no source folder; the shipped model answers."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from leukoscope import load

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "timm", "lightning_fabric", "onnx", "lifelines", "skimage", "cv2", "fastapi", "ray")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a fresh environment that holds the wheel and what the core needs, pinned."""
    folder = tmp_path_factory.mktemp("core")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    wheel = next(folder.glob("leukoscope-*.whl"))
    assert wheel.stat().st_size < 21e6  # the model's 20 MB and the program
    run(folder / "venv/bin/pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return folder / "venv/bin"


def test_the_core_answers_without_pytorch(core: Path, shared_data: Path, tmp_path: Path) -> None:
    look = f"import importlib.util as u; print([m for m in {HEAVY!r} if u.find_spec(m)])"
    assert run(core / "python", "-c", look, cwd=tmp_path).strip() == "[]"
    cells = sorted((shared_data / "cnmc").rglob("*.webp"))[::200]
    run(core / "leukoscope", "predict", *cells, "-o", "out.csv", "--html", "opinion.html", cwd=tmp_path)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    here = load().predict(cells)
    assert [row["path"] for row in rows] == [str(cell) for cell in cells]
    assert [row["decision"] for row in rows] == [opinion.decision for opinion in here]
    for row, opinion in zip(rows, here, strict=True):
        for name, value in (opinion.probabilities or {}).items():
            assert float(row[f"prob_{name}"]) == pytest.approx(value, abs=1e-4)
    assert "Research use, not a diagnosis" in (tmp_path / "opinion.html").read_text()


def test_the_core_fits_and_predicts_survival(core: Path, shared_data: Path, tmp_path: Path) -> None:
    table = shared_data / "survival" / "wbc1.csv"
    columns = ("--time", "tyears", "--event", "d", "--stage", "sokal", "--stage-cuts", "0.8,1.2", "--unit", "years")
    quick = ("--repeats", "1", "--bootstrap", "2")
    run(core / "leukoscope", "survival", "fit", table, *columns, *quick, "-o", "out", cwd=tmp_path)
    assert "not for decisions" in run(core / "leukoscope", "survival", "predict", "out", "--sokal", "1.0", cwd=tmp_path)
    assert "lifelines" not in (tmp_path / "out" / "survival.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("run --synthetic 60 -o run", "train"),
        ("models list", "train"),
        ("reproduce leak", "train"),
        ("serve", "serve"),
        ("accounts list", "serve"),
        ("audit-log verify", "serve"),
        ("adapt default .", "adapt"),
        ("cells field.png -o found", "fields"),
        ("predict deep.tif", "fields"),
        ("survival demo -o out", "survival"),
    ],
)
def test_the_core_names_the_extra_that_a_command_needs(core: Path, tmp_path: Path, words: str, extra: str) -> None:
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.float32), photometric="rgb")
    Image.new("RGB", (640, 480), "white").save(tmp_path / "field.png")
    asked = subprocess.run(
        [core / "leukoscope", *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert asked.returncode != 0
    assert f"leukoscope[{extra}]" in asked.stderr
    assert "Traceback" not in asked.stderr
