"""leukoscope models: list networks and print their layers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import note

if TYPE_CHECKING:
    from ..models.export import Store


@click.group()
def models() -> None:
    """List networks and print their layers.

    \b
    Examples:
      leukoscope models list
      leukoscope models summary seed-cnn --size 450
      leukoscope models show models/first
    """


@models.command()
@click.argument("bundle", required=False)
def show(bundle: str | None) -> None:
    """Verify every file of a model BUNDLE (default: the shipped model) and print its card.

    \b
    Examples:
      leukoscope models show
      leukoscope models show models/first
    """
    from ..bundle.manifest import CARD
    from ..bundle.signature import signature_of
    from ..inference.predictor import load

    predictor = load(bundle)
    click.echo(predictor.bundle.read(CARD).decode())
    signature = signature_of(predictor.bundle)
    who = f'Signed by "{signature.name}" with the key {signature.key}.' if signature else "Not signed."
    click.echo(who, err=True)
    click.echo(f"All {len(predictor.manifest.files) + 1} files are unchanged. Seal {predictor.manifest.seal}", err=True)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
def key(path: Path) -> None:
    """Make a key to sign bundles with: the private one in PATH, the public one, to be handed out, in PATH.pub.

    \b
    Examples:
      leukoscope models key ~/.leukoscope-key
    """
    from ..bundle.signature import make_key

    click.echo(f"The fingerprint of the key is {make_key(path)}. Keep {path} secret; distribute {path}.pub.")


@models.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Private key.")
@click.option("--name", required=True, help="Name of the signer, as shown to others.")
def sign(bundle: Path, key: Path, name: str) -> None:
    """Sign a model BUNDLE, so that anyone with the public key can verify that it is unchanged.

    \b
    Examples:
      leukoscope models sign models/first --key ~/.leukoscope-key --name "Haematology, Example Hospital"
    """
    from ..bundle.manifest import open_bundle
    from ..bundle.signature import sign as sign_bundle

    signature = sign_bundle(open_bundle(bundle), key, name=name)
    click.echo(f"Signed {bundle} with the key {signature.key}.")


@models.command("list")
@click.argument("pattern", default="")
def list_networks(pattern: str) -> None:
    """List the networks whose names match PATTERN; without one, the recommended networks.

    \b
    Examples:
      leukoscope models list
      leukoscope models list lite
      leukoscope models list 'timm:resnet*'
    """
    _require()
    from ..errors import UsageError
    from ..models.catalogue import find

    found = find(pattern)
    if not found:
        raise UsageError(f"No network matches '{pattern}'. Try a shorter text, such as 'resnet'.")
    wide = max(len(entry.name) for entry in found)
    for entry in found:
        click.echo(f"{entry.name:<{wide}}  {entry.about}".rstrip())
    if not pattern:
        click.echo("timm:<name>: any other backbone of timm; see them with: leukoscope models list 'timm:*'", err=True)


@models.command()
@click.argument("name")
@click.option(
    "--size", type=click.IntRange(16, 1024), default=None, help="Side of the crop, px. [default: 450, or 224]"
)
@click.option("--classes", type=click.IntRange(2), default=2, show_default=True)
def summary(name: str, size: int | None, classes: int) -> None:
    """Print the layers of the network NAME with their output shapes and parameters, as Keras does.

    \b
    Examples:
      leukoscope models summary seed-cnn
      leukoscope models summary timm:tf_efficientnet_lite0 --size 128
    """
    _require()
    from ..config import Model
    from ..models.catalogue import build_network
    from ..models.network import summary_table

    side = size or (224 if name.startswith("timm:") else 450)
    click.echo(summary_table(build_network(Model(name=name), classes=classes, size=side), size=side))


def _require() -> None:
    from ..errors import require

    require("torch", feature="Looking at networks", extra="train")
    require("timm", feature="Looking at networks", extra="train")


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option("--name", default="", help="Name of the bundle.  [default: from its network and run folder]")
@click.option("--fold", "folds", multiple=True, type=int, help="Only this fold; repeatable.")
@click.option(
    "--store",
    type=click.Choice(["single", "half", "int8"]),
    default="single",
    show_default=True,
    help="Precision of the stored weights: 4, 2 or 1 bytes each. int8 changes probabilities by about 0.01.",
)
@click.option("--no-weights", is_flag=True, help="Leave out weights.safetensors, which only further training needs.")
@click.option(
    "--also",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run with the same settings and another split, whose results the card also shows; repeatable. "
    "If it left out complete parts, temperature, operating points and conformal thresholds are fitted to these.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0.001, 0.499),
    default=0.1,
    show_default=True,
    help="Largest share of each class that may be called another class; a smaller one makes more cells unsure.",
)
def export(
    run: Path,
    output: Path,
    *,
    name: str,
    folds: tuple[int, ...],
    store: "Store",
    no_weights: bool,
    also: tuple[Path, ...],
    alpha: float,
) -> None:
    """Make a model bundle of an evaluated RUN: all its folds averaged, or some of them.

    The bundle contains everything that a prediction needs (preparation, networks, calibration, operating points, when
    to refuse and when to be unsure, metrics, a model card) and predicts without PyTorch.

    \b
    Examples:
      leukoscope export runs/first -o models/first
      leukoscope export runs/first -o models/first-0 --fold 0 --store half
      leukoscope export runs/kfold -o models/both --also runs/shift
      leukoscope predict cells/ --model models/first
    """
    from ..errors import require

    for module in ("torch", "timm", "onnx", "onnxscript"):
        require(module, feature="Exporting a model", extra="train")
    from ..exporting import export_run

    bundle = export_run(
        run,
        output,
        folds=folds,
        store=store,
        weights=not no_weights,
        also=also,
        alpha=alpha,
        name=name,
        say=click.echo,
    )
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    click.echo(f"bundle    {bundle.path} ({size / 1e6:.1f} MB)")


@click.command()
@click.argument("bundle")
@click.argument("reviewed", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the adapted bundle here; without it, only report."
)
@click.option("--even-if-worse", is_flag=True, help="Write the bundle even if it is not shown to be better.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table.")
@click.option("--seed", default=0, show_default=True, help="Seed of the folds and the intervals.")
def adapt(bundle: str, reviewed: Path, output: Path | None, even_if_worse: bool, as_json: bool, seed: int) -> None:
    """Fit a new head of BUNDLE to REVIEWED cells of your laboratory, and report whether it is better.

    REVIEWED is an unpacked data set of the reading room, or any labelled folder or table. A few dozen cells of several
    subjects of each class suffice. Old and new heads are compared on held-out subjects, with 95 % intervals over
    subjects. No bundle is ever overwritten. Pictures that cannot be used are listed and left out; the exit status is
    then 1.

    \b
    Examples:
      leukoscope adapt default case-3-dataset/
      leukoscope adapt models/first reviewed/cells.csv -o models/ours
    """
    import json

    from ..adaptation import adapt as fit
    from ..adaptation import refuse_existing, write
    from ..bundle.manifest import open_bundle
    from ..data.index import index
    from ..errors import DataError
    from ..pipeline import notes_of
    from .options import complain, printable

    if output:
        refuse_existing(output)
    opened = open_bundle(bundle)
    table = reviewed / "cells.csv" if (reviewed / "cells.csv").is_file() else reviewed
    found = index(table)
    adapted, cells = fit(opened, found.cells, seed=seed)
    refused = [*(reason if name in reason else f"{name}: {reason}" for name, reason in found.refused), *cells.refused]
    for line in refused:
        complain(line)
    for line in notes_of(found):
        note(printable(line), err=True)
    result = adapted.result | {"refused": refused}
    click.echo(json.dumps(result, indent=1) if as_json else _table(result))
    if not output:
        raise SystemExit(DataError.exit_status if refused else 0)
    if not adapted.better and not even_if_worse:
        click.echo(f"Not written: {adapted.result['verdict']} To write it anyway: --even-if-worse.", err=True)
        raise SystemExit(1)
    write(opened, output, adapted, cells)
    note(f"Wrote {output}", err=as_json)
    if refused:
        raise SystemExit(DataError.exit_status)


def _table(result: dict[str, Any]) -> str:
    held_out = f"{result['cells']} reviewed cells of {result['subjects']} subjects, each {result['unit']} held out once"
    lines = [held_out, f"{'':18}{'old':>24}{'new':>24}{'new - old':>26}"]
    for name in result["old"]:
        parts = [_span(result[which][name]) for which in ("old", "new", "differences")]
        lines.append(f"{name:18}{parts[0]:>24}{parts[1]:>24}{parts[2]:>26}")
    return "\n".join([*lines, result["verdict"], *([result["note"]] if result["note"] else [])])


def _span(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    low, high = (f"{figure[side]:.3f}" if figure[side] is not None else "–" for side in ("low", "high"))
    return f"{figure['value']:.3f} ({low} to {high})"
