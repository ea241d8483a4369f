"""Options that several commands share."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..data.index import Layout


Command = TypeVar("Command", bound=Callable[..., Any])


_QUIET = "leukoscope.quiet"


def add_verbosity(command: click.Command) -> click.Command:
    """Give a command, and all commands of a group, --quiet and --verbose."""
    if not any(option.name == "quiet" for option in command.params):
        command.params += [
            click.Option(
                ["-q", "--quiet"],
                is_flag=True,
                expose_value=False,
                callback=_be_quiet,
                help="Print results and problems only: no progress, no notes.",
            ),
            click.Option(
                ["-v", "--verbose"],
                is_flag=True,
                expose_value=False,
                callback=_be_verbose,
                help="Log what is done, and show the traceback of an error.",
            ),
        ]
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_verbosity(inner)
    return command


def _be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    if quiet:
        from ..progress import show_bars

        context.meta[_QUIET] = True
        show_bars(False)


def _be_verbose(_: click.Context, __: click.Parameter, verbose: bool) -> None:
    if verbose:
        import logging

        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
        logging.getLogger("leukoscope").setLevel(logging.DEBUG)


def note(text: str, *, err: bool = False) -> None:
    """Print a line that is not a result, such as where a file was written; --quiet leaves it out."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(_QUIET):
        click.echo(text, err=err)


def experiment_options(command: Command) -> Command:
    """Add --config and --set."""
    change = "Change one setting, such as train.epochs=5. Repeatable."
    settings = "TOML file with settings, or the name of a shipped one: demo, ellassir-2022, frozen, fine-tune."
    command = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=change)(command)
    return click.option("--config", metavar="FILE|NAME", help=settings)(command)


def layout_options(command: Command) -> Command:
    """Add the options for how labels and subjects are read from names or a table, named as in Layout."""
    meaning = {
        "--subject-pattern": "Regular expression on the file name; its first group is the subject.",
        "--path-column": "Column of a table that holds the image's path.",
        "--label-column": "Column of a table that holds the class.",
        "--subject-column": "Column of a table that holds the subject.",
        "--part-column": "Column of a table that holds the part.",
        "--keep-columns": "Further columns to keep, such as 'sex, stain': subgroups of the evaluation.",
    }
    for name, text in reversed(meaning.items()):
        command = click.option(name, metavar="TEXT", help=text)(command)
    where = "Labels CSV of the C-NMC preliminary test, if it is not in the folder."
    return click.option("--labels", type=click.Path(path_type=Path), help=where)(command)


def point_option(command: Command) -> Command:
    """Add --operating-point."""
    from ..config import OPERATING_POINTS

    points = click.Choice([point.replace("_", "-") for point in OPERATING_POINTS])
    meaning = "Threshold of the model at which a cell is classified as positive."
    return click.option("--operating-point", "point", type=points, default="balanced", show_default=True, help=meaning)(
        command
    )


def model_option(command: Command) -> Command:
    """Add --model."""
    bundle = "Model bundle: a folder, or hf://owner/name. [default: the shipped one]"
    return click.option("--model", metavar="BUNDLE", help=bundle)(command)


def field_options(command: Command) -> Command:
    """Add the options for how cells are found in fields and slides, named as in fields.extraction.FieldOptions."""
    scale = "Scale of the fields in micrometres per pixel, if known."
    each = "Estimate the scale of each field separately instead of one for all."
    stain = "How cells of fields are brought to the colours of the training cells."
    for add in (
        click.option(
            "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes for slides."
        ),
        click.option(
            "--stain",
            "method",
            type=click.Choice(["none", "reinhard", "macenko"]),
            default="macenko",
            show_default=True,
            help=stain,
        ),
        click.option("--each-scale", is_flag=True, help=each),
        click.option("--um-per-px", type=click.FloatRange(0.005, 5), help=scale),
    ):
        command = add(command)
    return command


def make_layout(**given: str | None) -> "Layout":
    """Return the layout with what was given; the rest keeps its default."""
    from ..data.index import Layout

    return Layout(**{name: text for name, text in given.items() if text is not None})


_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str | Path) -> str:
    r"""Return text as one line that every terminal can print, whatever bytes a file's name holds.

    >>> printable("a\udcff\n.bmp")
    'a\\udcff\\n.bmp'
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def echo_json(text: str, *, nl: bool = True) -> None:
    """Print JSON; signs that the output's encoding does not have are written as JSON's escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = re.sub(r"[^\x00-\x7f]", lambda sign: json.dumps(sign[0])[1:-1], text)
    click.echo(text, nl=nl)


def complain(text: str) -> None:
    """Print one line about something that cannot be used."""
    click.secho(printable(text), fg="red", err=True)


def many(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> many(1, "cell"), many(1200, "cell")
    ('1 cell', '1,200 cells')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
