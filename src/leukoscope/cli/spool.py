"""Rows that are written when all of them are known, kept on the disk until then."""

import json
from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any


class Spool:
    """Rows in the order in which they came; memory does not grow with their number."""

    def __init__(self) -> None:
        self._file = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed when the spool is let go

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more row."""
        self._file.write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)
