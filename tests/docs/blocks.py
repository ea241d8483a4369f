"""Blocks of code in Markdown, the commands in them, and what they print."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from leukoscope.cli import leukoscope

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROGRAM = re.compile(r"^(?:\$ )?(?:torchrun .* -m |docker compose run --rm room |.*/)?leukoscope\s+(?=\S)")
_IN_DOCKER = re.compile(r"^(?:\$ )?docker compose run --rm room (?=\S)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    reason: str
    """Why the tests do not run it, as its title says to the reader; empty for all others."""
    text: str

    def steps(self) -> list[tuple[str, list[str]]]:
        """Return (command, lines that it prints) of a block as on a terminal."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() and found:
                found[-1][1].append(line)
        return found

    def commands(self) -> list[str]:
        """Return every call of leukoscope, in whatever kind of block, without the name of the program."""
        lines = [_IN_DOCKER.sub("leukoscope ", line) for line in self.text.replace("\\\n", " ").splitlines()]
        return [_PROGRAM.sub("", line) for line in lines if _PROGRAM.match(line)]


def blocks_of(markdown: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for language, title, text in _FENCE.findall(markdown):
        reason = re.search(r'title="Not run by the tests: (.+)"', title)
        yield Block(language, reason[1] if reason else "", text)


def pattern_of(line: str) -> str:
    """Return a pattern for a printed line: numbers may differ between machines, words may not; … stands for more."""
    text = re.escape(re.sub(r"\s+", " ", line.strip()))
    return re.sub(r"\\?\d+(?:\\?[.,]\d+)*", r"[\\d.,]+", text).replace("…", ".*").replace(r"\ ", r"\s+")


def check_call(line: str) -> None:
    """Prove that a call names a command that there is, with options and words that it knows.

    Raises:
        click.UsageError: it does not.
    """
    words = shlex.split(line.partition(" | ")[0].partition(" && ")[0], comments=True)
    command: click.Command = leukoscope
    context = click.Context(command, info_name="leukoscope")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context, **found.context_settings)
    given, left, _ = command.make_parser(context).parse_args(words)
    if left and not context.allow_extra_args:
        raise click.UsageError(f"too many words: {left}")
    _check_values(command, context, given)


def _check_values(command: click.Command, context: click.Context, given: dict[str, object]) -> None:
    for parameter in command.params:
        value = given.get(parameter.name or "")
        present = parameter.name in given and value not in (None, ())
        if isinstance(parameter, click.Option) and parameter.required and not present and "help" not in given:
            raise click.UsageError(f"{command.name} needs {parameter.opts[0]}")
        if present and isinstance(value, str) and not isinstance(parameter.type, click.Path | click.File):
            parameter.type_cast_value(context, value)
