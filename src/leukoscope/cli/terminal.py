"""Lines for a person at a terminal."""

import re
from pathlib import Path

import click

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str | Path) -> str:
    r"""Return text as one line that every terminal can print, whatever bytes a file's name holds.

    >>> printable("a\udcff\n.bmp")
    'a\\udcff\\n.bmp'
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def complain(text: str) -> None:
    """Print one line about something that cannot be used."""
    click.secho(printable(text), fg="red", err=True)


def many(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> many(1, "cell"), many(1200, "cell")
    ('1 cell', '1,200 cells')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
