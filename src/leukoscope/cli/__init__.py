"""The command line: each group's module is imported only when its command runs, so that --help answers at once."""

import codecs
import errno
import importlib
import io
import sys
from typing import Any, NoReturn

import click

from ..errors import LeukoscopeError, nearest
from ..progress import limit_blas_threads, wait_passively
from .options import add_verbosity

# command -> (module, attribute, one line for --help); the order is the order of work
COMMANDS = {
    "run": ("run", "run", "From a folder of images to a trained model and a report."),
    "data": ("data", "data", "Index, audit, verify, fetch, split and pack images."),
    "train": ("run", "train", "Train every fold of a prepared run, or resume it."),
    "evaluate": ("run", "evaluate", "Calibrate on validation subjects and measure on test subjects."),
    "report": ("run", "report", "Write report.html from a finished run."),
    "compare": ("run", "compare", "Paired difference between two runs, with its interval."),
    "export": ("models", "export", "Make a model bundle of a run; it predicts without PyTorch."),
    "predict": ("predict", "predict", "Second opinion on cell images: class, unsure or refused."),
    "explain": ("explain", "explain", "Draw heat maps of the evidence in each cell."),
    "cells": ("data", "cells", "Find the white cells in smear fields and cut each one out."),
    "fetch": ("serve", "fetch", "Fetch images from a hospital's archive through DICOMweb."),
    "send": ("serve", "send", "Send results as DICOM, FHIR or HL7 to a hospital's systems."),
    "adapt": ("models", "adapt", "Fit a bundle to cells that your laboratory has read."),
    "serve": ("serve", "serve", "Open the reading room: cases and human review in the browser."),
    "accounts": ("serve", "accounts", "Accounts of the reading room: add, list, change."),
    "audit-log": ("serve", "audit_log", "Verify the audit log of the reading room."),
    "survival": ("survival", "survival", "Compare survival by stage, fit a model, predict for a patient."),
    "reproduce": ("run", "reproduce", "Run a published claim as an experiment and write its page."),
    "models": ("models", "models", "List networks and print their layers."),
    "settings": ("run", "settings", "List the settings of an experiment, with their values and meaning."),
}


# Replacements for signs that a terminal may not have.
_PLAIN = {
    "µ": "u",
    "≤": "<=",
    "≥": ">=",
    "–": "-",
    "—": "-",
    "…": "...",
    "×": "x",
    "²": "2",
    "−": "-",
    "’": "'",
    "“": '"',
    "”": '"',
    "→": "->",
    "±": "+-",
    "°": " degrees",
    "✓": "+",
    "✗": "-",
    "\u00a0": " ",
}

_STOPPED = (
    "Stopped. Finished files are kept; no file is incomplete. "
    "To continue, repeat the command; run and train need --resume."
)


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called, not when the program starts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f".{module}", __name__), attribute)
        return add_verbosity(command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"No such command '{args[0]}'.{nearest(args[0], COMMANDS)} Known: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail(_STOPPED, status=130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="leukoscope")
def leukoscope() -> None:
    """Distinguish leukemia blasts from normal blood-cell precursors in microscope images.

    For research; not a diagnosis. Every command takes --help, --quiet and --verbose.

    \b
    Completion in bash, zsh or fish: eval "$(_LEUKOSCOPE_COMPLETE=bash_source leukoscope)"

    \b
    Examples:
      leukoscope run C-NMC_Leukemia/ -o runs/first
      leukoscope run --synthetic 600 -o runs/demo
    """


add_verbosity(leukoscope)


def main() -> None:
    """Run the command line; print what a user can mend as one line and end with status 1 or 2."""
    wait_passively()
    limit_blas_threads()
    codecs.register_error("leukoscope", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="leukoscope")
    try:
        leukoscope(standalone_mode=True)
    except LeukoscopeError as error:
        _trace()
        _fail(str(error), status=error.exit_status)
    except OSError as error:
        _trace()
        _fail(_explain_os(error), status=1)


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """Replace what a terminal's encoding (GBK, Shift-JIS, Windows-1252 …) has no sign for."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _trace() -> None:
    """Print the traceback of the error at hand where --verbose was given."""
    import logging

    if logging.getLogger("leukoscope").isEnabledFor(logging.DEBUG):
        import traceback

        traceback.print_exc()


def _explain_os(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        full = f"The disk is full, or the file is too large for it{f': {error.filename}' if error.filename else ''}"
        return f"{full}. Free some space and run the same command again; finished stages are kept."
    if error.errno == errno.EROFS:
        return f"Cannot write to{where or ' this disk'}: it is read-only. Choose another folder."
    if isinstance(error, PermissionError):
        return f"No permission for{where or ' a file'}. Choose another folder, or change its permissions."
    return f"{error.strerror or error}{where}."


def _fail(message: str, *, status: int) -> NoReturn:
    click.secho(f"Error: {message}", fg="red", err=True)
    sys.exit(status)
