"""leukoscope train: learn every fold of a prepared run."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Go on after a stop; finished folds and epochs are kept.")
@click.option("--devices", type=click.IntRange(min=1), help="Processes, one per device. [default: train.devices]")
@click.option("--accelerator", metavar="NAME", help="cpu, cuda, mps or auto. [default: train.accelerator]")
def train(run: Path, resume: bool, devices: int | None, accelerator: str | None) -> None:
    """Train every fold of a prepared RUN, or resume it.

    RUN is a folder that holds config.toml, cells.csv, split.json and pack/, as `leukoscope run --until pack` leaves
    it. Each fold gets its history.csv and checkpoints; predictions.csv holds the raw probabilities of all validation
    and test cells. A run that was killed and resumed ends with the same weights as one that was not. Several processes
    share every batch and learn what one would; torchrun starts them over several machines.

    \b
    Examples:
      leukoscope train runs/first
      leukoscope train runs/first --resume
      leukoscope train runs/first --devices 2
      torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29500 -m leukoscope train runs/first
    """
    from ..errors import require

    require("torch", feature="Training", extra="train")
    require("lightning_fabric", feature="Training", extra="train")
    from ..training.loop import train as train_run

    train_run(run, resume=resume, devices=devices, accelerator=accelerator)
    click.echo(f"{run / 'predictions.csv'}")
