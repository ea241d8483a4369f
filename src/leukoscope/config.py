"""Settings: one frozen pydantic model per stage and one TOML file per experiment; all defaults are defined here."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from .errors import ConfigError, UnknownNameError, UsageError, nearest
from .files import check_depth, read_text, write_text

OperatingPoint = Literal["balanced", "high_sensitivity", "high_specificity"]
OPERATING_POINTS: tuple[str, ...] = get_args(OperatingPoint)
"""The thresholds that a model of two classes has; on the command line with dashes."""


class Settings(BaseModel):
    """Base of all settings: immutable; unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Prepare(Settings):
    """How an image becomes the crop that a model sees."""

    view: Literal["frame", "window", "cell", "area"] = "window"
    """frame: the whole image, padded to a square. window: a square of `window` source pixels around the middle, which
    keeps the scale. cell: a square around the cell, which removes its size. area: likewise, but proportional to the
    cell's area and around its centroid, so that debris at the rim has no effect."""
    size: int = Field(128, ge=16, le=1024)
    """Side of the crop, in pixels."""
    window: int = Field(450, ge=16, le=8192)
    """Side of the square cut from the source, in source pixels (view = window)."""
    margin: float = Field(0.05, ge=0, le=1)
    """Black border around the cell, as a share of its longer side (view = cell) or of the diameter of a disc of its
    area (view = area)."""
    canonical: bool = False
    """Rotate and mirror the image to a canonical orientation first, so that a cell rotated by 90° or mirrored gives the
    same
    crop: see `images.crop.canonical_view`."""


class Split(Settings):
    """Which subjects are used for training, validation and testing."""

    scheme: Literal["kfold", "holdout", "parts"] = "kfold"
    """kfold: every subject is tested once. holdout: one train/validation/test split. parts: test on `test_parts`."""
    folds: int = Field(5, ge=2, le=50)
    test: float = Field(0.2, gt=0, lt=1)
    """Share of cells for testing (scheme = holdout)."""
    validation: float = Field(0.15, gt=0, lt=1)
    """Share of the remaining cells for validation."""
    train_parts: tuple[str, ...] = ()
    """Parts to train on (scheme = parts); empty means every part that is not tested on."""
    test_parts: tuple[str, ...] = ()
    """Parts to test on (scheme = parts)."""
    leaky: bool = False
    """Split by image, as in the paper. Cells of one patient are then in both training and test: for comparison only."""


class Model(Settings):
    """Which network."""

    name: str = "seed-cnn"
    """A name that `leukoscope models list` shows: seed-cnn, seed-cnn-deep or timm:<any timm backbone>."""
    weights: str = ""
    """Pretrained weights of a timm backbone: 'hub', or the path of a local file; empty starts from random weights."""
    dropout: float = Field(0.2, ge=0, lt=1)
    reduce: int = Field(1, ge=1, le=8)
    """Factor by which a timm backbone's network downsamples crops first, by averaging. Crops of 256 px reduced by 2
    cost as
    much as crops of 128 px, but keep fine chromatin texture under rotation and zoom."""
    gain: float = Field(1.0, gt=0, le=10)
    """Factor of brightness before a timm backbone's own standardisation, inside the network. Cells cut out on black
    are dark: those of C-NMC fill the lower half of the scale, so 2 gives them the contrast of photographs."""
    pool: Literal["last", "stages"] = "last"
    """What a timm backbone's network pools: its last feature map, or those of all stages concatenated, which keep
    texture,
    colour and size. For EfficientNets and MobileNets, best with train.mode = "probe"."""
    looks: Literal["crop", "crop-and-cell"] = "crop"
    """crop-and-cell: the network sees two views, the crop and the cell enlarged until it fills the crop in proportion
    to its
    area, so that features describe size and appearance separately (pool = stages)."""
    views: Literal["one", "flips", "turns"] = "one"
    """Test-time augmentation: one view, the mean over 4 mirrorings, or over these and their rotations by 90° (8). The
    run's
    metrics and its bundle use the same."""
    norm_momentum: float = Field(0.99, ge=0, lt=1)
    """Momentum of the moving statistics of seed-cnn's batch normalisation. Keras' 0.99 needs many hundred steps; before
    that
    the network may predict the same class for every cell."""


class Augment(Settings):
    """Random changes to training crops that preserve the label."""

    flip: bool = True
    rotate: bool = True
    """Rotate by a random angle."""
    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Enlarge by a factor drawn between these two (log-uniform). Wide ranges remove the size shortcut."""
    shift: float = Field(0.0, ge=0, le=0.5)
    """Move by up to this share of the crop's side, across and down."""
    stain: float = Field(0.0, ge=0, le=1)
    """Strength of changes to the stain: each optical-density channel is scaled and shifted by up to this share."""
    colour: float = Field(0.0, ge=0, le=1)
    """Strength of changes of colour, as by another lamp or camera: each channel is multiplied by exp(u), u uniform
    between
    minus and plus this value."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Strength of changes to the contrast of a cell around its own mean colour."""
    brightness: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=5)
    """Largest standard deviation of Gaussian blur, in crop pixels; half of the crops stay sharp."""
    coarse: float = Field(1.0, ge=1, le=16)
    """Half of the crops lose detail, as from a camera with up to this many times fewer pixels per side (log-uniform).
    It keeps the model from reading low resolution as a smooth cell."""

    @model_validator(mode="after")
    def _zoom_rises(self) -> Self:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom is [smallest, largest], such as [0.8, 1.25]")
        return self


class Train(Settings):
    """How the network is trained."""

    mode: Literal["full", "head-then-full", "probe"] = "full"
    """full: all weights. head-then-full: only the head for `frozen_epochs`, then all. probe: a logistic head on
    cached features of the frozen backbone."""
    epochs: int = Field(20, ge=1)
    frozen_epochs: int = Field(1, ge=0)
    frozen_stages: int = Field(0, ge=0)
    """Leading stages of a timm backbone, its stem first, whose weights are frozen: edges and colours need no
    further training, and steps are faster. 0 trains all, 2 freezes the stem and the first stage."""
    frozen_statistics: bool = False
    """Use the batch normalisation statistics loaded with the weights instead of those of each batch, which depend on
    the
    laboratory and its stain."""
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(0.01, gt=0)
    head_rate: float = Field(1.0, gt=0)
    """Factor of the learning rate for the head, which is not pretrained."""
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from zero."""
    cosine: bool = False
    """Let the learning rate fall to zero along a cosine."""
    second_moment: float = Field(0.999, gt=0, lt=1)
    """Decay of Adam's mean of squared gradients; shorter memory (0.99) suits runs of a few hundred steps."""
    clip: float = Field(0.0, ge=0)
    """Largest norm of the gradient; larger ones are clipped. 0 does not clip."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing: share of each label that is spread evenly over all classes."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights over the steps, with which the run predicts; 0 uses the
    weights of the last step."""
    balance: Literal["none", "weights", "sampler", "size-sampler"] = "weights"
    """Against class imbalance: weights in the loss, or a sampler that draws classes (and sizes) evenly."""
    subject_balance: float = Field(0.0, ge=0, le=1)
    """How far the samplers also balance subjects: the probability of a cell is divided by the number of cells of its
    subject
    group to this power. 0 ignores subjects, 1 draws every subject equally often."""
    keep: Literal["best", "last"] = "best"
    """The epoch that the run predicts with: the one with the lowest validation loss, or the last one, which is better
    where
    the learning rate decays to zero and there are few validation subjects."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a better validation loss; 0 never stops early."""
    head: Literal["logistic", "discriminant"] = "logistic"
    """In mode probe. logistic: a logistic regression whose penalty is chosen on validation subjects. discriminant: a
    linear discriminant of class means (subjects weighted equally) and the covariance within subjects."""
    shrinkage: float = Field(0.1, gt=0, le=1)
    """Of the discriminant: shrinkage of the covariance of the standardised features towards the identity matrix."""
    invariance: float = Field(0, ge=0, le=1000)
    """Of the discriminant: weight of the covariance between the eight views (rotated by 90° and mirrored) of a cell,
    added to
    that between cells. Above 0 all eight views are embedded, which takes eight times as long; the higher, the less
    predictions depend on the orientation of a cell."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: int = Field(1, ge=1)
    accelerator: str = "auto"
    tensorboard: bool = False


class Evaluate(Settings):
    """How predictions are evaluated."""

    replicates: int = Field(2000, ge=100)
    """Bootstrap replicates over subject groups, for the bands of curves; intervals of numbers need none."""
    subgroups: tuple[str, ...] = ("part",)
    """Columns of cells.csv whose values are shown as subgroups, such as part, laboratory, stain, sex, age."""
    positive: str = ""
    """The class that counts as disease; empty: 'all', 'blast', 'malignant' … if present, else the last one."""


class Experiment(Settings):
    """All settings of a run; copied into RUN/config.toml."""

    seed: int = Field(0, ge=0, lt=2**32)
    prepare: Prepare = Prepare()
    split: Split = Split()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _parts_need_names(self) -> Self:
        if self.split.scheme == "parts" and not self.split.test_parts:
            raise ValueError("split.scheme = 'parts' needs split.test_parts, such as ['prelim_test']")
        return self

    @classmethod
    def read(cls, path: Path | None = None, *, overrides: tuple[str, ...] = ()) -> Self:
        """Read an experiment from TOML, then apply overrides such as 'train.epochs=5'.

        Raises:
            ConfigError: the file is not TOML, or a key or value is not allowed; names the nearest key.
        """
        table = _parse(read_text(path), where=str(path)) if path else {}
        for override in overrides:
            _apply(table, override)
        return cls.of(table, where=str(path) if path else "--set")

    @classmethod
    def of(cls, table: dict[str, Any], *, where: str = "The call") -> Self:
        """Make an experiment of nested settings; errors name `where` as their source.

        Raises:
            ConfigError: a key or value is not allowed; names the nearest key.
        """
        try:
            return cls.model_validate(table)
        except ValidationError as invalid:
            raise ConfigError(_explain(invalid, where=where)) from None

    def write(self, path: Path) -> None:
        """Write every setting, defaults included, as TOML."""
        write_text(path, tomli_w.dumps(self.model_dump(mode="json")))


def read_experiment(config: str | os.PathLike[str] | None, overrides: tuple[str, ...] = ()) -> Experiment:
    """Read a TOML file, or a shipped experiment by its name such as 'demo', and apply overrides.

    Raises:
        ConfigError: the file is not TOML, or a key or value is not allowed.
        UnknownNameError: no shipped experiment has this name.
    """
    path = Path(config) if config else None
    if path and not path.suffix and not path.exists():
        path = shipped(str(path))
    return Experiment.read(path, overrides=overrides)


class Setting(NamedTuple):
    """One setting of an experiment."""

    name: str
    """With its section, such as 'train.epochs'."""
    value: str
    """As TOML."""
    meaning: str


def list_settings(experiment: Experiment | None = None, *, under: str = "") -> Iterator[Setting]:
    """Yield all settings of an experiment, by default with their defaults; `under`: those of one section or name.

    Raises:
        UsageError: there is no such section or setting.
    """
    found = list(_settings_of(experiment or Experiment()))
    chosen = [each for each in found if not under or each.name == under or each.name.startswith(f"{under}.")]
    if not chosen:
        sections = dict.fromkeys(each.name.partition(".")[0] for each in found)
        near = nearest(under, [*sections, *(each.name for each in found)])
        raise UsageError(f"Unknown setting '{under}'.{near} Sections: {', '.join(sections)}.")
    yield from chosen


def _settings_of(model: BaseModel, prefix: str = "") -> Iterator[Setting]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _settings_of(value, f"{prefix}{name}.")
            continue
        shown = tomli_w.dumps({"value": list(value) if isinstance(value, tuple) else value}).partition("= ")[2]
        one_of = ""
        if "Literal" in str(field.annotation):
            one_of = f"One of {', '.join(map(str, getattr(field.annotation, '__args__', ())))}."
        text = " ".join(part for part in (" ".join((field.description or "").split()), one_of) if part)
        yield Setting(f"{prefix}{name}", " ".join(shown.split()), text)


def shipped(name: str) -> Path:
    """Return the path of an experiment file that comes with the package, such as 'demo'.

    Raises:
        UnknownNameError: there is none of that name; lists the known ones.
    """
    folder = Path(__file__).parent / "experiments"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise UnknownNameError("experiment", name, known)
    return folder / f"{name}.toml"


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
        check_depth(table)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply for settings. Start from a file in `experiments`.") from None
    except tomllib.TOMLDecodeError as broken:
        raise ConfigError(f"{where} is not valid TOML: {broken}.") from None
    return table


def _apply(table: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is read as TOML, or taken as a string when it is not TOML."""
    dotted, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write it as key=value, such as train.epochs=5.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
        check_depth(parsed)
    except RecursionError:
        raise ConfigError(f"--set {dotted}: the value is nested too deeply.") from None
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, key = dotted.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: '{section}' is a value, not a section.")
    table[key] = parsed


def _explain(invalid: ValidationError, *, where: str) -> str:
    return " ".join(_explain_one(dict(error), where=where) for error in invalid.errors())


def _explain_one(error: dict[str, Any], *, where: str) -> str:
    dotted = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_beside(error["loc"])
        return f"{where}: unknown key '{dotted}'.{nearest(dotted, known)} Known: {', '.join(known)}."
    return f"{where}: {dotted or 'settings'}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})."


def _keys_beside(loc: tuple[Any, ...]) -> list[str]:
    """Return the dotted names of all keys that could have been meant by the unknown one."""
    model: type[BaseModel] = Experiment
    for step in loc[:-1]:
        annotation = model.model_fields[str(step)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    prefix = "".join(f"{step}." for step in loc[:-1])
    return [prefix + name for name in model.model_fields]
