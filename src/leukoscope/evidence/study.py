"""What every study stands on: what it was given, how large it is, and a bench that keeps each arm once it is done."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ..artifacts import read_json, write_json
from ..config import Settings
from ..errors import CallError, DataError
from .page import Page

Say = Callable[[str], None]


class Scale(Settings):
    """How large a study is; every field can be made smaller on the command line."""

    seeds: int = Field(ge=1, le=100)
    """How often each arm is run anew: other images or subjects, other weights, another order."""
    images: int = Field(0, ge=0)
    """Labelled images that are looked at; 0 takes all."""
    size: int = Field(ge=16, le=1024)
    """Side of the crops, px."""
    epochs: int = Field(1, ge=1)
    """Where a network is trained."""


@dataclass(frozen=True)
class Study:
    """One claim and the experiment that tests it."""

    name: str
    title: str
    claim: str
    scale: Scale
    run: Callable[["Bench"], Page]


@dataclass(frozen=True)
class Given:
    """Where the images of a study come from."""

    data: Path | None = None
    """C-NMC, or any folder of cells that `leukoscope run` takes."""
    fields: Path | None = None
    """A folder of smear fields by class, for studies that cross over to them."""
    painted: int = 0
    offline: bool = False
    """Never ask a model hub: networks whose weights are not at hand start from random ones."""

    def words(self) -> str:
        """Return the options of the command that gave this."""
        options = [f"--data {self.data}"] * bool(self.data) + [f"--painted {self.painted}"] * bool(self.painted)
        options += [f"--fields {self.fields}"] * bool(self.fields) + ["--offline"] * self.offline
        return " ".join(options)


@dataclass(frozen=True)
class Bench:
    """Where a study is run: its images, its scale, and the folder that keeps what is done."""

    study: Study
    given: Given
    scale: Scale
    work: Path
    say: Say

    @property
    def seeds(self) -> range:
        """Return the seeds of the study."""
        return range(self.scale.seeds)

    @property
    def smaller(self) -> dict[str, tuple[int, int]]:
        """Return what differs from the full study: name -> (here, in full)."""
        here, full = self.scale.model_dump(), self.study.scale.model_dump()
        return {name: (here[name], full[name]) for name in here if here[name] != full[name]}

    def kept(self, arm: str, settings: dict[str, Any], work: Callable[[], Any]) -> Any:
        """Return the JSON value that `work` gives, from the disk where the same arm was finished before.

        settings: everything that decides the value beside the scale; an arm with other settings is run anew. How many
        seeds there are decides nothing: more can be added later.
        """
        path = self.work / self.study.name / f"{arm}.json"
        settings = settings | {"scale": self.scale.model_dump(exclude={"seeds"}), "given": self.given.words()}
        if (found := _finished(path, settings)) is not None:
            return found
        began = time.perf_counter()
        result = work()
        seconds = round(time.perf_counter() - began, 1)
        write_json(path, {"settings": settings, "seconds": seconds, "result": result})
        self.say(f"{self.study.name}: {arm}, {seconds:.0f} s")
        return result

    def need_data(self) -> Path:
        """Return the folder of cells.

        Raises:
            CallError: none was given.
        """
        if self.given.data is None:
            raise CallError(f"{self.study.name} needs images: give --data FOLDER, or --painted 600 for painted cells.")
        return self.given.data


def _finished(path: Path, settings: dict[str, Any]) -> Any:
    """Return the result of an arm that was finished with these settings, else None."""
    try:
        kept = read_json(path)
    except DataError:  # not there, or not whole: run it
        return None
    same = isinstance(kept, dict) and kept.get("settings") == settings
    return kept["result"] if same else None
