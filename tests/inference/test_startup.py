"""What a first answer imports: a table of counts, since seconds depend on who else is at work."""

import subprocess
import sys
from pathlib import Path

import pytest

from leukoscope.bundle.manifest import Bundle

COUNT = """
import sys
before = set(sys.modules)
from leukoscope.cli import leukoscope as program
program(sys.argv[1:], standalone_mode=False)
new = set(sys.modules) - before
print(len(new), sum(name.startswith("leukoscope") for name in new), *sorted({name.partition(".")[0] for name in new}))
"""
# command -> modules of all kinds, of our own; measured 80 and 3, about 530 and 35, with room for other Pythons
MOST = {"--help": (110, 6), "predict": (620, 45)}
NEVER = {"torch", "sklearn", "scipy", "matplotlib", "pandas", "pyarrow", "fsspec", "ray", "jinja2", "lifelines"}


@pytest.mark.parametrize("command", MOST)
def test_a_first_answer_imports_no_more_than_its_table_says(command: str, synthetic_run: Path, single: Bundle) -> None:
    image = next((synthetic_run / "synthetic").rglob("*.png"))
    call = ["--help"] if command == "--help" else ["predict", str(image), "--model", str(single.path)]
    told = subprocess.run([sys.executable, "-c", COUNT, *call], capture_output=True, text=True, check=True).stdout
    everything, ours, *packages = told.splitlines()[-1].split()
    assert (int(everything), int(ours)) <= MOST[command]
    assert int(ours) <= MOST[command][1]
    assert not NEVER & set(packages)
