"""Every command of the README runs, in its order, and prints what the README shows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def steps() -> list[tuple[str, list[str]]]:
    """Return (command, lines that it prints) of all console blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found: list[tuple[str, list[str]]] = []
    for line in "".join(BLOCK.findall(text)).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def pattern_of(line: str) -> str:
    """Return a pattern for a printed line: numbers may differ between machines, words may not; … stands for more."""
    text = re.escape(re.sub(r"\s+", " ", line.strip()))
    return re.sub(r"\\?\d+(?:\\?[.,]\d+)*", r"[\\d.,]+", text).replace("…", ".*").replace(r"\ ", r"\s+")


@pytest.mark.slow
def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    ran = 0
    for command, shown in steps():
        if not command.startswith("leukoscope "):
            continue  # make and pip: a clone of its own runs those
        program = [sys.executable, "-m", *shlex.split(command)]
        result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        printed = re.sub(r"\s+", " ", result.stdout)
        for line in shown:
            assert re.search(pattern_of(line), printed), f"{command} does not print: {line}\nbut:\n{result.stdout}"
        ran += 1
    assert ran >= 3


def test_the_first_use_stands_in_the_first_fifteen_lines() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("$ ") for line in lines[:15])
    assert all((ROOT / link).exists() for link in re.findall(r"\]\((?!http)([^)#]+)\)", "\n".join(lines)))
