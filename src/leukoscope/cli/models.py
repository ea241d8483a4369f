"""leukoscope models: list networks and print their layers."""

from pathlib import Path

import click


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
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
def show(bundle: Path | None) -> None:
    """Prove every file of a model BUNDLE (default: the shipped model) and print its card.

    \b
    Examples:
      leukoscope models show
      leukoscope models show models/first
    """
    from ..inference.bundle import CARD
    from ..inference.predictor import load

    predictor = load(bundle)
    click.echo(predictor.bundle.read(CARD).decode())
    click.echo(
        f"All {len(predictor.manifest.files) + 1} files are as they were made. Seal {predictor.manifest.seal}", err=True
    )


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
    from ..errors import CallError
    from ..models.catalogue import find

    found = find(pattern)
    if not found:
        raise CallError(f"No network matches '{pattern}'. Try a shorter text, such as 'resnet'.")
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
    from ..models.summary import summary_table

    side = size or (224 if name.startswith("timm:") else 450)
    click.echo(summary_table(build_network(Model(name=name), classes=classes, size=side), size=side))


def _require() -> None:
    from ..errors import require

    require("torch", feature="Looking at networks", extra="train")
    require("timm", feature="Looking at networks", extra="train")
