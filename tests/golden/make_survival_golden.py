"""Ask R about the tables of survival_tables.py and keep what it says in survival_golden.json.

python -m tests.golden.make_survival_golden [OUT.json]      (about two minutes; R with the packages named in the .R)
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from tests.conftest import SHARED

from . import survival_tables

HERE = Path(__file__).parent
GOLDEN = HERE / "survival_golden.json"


def tables() -> dict[str, survival_tables.Columns]:
    """Return every named table, with a column `risk` where there is an `x`; shared data may be absent."""
    found = survival_tables.of_lifelines() | survival_tables.of_chance()
    if (SHARED / "data").is_dir():
        found |= survival_tables.of_shared(SHARED / "data")
    return {name: with_risk(columns) for name, columns in found.items()}


def with_risk(columns: survival_tables.Columns) -> survival_tables.Columns:
    """Add a risk between 0 and 1 that is right on the whole and too sure of itself."""
    if "x" not in columns:
        return columns
    x = columns["x"]
    score = -0.4 + 0.9 * (x - x.mean()) / x.std() + 0.3 * columns["z"]
    return columns | {"risk": (1 / (1 + np.exp(-score))).round(8)}


def ask_r(folder: Path, out: Path, *, named: dict[str, survival_tables.Columns], random: int = 0) -> None:
    """Write tables (and some of the random ones) into a folder and have R answer into `out`."""
    for name, columns in named.items():
        pd.DataFrame(columns).to_csv(folder / f"table-{name}.csv", index=False)
    for number, columns in zip(range(random), survival_tables.for_logrank(), strict=False):
        pd.DataFrame(columns).to_csv(folder / f"random-{number:03}.csv", index=False)
    command = ["Rscript", str(HERE / "survival_golden.R"), str(folder), str(out)]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Write the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        ask_r(Path(folder), Path(folder) / "out.json", named=tables(), random=survival_tables.RANDOM)
        golden = json.loads((Path(folder) / "out.json").read_text())
    GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
