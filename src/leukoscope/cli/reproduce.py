"""leukoscope reproduce: a published claim, run as an experiment."""

from pathlib import Path

import click

_FOLDER = click.Path(exists=True, path_type=Path)


@click.command(short_help="Run a published claim as an experiment and write its page.")
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the studies and the claims that they test.")
@click.option("--data", type=_FOLDER, help="Folder of images, such as the C-NMC release; subtypes takes smear fields.")
@click.option("--fields", type=_FOLDER, help="Folder of smear fields by class, for stain.")
@click.option("--painted", type=int, default=0, metavar="N", help="Paint N cells instead of reading images.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("evidence"), show_default=True,
              help="Folder for the page, its figures and its JSON.")  # fmt: skip
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder for what is kept between runs. [default: OUTPUT/work]"
)
@click.option("--offline", is_flag=True, help="Ask no model hub; weights that are not at hand are random.")
@click.option("--seeds", type=click.IntRange(1, 100), help="How often each arm is run anew.")
@click.option("--images", type=click.IntRange(0), help="How many images are looked at; 0 takes all.")
@click.option("--size", type=click.IntRange(16, 1024), help="Side of the crops, px.")
@click.option("--epochs", type=click.IntRange(1), help="Where a network is trained.")
def reproduce(
    name: str | None, listing: bool, data: Path | None, fields: Path | None, painted: int, output: Path,
    work: Path | None, offline: bool, **smaller: int | None,
) -> None:  # fmt: skip
    """Run the study NAME and write OUTPUT/NAME.md with its figures and all numbers.

    Finished arms are kept: repeat the command to go on where it was stopped. A study that is made smaller by --seeds,
    --images, --size or --epochs says so on its page.

    \b
    Examples:
      leukoscope reproduce --list
      leukoscope reproduce leak --data C-NMC_Leukemia/
      leukoscope reproduce ellassir-2022 --painted 600 --seeds 2 --size 48 --images 200 --epochs 3
    """
    from ..errors import CallError, require
    from ..evidence.catalogue import find, names
    from ..evidence.catalogue import reproduce as run
    from ..evidence.study import Given

    require("torch", feature="Reproducing a study", extra="train")
    if listing:
        for each in names():
            click.echo(f"{each:15} {find(each).claim}")
        return
    if not name:
        raise CallError(f"Name a study: {', '.join(names())}. What they test: leukoscope reproduce --list")
    asked = {key: value for key, value in smaller.items() if value is not None}
    say = lambda text: click.echo(text, err=True)  # noqa: E731
    page = run(
        name, Given(data, fields, painted, offline), output, work=work or output / "work", smaller=asked, say=say
    )
    click.echo(page)
