"""A prepared run folder as training sees it: cells, labels, sets and crops, checked against each other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..artifacts import read_csv, read_json
from ..config import Experiment, Prepare
from ..data.cells import Cell, cells_fingerprint, read_cells
from ..data.split import SplitPlan, read_split
from ..errors import DataError
from .batches import Crops, Rows

# Settings that may differ between a run and its resumption: they change where it is computed, not what.
_PLACE = {"accelerator", "devices", "tensorboard"}


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs from RUN."""

    run: Path
    experiment: Experiment
    cells: list[Cell]
    plan: SplitPlan
    crops: Crops
    labels: NDArray[np.int64]
    """(cells,) index into plan.classes; -1 where the label is not known."""

    @property
    def classes(self) -> int:
        return len(self.plan.classes)

    def at(self, **place: Any) -> Self:
        """Return the same with other settings of where it is computed, such as devices=2; None leaves one as it is."""
        changed = {name: value for name, value in place.items() if value is not None}
        train = self.experiment.train.model_copy(update=changed)
        return replace(self, experiment=self.experiment.model_copy(update={"train": train}))

    def rows(self, name: str, *, fold: int) -> Rows:
        """Return the rows of one set, 'train', 'validation' or 'test', of a fold."""
        return np.flatnonzero(self.plan.sets(self.cells, fold=fold) == name)

    def area(self) -> NDArray[np.float64]:
        """Return the area of every cell in px, from traits.csv.

        Raises:
            DataError: the table is missing, is not that of these cells, or holds something that is not a number.
        """
        path = self.run / "traits.csv"
        if not path.exists():
            raise DataError(
                f"{path} does not exist; train.balance = 'size-sampler' needs it. Run leukoscope data audit."
            )
        rows = read_csv(path, required=("area_px",))
        if len(rows) != len(self.cells):
            raise DataError(
                f"{path} has {len(rows)} rows for {len(self.cells)} cells. Run leukoscope data audit again."
            )
        try:
            return np.array([float(row["area_px"]) for row in rows])
        except ValueError as strange:
            raise DataError(f"{path}: area_px must be a number ({strange}). Run leukoscope data audit again.") from None

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights, by dotted name: a run is resumed only where this is the same."""
        settings = self.experiment.model_dump(mode="json", exclude={"evaluate": True, "train": _PLACE})
        flat = {
            f"{section}.{name}": value
            for section, table in settings.items()
            if isinstance(table, dict)
            for name, value in table.items()
        }
        return flat | {"seed": self.experiment.seed, "split.json": self.plan.hash, "cells.csv": self.plan.cells}


def read_prepared(run: Path) -> Prepared:
    """Read a prepared run folder.

    Raises:
        DataError, SplitError: a file is missing or does not fit the others; says which command to run again.
    """
    experiment = Experiment.read(run / "config.toml")
    cells = read_cells(run / "cells.csv")
    plan = read_split(run / "split.json", cells)
    crops = Crops(run / "pack")
    _check_pack(run / "pack", cells, experiment.prepare, shape=(crops.count, *crops.shape))
    number = {name: index for index, name in enumerate(plan.classes)}
    labels = np.array([number.get(cell.label, -1) for cell in cells], dtype=np.int64)
    return Prepared(run, experiment, cells, plan, crops, labels)


def _check_pack(pack: Path, cells: list[Cell], prepare: Prepare, *, shape: tuple[int, ...]) -> None:
    facts = read_json(pack / "pack.json")
    expected = {"cells": cells_fingerprint(cells), "prepare": prepare.model_dump(mode="json")}
    other = [name for name, value in expected.items() if not isinstance(facts, dict) or facts.get(name) != value]
    if other or shape != (len(cells), prepare.size, prepare.size, 3):
        what = {
            "cells": "of other cells than those of cells.csv",
            "prepare": "prepared otherwise than config.toml says",
        }
        reason = what[other[0]] if other else f"of the shape {shape}"
        raise DataError(f"{pack} holds crops {reason}. Run leukoscope data pack again.")
