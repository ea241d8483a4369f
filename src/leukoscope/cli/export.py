"""leukoscope export: from a run to a model that travels."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..models.export import Store


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option("--name", default="", help="What the bundle is called.  [default: by its network and run folder]")
@click.option("--fold", "folds", multiple=True, type=int, help="Only this fold; may stand several times.")
@click.option(
    "--store", type=click.Choice(["single", "half", "int8"]), default="single", show_default=True,
    help="How large weights are kept: 4, 2 or 1 bytes each. int8 moves probabilities by about 0.01.",
)  # fmt: skip
@click.option("--no-weights", is_flag=True, help="Leave out weights.safetensors, which only further training needs.")
@click.option(
    "--also", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run of the same settings, split otherwise, whose figures the card shows too; may stand several times.",
)  # fmt: skip
@click.option(
    "--alpha", type=click.FloatRange(0.001, 0.499), default=0.1, show_default=True,
    help="Share of each class that may be called another; more cells are unsure when it is small.",
)  # fmt: skip
def export(
    run: Path, output: Path, *, name: str, folds: tuple[int, ...], store: "Store", no_weights: bool,
    also: tuple[Path, ...], alpha: float,
) -> None:  # fmt: skip
    """Make a model bundle of an evaluated RUN: all its folds averaged, or some of them.

    The bundle holds everything that an answer needs (preparation, networks, calibration, operating points, when to
    refuse and when to be unsure, figures, a card for people) and predicts without PyTorch.

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
    from ..export import export_run

    bundle = export_run(
        run, output, folds=folds, store=store, weights=not no_weights, also=also, alpha=alpha, name=name,
        say=click.echo,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    click.echo(f"bundle    {bundle.path} ({size / 1e6:.1f} MB)")
