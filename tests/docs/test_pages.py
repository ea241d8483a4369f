"""Every block of code in the README and the documentation runs, in its order, and prints what the page shows."""

import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from leukoscope.cli import leukoscope
from leukoscope.config import Experiment

from .blocks import ROOT, Block, blocks_of, check_call, pattern_of
from .inputs import prepare
from .site import generated

# One after the other in one folder, as a reader goes: the README's run is what the other pages start from.
pytestmark = pytest.mark.xdist_group("docs")
WRITTEN = [ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs").glob("[!s]*/**/*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in WRITTEN}
# Blocks that have no title to say why they are not run.
NOT_RUN = {
    "leukoscope predict slide.svs": "needs a slide; tests/fields/test_slides.py makes and reads slides",
    "leukoscope serve": "serves until it is stopped; tests/server opens the room",
    "leukoscope accounts add ada --role admin\n": "asks for a password; tests/server answers",
    "leukoscope reproduce": "trains for hours; tests/studies runs it on little",
}
READ_ONLY = {"", "text", "sh", "json", "yaml", "diff"}  # kinds of blocks that show something; calls in them are checked


def why_not_run(block: Block) -> str:
    return block.reason or next((why for line, why in NOT_RUN.items() if line in block.text), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def done() -> dict[str, str]:
    """Return what was printed by commands that have been run: pages repeat the first one."""
    return {}


def call(command: str, *, folder: Path, whole: bool) -> str:
    """Run a command, as a program of its own or within this one, which is faster; return what it prints."""
    words = shlex.split(command)[1:]
    if whole:
        program = [sys.executable, "-m", "leukoscope", *words]
        finished = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, f"{command}\n{finished.stderr}"
        return finished.stdout
    with chdir(folder):
        result = CliRunner().invoke(leukoscope, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{command}\n{result.output}"
    return result.output


def follow(block: Block, *, folder: Path, done: dict[str, str], whole: bool) -> int:
    """Run the commands of a block and compare what they print; return how many ran."""
    steps = block.steps() or [(line, []) for line in block.text.splitlines() if line.startswith("leukoscope ")]
    for command, shown in [step for step in steps if step[0].startswith("leukoscope ")]:
        if command not in done:
            done[command] = call(command, folder=folder, whole=whole)
        printed = re.sub(r"\s+", " ", done[command])
        for line in shown:
            assert re.search(pattern_of(line), printed), f"{command} does not print: {line}\nbut:\n{done[command]}"
    return len(steps)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_do_what_it_shows(page: str, folder: Path, done: dict[str, str]) -> None:
    blocks = [block for block in blocks_of(PAGES[page]) if not why_not_run(block)]
    wanted = [block for block in blocks if block.language in {"console", "python"} or block.commands()]
    if wanted:
        prepare(page, folder, done, call)
    ran = 0
    for block in wanted:
        if block.language == "python":
            with chdir(folder):
                exec(compile(block.text, page, "exec"), {"__name__": "page"})
        else:
            ran += follow(block, folder=folder, done=done, whole=page == "README.md")
    assert ran >= 3 or page != "README.md"


def test_experiments_in_pages_are_valid() -> None:
    found = [block for text in PAGES.values() for block in blocks_of(text) if block.language == "toml"]
    assert found
    for block in found:
        Experiment.of(tomllib.loads(block.text))


def test_every_call_in_every_page_names_commands_and_options_that_exist() -> None:
    calls = [
        (page, line)
        for page, text in (PAGES | generated()).items()
        for block in blocks_of(text)
        for line in block.commands()
    ]
    assert len(calls) > 80
    for page, line in calls:
        try:
            check_call(line)
        except Exception as wrong:
            raise AssertionError(f"{page}: leukoscope {line}: {wrong}") from wrong


def test_a_call_with_an_option_that_does_not_exist_is_found() -> None:
    for line in ("predict a.png --kinds crops", "data audit x.csv", "predict a.png --kind cell", "fly", "report a b"):
        with pytest.raises(Exception, match=r"\w"):
            check_call(line)


def test_every_block_runs_or_says_to_the_reader_why_not() -> None:
    for page, text in PAGES.items():
        for block in blocks_of(text):
            known = block.language in READ_ONLY | {"console", "python", "toml"}
            assert known, f"{page}: a block of {block.language} is run by nobody"


def test_the_first_use_stands_in_the_first_fifteen_lines() -> None:
    assert any(line.startswith("$ ") for line in PAGES["README.md"].splitlines()[:15])


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_find_them(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        path = ((ROOT / page).parent / link).resolve()
        assert path.exists(), f"{page}: {link}"


def test_the_readme_names_every_command() -> None:
    from leukoscope.cli import COMMANDS

    table = PAGES["README.md"]
    missing = [name for name in COMMANDS if f"`leukoscope {name}" not in table and f"· `{name}`" not in table]
    assert not [name for name in missing if name != "data"]
