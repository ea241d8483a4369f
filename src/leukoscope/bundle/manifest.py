"""A model bundle: a folder whose bundle.json describes it in full, on the disk or in a model hub.

Every entry is validated when a bundle is opened, so that a wrong one is refused then, and by name, and not halfway
through somebody's cells. Entries that are only shown (metrics, training, credits) stay the plain dicts that they are in
the file; names that a later version adds are kept. A hub address is `hf://owner/name` or `hf://owner/name@revision`.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
    model_serializer,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from ..config import OPERATING_POINTS, Prepare, Settings
from ..errors import BundleError, DataError, LeukoscopeError, UnknownNameError, UsageError, require
from ..files import fingerprint, provenance, read_json, sha256_of

TYPES = (
    "neutrophil",
    "eosinophil",
    "basophil",
    "monocyte",
    "lymphoid",
    "immature granulocyte",
    "erythroblast",
    "platelet",
    "other",
)
"""Types of cells that a bundle with an entry `types` distinguishes, in the order of its network's outputs."""
_APPEARANCE, _GRAIN = 15, 3  # numbers that inference.rejection measures on a cell

_TABLE = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class ManifestEntry(BaseModel):
    """A part of bundle.json: values are not converted; names that a later version adds are kept."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="allow", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_serializer(mode="wrap")
    def _as_it_was(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not given, so that a bundle is written as it was read."""
        return {name: value for name, value in write(self).items() if name in self.model_fields_set}


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, Mapping) and not value else value


def _empty_if_none(value: Any, write: SerializerFunctionWrapHandler) -> Any:
    return {} if value is None else write(value)


def _ascending(values: list[float]) -> list[float]:
    if not 0 <= values[0] < values[1] < values[2]:
        raise ValueError("lowest, middle and highest do not ascend from 0")
    return values


T = TypeVar("T")
Maybe = Annotated[T | None, BeforeValidator(_none_if_empty), WrapSerializer(_empty_if_none)]
"""An entry that may be missing: {} in the file, None here."""
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]
Three = Annotated[list[Number], Field(min_length=3, max_length=3)]
Range = Annotated[Three, AfterValidator(_ascending)]
"""[lowest, middle, highest]"""


class Gaussian(ManifestEntry):
    """Mean and covariance of some measurements of a cell, and the largest allowed Mahalanobis distance."""

    mean: list[Number]
    """(n,)"""
    inverse: list[list[Number]]
    """(n, n): inverse of the covariance."""
    limit: Positive
    """Largest Mahalanobis distance that is accepted."""

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        if {len(row) for row in self.inverse} != {len(self.mean)} or len(self.inverse) != len(self.mean):
            raise ValueError(f"inverse is not square, with {len(self.mean)} rows as mean has numbers")
        return self


def _of(count: int) -> AfterValidator:
    def check(value: Gaussian | None) -> Gaussian | None:
        if value is not None and len(value.mean) != count:
            raise ValueError(f"mean has {len(value.mean)} numbers, not {count}")
        return value

    return AfterValidator(check)


class QualityLimits(ManifestEntry):
    """What images of training cells are like; learned and applied by inference.rejection."""

    cells: Count = 0
    """Training cells from which this was learned."""
    side: Range
    """Longer side of a cell, in source pixels."""
    detail: Range
    """Fine detail: grey levels of green, at half resolution."""
    contrast: Range
    """Standard deviation of green inside the cell, in grey levels."""
    appearance: Annotated[Maybe[Gaussian], _of(_APPEARANCE)] = None
    """Optical densities and their correlations."""
    grain: Annotated[Maybe[Gaussian], _of(_GRAIN)] = None
    """Logarithms of side, detail and contrast."""

    def range_of(self, name: str) -> tuple[float, float, float]:
        """Return lowest, middle and highest of side, detail or contrast."""
        low, middle, high = getattr(self, name)
        return low, middle, high


class DistanceLimit(ManifestEntry):
    """How far from the training cells an embedding may lie; its space is in the file that is named."""

    format: int = 1
    file: str = "out_of_distribution.safetensors"
    threshold: Positive
    """Mahalanobis distance above which a cell is refused."""
    rate: Share = 0
    """Share of the cells of new subjects that may lie beyond it."""
    cells: Count = 0
    subjects: Count = 0
    refused_across_subjects: Share = 0
    """Share of the cells beyond it, out of fold by subject."""


class Reached(ManifestEntry):
    """Results of a conformal rule on held-out cells of one class; means over subjects."""

    called_another: Share
    """Share of the cells that was called another class."""
    decided: Share
    """Share of the cells that was not left unsure."""
    subjects: Count
    cells: Count = 0


class LeftOutPart(ManifestEntry):
    """Results of a conformal rule on one part of the data when it is fitted to all others."""

    part: str
    asked: Share
    """Largest share of a class that should be called another: alpha."""
    classes: dict[str, Reached] = Field(min_length=1)


class ConformalRule(ManifestEntry):
    """When a cell is unsure; learned and applied by inference.rejection."""

    format: int = 1
    alpha: float = Field(gt=0, lt=0.5)
    """Largest share of a class that should be called another."""
    unit: Literal["subject", "cell"] = "subject"
    """Whom the guarantee is for: new subjects, or new cells of the same subjects."""
    smallest_plausible: list[Share | None]
    """(classes,): probability of a class below which it is ruled out; None: it is never ruled out."""
    cells: list[Count] = []
    """(classes,): cells from which this was learned."""
    subjects: list[Count] = []
    """(classes,)"""
    guarantee: str = ""
    """The guarantee in words."""
    left_out: list[LeftOutPart] = []


class TypeNetwork(ManifestEntry):
    """The network that classifies types of cells; written and used by inference.cell_types."""

    format: Literal[1]
    graph: str
    """File of the ONNX graph, inside the bundle."""
    classes: list[str]
    """TYPES."""
    temperature: Temperature
    """What its logits are divided by."""
    least: Share
    """Probability of the likeliest type below which the type is unsure."""
    lymphoid: Share
    """Probability of lymphoid from which a cell is asked about blasts."""
    confusion: list[list[Count]]
    """(true type, called type or unsure): counts of cells of laboratories that were left out of training."""
    figures: dict[str, list[list[Count]]] = {}
    """Laboratory -> the same of its cells only."""

    @model_validator(mode="after")
    def _is_of_types(self) -> Self:
        if tuple(self.classes) != TYPES:
            raise ValueError("classes names other cell types than this leukoscope knows")
        if [len(row) for row in self.confusion] != [len(TYPES) + 1] * len(TYPES):
            raise ValueError(f"confusion is not a table of {len(TYPES)} rows and {len(TYPES) + 1} columns")
        return self


class StainColours(ManifestEntry):
    """Colours of the training cells, to which those of fields are brought: fields.stain.StainStatistics."""

    lab_mean: Three
    """Mean in CIE L*a*b*."""
    lab_spread: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    """Standard deviation in CIE L*a*b*."""
    colours: Annotated[list[Three], Field(min_length=2, max_length=2)]
    """Unit vectors of optical density, of nucleus and cytoplasm stain."""
    amounts: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    """99th percentile of the amount of each stain."""
    pixels: Count
    """Pixels that were measured."""


@with_config(_TABLE)
class MetricValue(TypedDict):
    """A measured number with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def _with_model(estimators: dict[str, dict[str, MetricValue]]) -> dict[str, dict[str, MetricValue]]:
    if estimators and "model" not in estimators:
        raise ValueError("there are no figures of 'model'")
    return estimators


Estimators = Annotated[dict[str, dict[str, MetricValue]], AfterValidator(_with_model)]
"""What is measured, 'model' and baselines -> name of a metric -> its figure."""


@with_config(_TABLE)
class RecordedVerdict(TypedDict):
    """The result in one paragraph."""

    text: str
    beats_baseline: NotRequired[bool]
    one_class: NotRequired[bool]


@with_config(_TABLE)
class TestedOn(TypedDict):
    """The cells that a model was tested on."""

    cells: Count
    subjects: NotRequired[Count]
    groups: Count
    """Subject groups."""
    synthetic: NotRequired[bool]
    per_class: NotRequired[dict[str, Count]]


@with_config(_TABLE)
class RecordedSplit(TypedDict):
    """How cells were divided into training and test."""

    scheme: str
    folds: Count
    leaky: bool
    hash: NotRequired[str]


@with_config(_TABLE)
class Weighted(TypedDict, total=False):
    """Metrics in which every subject group has equal weight."""

    estimators: Estimators


@with_config(_TABLE)
class OtherTest(TypedDict):
    """What the same settings reach with another split."""

    test: str
    data: TestedOn
    estimators: Estimators
    subject_weighted: NotRequired[Weighted]


@with_config(_TABLE)
class WorstSubject(TypedDict):
    """A subject group with many errors."""

    group: str
    label: str
    cells: Count
    accuracy: Share
    smaller: NotRequired[Share]
    """Share of the cells of others of its class that are smaller than its median cell."""


@with_config(_TABLE)
class RecordedMetrics(TypedDict, total=False):
    """From metrics.json of the run."""

    verdict: RecordedVerdict
    data: TestedOn
    split: RecordedSplit
    estimators: Estimators
    """Every cell weighs the same."""
    subject_weighted: Weighted
    worst_subjects: list[WorstSubject]
    other_tests: list[OtherTest]
    notes: list[str]
    before: dict[str, MetricValue]
    """Of an adapted bundle: what the old one reaches on the same cells."""
    differences: dict[str, MetricValue]
    """Of an adapted bundle: new minus old."""


@with_config(_TABLE)
class Made(TypedDict):
    """Versions, seed and time: files.provenance without the command."""

    version: str
    packages: dict[str, str]
    seed: int | None
    started: str
    commit: NotRequired[str | None]


@with_config(_TABLE)
class TrainedWith(TypedDict, total=False):
    """Settings of the experiment, by section."""

    model: dict[str, Any]
    train: dict[str, Any]


@with_config(_TABLE)
class Training(TypedDict, total=False):
    """What a model learned from, and how."""

    cells: str | int
    """Fingerprint of the cells; of an adapted bundle their number."""
    split: str
    """Hash of the split."""
    scheme: str
    settings: TrainedWith
    made: Made
    adapted_from: str
    """Seal of the bundle whose head was replaced."""
    before: "Training"
    """Of that bundle."""


@with_config(_TABLE)
class Credit(TypedDict):
    """A data set and its licence."""

    data: str
    credit: str
    licence: str


UNSURE, REFUSED = "unsure", "refused"  # decisions that are not classes
NOT_ASKED = "not asked"
"""Decision on a cell of a type to which the classes do not apply, such as a neutrophil."""
TITLES = {"all": "blast", "hem": "normal"}
"""What people call the classes of C-NMC 2019, whose "all" would be read as "everything"."""
FORMAT = 2
ALL_FOLDS = -1
MANIFEST, CARD = "bundle.json", "card.md"
DEFAULT = "default"  # the name of the bundle that is shipped, in every command
SHIPPED = Path(__file__).parent.parent / "bundles" / "default"

_AGAIN = "Copy the whole bundle again, or make it again with leukoscope export."


class Member(Settings):
    """One network of a bundle."""

    graph: str
    """File of the ONNX graph, inside the bundle."""
    weights: str = ""
    """File of the same weights for PyTorch; empty where the bundle leaves them out."""
    network: str
    """Name of the network, as `leukoscope models list` shows it."""
    prepare: Prepare
    fold: int = 0
    """Fold whose validation and test subjects this member has not learned from; ALL_FOLDS where its head is the mean of
    the heads of all folds on one frozen backbone."""
    temperature: Temperature = 1.0
    """What its logits are divided by."""


class SubjectFigures(Settings):
    """How a model did on the cells of one subject group that it had not learned from."""

    group: str
    label: str
    """Class that all these cells have; groups with several classes are left out."""
    cells: int = Field(gt=0, le=10**12)
    called: dict[str, int]
    """Operating point -> how many of them were called the disease."""


class Manifest(Settings):
    """The content of bundle.json."""

    format: Literal[2] = 2
    name: str
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str = ""
    """The class that counts as disease; empty with more than two classes."""
    members: tuple[Member, ...] = Field(min_length=1)
    """Their calibrated probabilities and maps are averaged; the embedding is that of the first."""
    operating_points: dict[str, Share] = Field(default_factory=dict)
    """Operating point -> smallest probability of the disease that is called disease; empty: the likeliest class."""
    views: Literal["one", "flips", "turns"] = "one"
    """Test-time augmentation: the crop alone, its 4 mirrorings, or these and their quarter turns (8)."""
    activation_map: bool = True
    """Whether the networks' class-activation maps can locate evidence in a cell. Those of a head on all
    stages do not: effects of single places cancel. Occlusion is drawn in their place."""
    subjects: tuple[SubjectFigures, ...] = ()
    metrics: RecordedMetrics = Field(default_factory=RecordedMetrics)
    """Verdict, data, split, figures with intervals, worst subjects."""
    training: Training = Field(default_factory=Training)
    """Fingerprint of the cells, hash and scheme of the split, settings, versions."""
    credits: tuple[Credit, ...] = ()
    """Data sets and their licences."""
    quality: Maybe[QualityLimits] = None
    """What images of training cells are like."""
    out_of_distribution: Maybe[DistanceLimit] = None
    """How far from the training cells is too far."""
    conformal: Maybe[ConformalRule] = None
    """When a cell is unsure."""
    pictures: Literal["cells", "fields"] = "cells"
    """What its training images show, and what it expects: single cells cut out on black, or whole fields."""
    types: Maybe[TypeNetwork] = None
    """The network that classifies types of cells."""
    stain: Maybe[StainColours] = None
    """Colours of the training cells."""
    files: dict[str, str] = Field(default_factory=dict)
    """Every other file of the bundle -> SHA-256."""
    seal: str = ""
    """Fingerprint of all the rest of bundle.json."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on the disk whose every file is as it was when it was made."""

    path: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return the bytes of one of its files, verified again.

        Raises:
            BundleError: the bundle has no such file, or it has changed since the bundle was opened.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} has no file '{name}'. {_AGAIN}")
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError:
            raise BundleError(f"{self.path / name} is missing. {_AGAIN}") from None
        if sha256(content).hexdigest() != self.manifest.files[name]:
            raise _changed(self.path / name)
        return content


def open_bundle(path: Path | str | None = None) -> Bundle:
    """Open a bundle and verify every file of it; without a path, the one that is shipped with leukoscope.

    path: a folder, 'default' for the one that is shipped (./default is a folder of that name), or the address of a
    bundle in a model hub, 'hf://owner/name' or 'hf://owner/name@revision'.

    Raises:
        BundleError: it is missing, incomplete, changed, or made by a newer version.
        MissingExtraError: an address is given, and huggingface_hub is not installed.
    """
    folder = _place_of(path)
    manifest = _read_manifest(folder)
    for name, digest in manifest.files.items():
        if not os.path.isfile(folder / name):  # noqa: PTH113  # Path.is_file fails for a name that is too long
            raise BundleError(f"{folder / name} is missing. {_AGAIN}")
        if sha256_of(folder / name) != digest:
            raise _changed(folder / name)
    return Bundle(folder, manifest)


def write_bundle(folder: Path, manifest: Manifest, *, files: Mapping[str, bytes]) -> Bundle:
    """Write a new bundle, whole or not at all; `files` must hold every file but bundle.json.

    Raises:
        UsageError: `folder` exists already.
    """
    with bundle_beside(folder) as beside:
        beside.mkdir()
        beside.chmod(0o755)
        _fill(beside, manifest, files)
    return open_bundle(folder)


@contextmanager
def bundle_beside(folder: Path) -> Iterator[Path]:
    """Yield where to write and amend a bundle that appears as `folder` only when it is whole, or not at all.

    Raises:
        UsageError: `folder` exists already.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as hidden:
        beside = Path(hidden) / folder.name
        yield beside
        check_free(folder)
        beside.replace(folder)


def check_free(folder: Path) -> None:
    """Refuse to write a bundle over anything but an empty folder.

    Raises:
        UsageError: `folder` exists already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already. Choose another folder, or delete it first.")


def amend_bundle(bundle: Bundle, *, files: Mapping[str, bytes] | None = None, **changes: Any) -> Bundle:
    """Write a bundle again in its place with some entries of bundle.json changed and some files added.

    For example `amend_bundle(bundle, out_of_distribution={...}, files={"out_of_distribution.safetensors": content})`.
    """
    kept = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = Manifest.model_validate(bundle.manifest.model_dump() | changes)
    with tempfile.TemporaryDirectory(dir=bundle.path.parent, prefix=f".{bundle.path.name}.") as hidden:
        new, old = Path(hidden) / "new", Path(hidden) / "old"
        write_bundle(new, manifest, files=kept | dict(files or {}))
        bundle.path.rename(old)
        new.rename(bundle.path)
    return open_bundle(bundle.path)


def made(*, seed: int) -> dict[str, Any]:
    """Describe how a bundle came to be. Without the command: a bundle travels, and names of folders stay at home."""
    return {name: value for name, value in provenance(seed=seed).items() if name != "command"}


def operating_point(manifest: Manifest, name: str) -> str:
    """Return the name of an operating point as the bundle spells it; 'high-sensitivity' is understood.

    Raises:
        UnknownNameError: there is no such operating point.
    """
    spelled = name.replace("-", "_")
    if spelled not in OPERATING_POINTS:
        raise UnknownNameError("operating point", name, [point.replace("_", "-") for point in OPERATING_POINTS])
    if spelled != "balanced" and not manifest.operating_points:
        raise UsageError(f"{manifest.name} has more than two classes, so it has no operating points. Leave it out.")
    return spelled


def _place_of(path: Path | str | None) -> Path:
    if path is None or str(path) == DEFAULT:
        return _shipped()
    return fetch_bundle(str(path)) if is_hub_address(str(path)) else Path(path)


def _shipped() -> Path:
    if not (SHIPPED / MANIFEST).exists():
        raise BundleError(
            "No model is shipped with this installation. Name one (--model BUNDLE, or leukoscope.load(BUNDLE)); "
            "leukoscope export makes one from a run."
        )
    return SHIPPED


def _fill(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    digests = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    table = manifest.model_dump(mode="json", exclude={"seal"}) | {"files": digests}
    table = json.loads(json.dumps(table, allow_nan=False))
    text = json.dumps(table | {"seal": fingerprint(table)}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> Manifest:
    if not folder.exists():
        raise BundleError(f"{folder} does not exist. Give the folder of a model bundle.")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is not a model bundle: it has no {MANIFEST}. {_AGAIN}")
    table = _read_table(folder / MANIFEST)
    if table["format"] < FORMAT:
        raise BundleError(
            f"{folder} was made by leukoscope 0.1 (bundle format {table['format']}), and this version reads format "
            f"{FORMAT} only. Make it again from its run with leukoscope export, or install leukoscope 0.1."
        )
    if table["format"] > FORMAT:
        raise BundleError(
            f"{folder} was made by a newer leukoscope (bundle format {table['format']}, this one reads {FORMAT}). "
            "Update leukoscope."
        )
    if table.get("seal") != fingerprint({name: value for name, value in table.items() if name != "seal"}):
        raise _changed(folder / MANIFEST)
    try:
        manifest = Manifest.model_validate(table)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where, reason = ".".join(str(step) for step in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise BundleError(f"{folder / MANIFEST} cannot be used: {where}: {reason}. {_AGAIN}") from None
    for contradiction in _contradictions(manifest):
        raise BundleError(f"{folder / MANIFEST} {contradiction}. {_AGAIN}")
    return manifest


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = read_json(path)
        fingerprint(table)
        json.dumps(table, allow_nan=False)
    except (DataError, RecursionError, UnicodeEncodeError):  # nested too deeply; half a character
        raise _changed(path) from None
    except ValueError:
        raise BundleError(f"{path} holds NaN or Infinity, which JSON does not allow. {_AGAIN}") from None
    if not isinstance(table, dict) or not isinstance(table.get("format"), int):
        raise BundleError(f"{path} does not describe a model bundle: it has no number 'format'. {_AGAIN}")
    return table


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with entries that are right each by itself."""
    classes, binary = manifest.classes, len(manifest.classes) == 2
    disease = classes[1] if binary else ""
    if len({*classes, "", UNSURE, REFUSED, NOT_ASKED}) < len(classes) + 4 or manifest.positive != disease:
        yield f"has no usable class list: classes {', '.join(classes)}, positive '{manifest.positive}'"
    named = {member.graph for member in manifest.members} | {each.weights for each in manifest.members if each.weights}
    strays = [name for name in manifest.files if _leads_elsewhere(name)]
    for wrong in strays:
        yield f"names in files '{wrong}', which is not part of the bundle"
    for wrong in sorted(named - manifest.files.keys()):
        yield f"names in members the file '{wrong}', which is not part of the bundle"
    if manifest.types and manifest.types.graph not in manifest.files:
        yield f"names in types the file '{manifest.types.graph}', which is not part of the bundle"
    if set(manifest.operating_points) != (set(OPERATING_POINTS) if binary else set()):
        yield f"lacks operating_points: {', '.join(OPERATING_POINTS)} with two classes, none with more"
    plausible = manifest.conformal.smallest_plausible if manifest.conformal else classes
    if len(plausible) != len(classes):
        yield f"has {len(plausible)} numbers in conformal.smallest_plausible, but {len(classes)} classes"
    for number, each in enumerate(manifest.subjects):
        if each.label not in classes:
            yield f"has in subjects.{number}.label '{each.label}', which is none of the classes {', '.join(classes)}"
        if set(each.called) != set(manifest.operating_points) or not _within(each.called.values(), each.cells):
            yield f"has in subjects.{number}.called not one count of 0 to {each.cells} cells per operating point"


def _leads_elsewhere(name: str) -> bool:
    """Tell whether a name may lead out of the bundle, also where backslashes and drives do."""
    steps = PurePosixPath(name).parts
    return not steps or PurePosixPath(name).is_absolute() or ".." in steps or any(sign in name for sign in "\\:\0")


def _within(counts: Iterable[int], cells: int) -> bool:
    return all(0 <= count <= cells for count in counts)


def _changed(path: Path) -> LeukoscopeError:
    return BundleError(f"{path} was changed or damaged since the bundle was made (SHA-256 differs). {_AGAIN}")


def title_of(decision: str) -> str:
    """Return what people call a class; 'unsure', 'refused' and classes of other data are called as they are.

    >>> title_of("all"), title_of("Pre")
    ('blast', 'Pre')
    """
    return TITLES.get(decision, decision)


PREFIX = "hf://"


def is_hub_address(name: str) -> bool:
    """Tell whether a name is an address in a model hub.

    >>> is_hub_address("hf://laboratory/lymphoblasts"), is_hub_address("models/first")
    (True, False)
    """
    return name.startswith(PREFIX)


def fetch_bundle(address: str) -> Path:
    """Return the folder of a bundle's files in the local cache, fetching those that are not there yet.

    All files are of one commit: the newest, or that of the revision (a branch, a tag or a commit). HF_ENDPOINT,
    HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        UsageError: this is not an address of that form.
        BundleError: the hub has no such bundle, or does not answer.
    """
    hub: Any = require("huggingface_hub", feature="A bundle of a model hub", extra="hub")
    repository, _, revision = address.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"{address} is not an address. Write hf://owner/name, or hf://owner/name@revision.")
    first = _fetch(hub, repository, MANIFEST, revision=revision or None, address=address)
    for name in _files_in(first, address):
        _fetch(hub, repository, name, revision=first.parent.name, address=address)
    return first.parent


def _fetch(hub: Any, repository: str, name: str, *, revision: str | None, address: str) -> Path:
    """Return a file in the cache; its folder is named by the commit."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError:
        raise BundleError(
            f"{address} cannot be reached, and {name} is not in the cache. Check the network, or give a folder."
        ) from None
    except GatedRepoError:
        raise BundleError(f"{address} asks for consent. Give it on the hub's page, and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise BundleError(f"{address} does not exist, or is private. Check the name, or set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise BundleError(f"{address} has no such revision. Leave out what follows the @.") from None
    except EntryNotFoundError:
        raise BundleError(f"{address} is not a model bundle: it has no {name}.") from None
    except HFValidationError as wrong:
        raise UsageError(f"{address} is not an address ({_first_line(wrong)}). Write hf://owner/name.") from None
    except (HfHubHTTPError, OSError) as failed:
        raise BundleError(f"{address} cannot be fetched ({_first_line(failed)}). Try again later.") from None


def _files_in(manifest: Path, address: str) -> list[str]:
    """Return the names of the other files; opening the bundle reports what is wrong with bundle.json."""
    try:
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        named = [str(name) for name in names]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{address} has a {MANIFEST} that lists no files. Ask whoever made it.") from None
    for name in named:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise BundleError(f"{address} lists the file '{name}', which is outside the bundle. It is not loaded.")
    return named


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
