"""The reference of the command line, from the commands themselves."""

from collections.abc import Iterator
from html import escape
from inspect import cleandoc

import click

from leukoscope.cli import leukoscope

_KEPT_LINES = "\b"  # click's sign before a paragraph whose lines are kept
_INTRODUCTION = """# Commands

Every command with its options, as `--help` shows them. Results go to standard output, progress and errors to standard
error; the exit status is 0, 1 (something could not be done, and is named) or 2 (the call was wrong).
"""


def page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_INTRODUCTION, *(_section(*found) for found in walk(leukoscope, "leukoscope"))])


def walk(command: click.Command, name: str, above: click.Context | None = None) -> Iterator[tuple[click.Context, int]]:
    """Yield the context of every command below `command`, in the order of --help, with its depth."""
    context = click.Context(command, info_name=name, parent=above, **command.context_settings)
    if above:
        yield context, context.command_path.count(" ")
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from walk(found, inner, context)


def _section(context: click.Context, depth: int) -> str:
    usage = " ".join([context.command_path, *context.command.collect_usage_pieces(context)])
    parts = [f"{'#' * (depth + 1)} {context.command_path}", f"`{usage}`"]
    parts += [_paragraph(text) for text in cleandoc(context.command.help or "").split("\n\n")]
    return "\n\n".join([*parts, _options(context)]) + "\n"


def _paragraph(text: str) -> str:
    """Return a paragraph of a help text; lines that click keeps become a block of code."""
    if not text.startswith(_KEPT_LINES):
        return _plain(text)
    title, *lines = text.lstrip(_KEPT_LINES).strip("\n").splitlines()
    return f"{title}\n\n```sh\n" + "\n".join(line.strip() for line in lines) + "\n```"


def _options(context: click.Context) -> str:
    options = [option for option in context.command.get_params(context) if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    rows = [f"| <code>{_plain(name)}</code> | {_plain(text)} |" for name, text in records]
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def _plain(text: str) -> str:
    """Return a text that means no Markdown: no tags, no columns, no emphasis."""
    return escape(text, quote=False).replace("|", "&#124;").replace("*", "\\*").replace("_", "\\_")
