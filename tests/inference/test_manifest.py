"""Whatever somebody writes into bundle.json and seals: it is used as it stands, or refused with the entry named."""

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from leukoscope.bundle.manifest import CARD, SHIPPED, Manifest, Member, open_bundle, write_bundle
from leukoscope.errors import BundleError
from leukoscope.files import fingerprint, read_json
from leukoscope.inference.cell_types import GRAPH
from leukoscope.inference.ensemble import CLASSES_KEY
from leukoscope.inference.fields import stain_of
from leukoscope.inference.opinions import Tally
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.rejection import FILE, fit_detector
from leukoscope.report.opinion import OpinionPage
from tests.inference.typed import type_graph
from tests.server.small_bundle import CHANNELS, SIZE, network

Place = tuple[str | int, ...]
GONE, NAN = object(), float("nan")
UNSEEN = ("conformal", "out_of_distribution", "quality", "stain", "training", "files")  # by the page
OTHERS: tuple[Any, ...] = (GONE, None, "x", {}, -1, [0.5], [], 1e300, NAN)
DEEP = (("metrics", "verdict"), ("metrics", "data"), ("metrics", "estimators", "model", "auroc"))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says all that the shipped one says, about a network small enough to be asked a thousand times."""
    shipped = read_json(SHIPPED / "bundle.json")
    graph = onnx.load_from_string(network())
    onnx.helper.set_model_props(graph, {CLASSES_KEY: "\n".join(shipped["classes"])})
    rng = np.random.default_rng(0)
    detector = fit_detector(rng.normal(size=(40, CHANNELS)), np.arange(40) % 5)
    member = Member(graph="model.onnx", network="by hand", prepare={"view": "frame", "size": SIZE}, temperature=0.9)
    few = [next(each for each in shipped["subjects"] if each["label"] == name) for name in shipped["classes"]] * 2
    changes = {"members": [member.model_dump()], "subjects": few, "files": {}}
    files = {"model.onnx": graph.SerializeToString(), FILE: detector.content(), CARD: b"# Small\n"}
    files[GRAPH] = type_graph({})
    folder = tmp_path_factory.mktemp("described") / "bundle"
    return write_bundle(folder, Manifest.model_validate(shipped | changes), files=files).path


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield every entry, of lists the first one; of figures and history, which nothing reads, the uppermost."""
    inside = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, each in inside:
        here = (*place, key)
        yield here
        if here[0] not in ("metrics", "training") or any(here == deep[: len(here)] for deep in DEEP):
            yield from places(each, here)


def sealed(folder: Path, table: dict[str, Any]) -> None:
    table = {name: value for name, value in table.items() if name != "seal"}
    (folder / "bundle.json").write_text(json.dumps(table | {"seal": fingerprint(table)}))


def changed(table: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    copy: Any = deepcopy(table)
    inside = copy
    for step in place[:-1]:
        inside = inside[step]
    if value is GONE:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return copy  # type: ignore[no-any-return]


def used(folder: Path, *, page_too: bool) -> None:
    """Do with a bundle all that a prediction does; making the page takes longest."""
    predictor = Predictor(open_bundle(folder))
    rng, disc = np.random.default_rng(0), np.hypot(*(np.mgrid[:300, :300] - 150)) < 109
    image = (disc[..., None] * (90 + rng.normal(0, 3, (300, 300, 3)))).clip(0, 255).astype(np.uint8)
    tally, page = Tally(predictor.manifest, point="balanced"), OpinionPage(predictor.manifest, point="balanced")
    for opinion in (predictor.opinion(image, with_crop=True), predictor.opinion(image[::-1] // 2)):
        tally.add(opinion, subject="P1")
        page.add(opinion, subject="P1")
    tally.summaries()
    if page_too:
        page.render(tally)
    stain_of(predictor.manifest)


@pytest.mark.slow
def test_every_entry_of_the_shipped_bundle_may_be_lost_or_of_another_kind(described: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(described, tmp_path / "bundle"))
    table = read_json(folder / "bundle.json")
    refusals = []
    for place in places(table):
        for value in OTHERS:
            sealed(folder, changed(table, place, value))
            try:
                used(folder, page_too=place[0] not in UNSEEN)
            except BundleError as refusal:
                refusals.append((place, value, str(refusal)))
            except Exception as stray:
                raise AssertionError(f"{place} = {value!r}: {type(stray).__name__}: {stray}") from stray
    assert len(refusals) > 300
    named = {"members": "members|prepares", "files": ""}  # what is wrong with a file is said by its name
    # JSON with NaN is refused as a whole, before its entries are looked at
    words = [(each, "NaN" if each[1] is NAN else named.get(str(each[0][0]), str(each[0][0]))) for each in refusals]
    unclear = [each for each, word in words if not re.search(word, each[2])]
    assert unclear == []


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("conformal", "smallest_plausible"), [0.5], "1 numbers in conformal.smallest_plausible, but 2 classes"),
        (("conformal", "smallest_plausible"), ["a", "b"], r"conformal.smallest_plausible.0"),
        (("quality", "side"), [3, 2, 1], "quality.side"),
        (("out_of_distribution", "threshold"), GONE, "out_of_distribution.threshold"),
        (("subjects", 0, "called", "balanced"), 10**6, "subjects.0.called"),
        (("subjects", 0, "label"), "other", "subjects.0.label"),
        (("classes", 0), "unsure", "class list"),
        (("files", "x" * 400), "0" * 64, "is missing"),
        (("name",), "\ud800", "changed or damaged"),
        (("format",), "1", "no number 'format'"),
    ],
)
def test_what_is_wrong_is_named(described: Path, tmp_path: Path, place: Place, value: Any, words: str) -> None:
    folder = Path(shutil.copytree(described, tmp_path / "bundle"))
    table = changed(read_json(folder / "bundle.json"), place, value)
    if value == "\ud800":
        (folder / "bundle.json").write_text(json.dumps(table))
    else:
        sealed(folder, table)
    with pytest.raises(BundleError, match=words):
        open_bundle(folder)
