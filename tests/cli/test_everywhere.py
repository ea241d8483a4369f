"""What every command has in common: quiet, verbose, the settings, one line for each reason."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from leukoscope.cli import COMMANDS, LazyCommands, leukoscope
from leukoscope.cli.output import Problems
from leukoscope.config import Experiment, list_settings
from leukoscope.errors import DataError, UsageError
from leukoscope.files import read_csv


def call(*arguments: object) -> Result:
    return CliRunner().invoke(leukoscope, [str(each) for each in arguments])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet_and_verbose(name: str) -> None:
    assert isinstance(leukoscope, LazyCommands)
    said = call(name, "--help")
    assert said.exit_code == 0
    assert "--quiet" in said.output
    assert "--verbose" in said.output


def test_quiet_leaves_out_notes_and_keeps_results(cells: Path, tmp_path: Path) -> None:
    arguments = ["predict", cells, "-o", tmp_path / "out.csv"]
    loud, quiet = call(*arguments), call(*arguments, "--quiet")
    assert "Wrote" in loud.output
    assert "Wrote" not in quiet.output
    assert "cells:" in quiet.output


def test_an_index_is_quiet_too_and_counts_images_without_labels(cells: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(cells.rglob("*.png"))[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    loud, quiet = (call("data", "index", folder, "-o", tmp_path / "cells.csv", *more) for more in ((), ("--quiet",)))
    assert "Wrote" in loud.output
    assert "Wrote" not in quiet.output
    assert "3 images of " in quiet.output
    assert "subjects: 3 unlabelled" in quiet.output


def test_files_with_the_same_fault_are_told_in_one_line(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"empty-{number}.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("text")
    said = call("predict", tmp_path)
    lines = said.stderr.splitlines()
    assert len(lines) == 2
    assert "7 files: Is empty (0 bytes)." in lines[0]
    assert "empty-0.png" in lines[0]
    assert "and 4 more" in lines[0]
    assert "text.png: Is a text file, not an image" in lines[1]


def test_very_many_different_faults_do_not_fill_the_memory() -> None:
    problems = Problems()
    for number in range(1000):
        problems.add(f"{number}.png", f"Fault {number}.")
    assert len(problems.lines()) < 100
    assert problems.lines()[-1] == "and 950 more files for other reasons"


def test_the_terminal_counts_as_the_page_does(cells: Path, tmp_path: Path) -> None:
    files, table = sorted(cells.rglob("*.png")), tmp_path / "cells.csv"
    table.write_text("path,subject\n" + "".join(f"{path},P1\n" for path in files))
    said = call("predict", table, "--html", tmp_path / "page.html", "-o", tmp_path / "answers.csv").output
    row = next(line for line in said.splitlines() if line.startswith("P1"))
    decisions = [answer["decision"] for answer in read_csv(tmp_path / "answers.csv")]
    assert row.split()[1:5] == [
        str(len(files)),
        *(str(decisions.count(name)) for name in ("blast", "unsure", "refused")),
    ]
    page = (tmp_path / "page.html").read_text()
    section = page[page.index('id="subjects"') :]
    numbers = [part.split("<")[0] for part in section[: section.index("</tbody>")].split('class="n">')[2:]]
    assert numbers[-4:] == row.split()[1:5]


def test_the_settings_are_listed_with_values_and_meaning() -> None:
    listed = list(list_settings())
    assert {each.name for each in listed} >= {"seed", "train.epochs", "augment.zoom", "split.scheme"}
    assert all(each.meaning for each in listed if each.name in ("split.scheme", "train.balance", "prepare.view"))
    text = "\n".join(f"{each.name} = {each.value}" for each in listed)
    assert Experiment.of(_parsed(text)) == Experiment()
    assert "train.epochs = 6" in call("settings", "train", "--config", "fine-tune").output


def _parsed(text: str) -> dict[str, object]:
    import tomllib

    return tomllib.loads(text)


def test_an_unknown_setting_shows_the_nearest() -> None:
    said = call("settings", "train.epoch")
    assert isinstance(said.exception, UsageError)
    assert "Did you mean 'train.epochs'?" in str(said.exception)


def test_a_missing_column_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("file,diagnosis\na.png,x\n")
    said = call("data", "index", tmp_path / "table.csv", "-o", tmp_path / "out.csv")
    assert isinstance(said.exception, DataError)
    assert "--path-column" in str(said.exception)


def test_the_shell_completes_commands_and_options() -> None:
    from click.shell_completion import ShellComplete

    completer = ShellComplete(leukoscope, {}, "leukoscope", "_LEUKOSCOPE_COMPLETE")
    assert "predict" in [each.value for each in completer.get_completions([], "pre")]
    assert "--operating-point" in [each.value for each in completer.get_completions(["predict"], "--op")]
