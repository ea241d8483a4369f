"""Mutation testing: how many of a fixed sample of small faults in the code are found by the tests of their package.

    python benchmarks/mutants.py --count 200 --seed 0

The code at HEAD is copied to build/mutants and changed there, one fault at a time, by cosmic-ray. Faults are tried in
the order in which they were drawn, so that a run that is stopped early has tried a fair sample. Every result is stored
at once, and the same command continues after a stop.

The tests run in a fork of this process, which has imported the large libraries already. All tests of a package run
once without a fault, and coverage.py records which of them run which line. Against a fault, the doctests of its
module and the tests that run its line are run, the shortest first; the first failure ends the run. A fault that is
not found within a minute of processor time, or that only a test in a process of its own could find, counts as a
survivor. A test that fails without the fault as well is left out and named. A fault that changes nothing that can be
seen counts as a survivor too: `docs/benchmarks/mutants.md` lists all survivors, with what is written of them in
`benchmarks/mutants.toml`.
"""

import argparse
import compileall
import difflib
import importlib
import io
import json
import os
import py_compile
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from filecmp import cmp
from pathlib import Path
from typing import Any

import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from coverage import Coverage, CoverageData

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "mutants.md"
REMARKS = ROOT / "benchmarks" / "mutants.toml"
SECONDS_A_TEST = 120  # of processor time, after which a test counts as hung
SECONDS_A_MUTANT = 60  # of processor time, after which no further test is begun and the fault counts as a survivor
SECONDS_A_RUN = 1800  # of processor time, of one part of the tests
LONGEST = 6 * 3600  # by the clock, for a run that waits for ever; a busy machine must not be taken for one
_FIXTURE = "fixture "  # before its name: the context of what a shared fixture runs
_HUNG, _NOT_COLLECTED = " (hung)", " (cannot be collected)"  # after the name of a test
# Package or module of src/leukoscope -> the tests that have to find a fault in it.
PACKAGES = {
    "evaluation": ["tests/evaluation"],
    "inference": ["tests/inference"],
    "data/split.py": ["tests/data/test_split.py"],
    "survival": ["tests/survival"],
    "server/security.py": [f"tests/server/test_{name}.py" for name in ("security", "signing_in", "private", "uploads")],
    "server/queue.py": ["tests/server/test_queue.py", "tests/server/test_races.py"],
    "adaptation.py": ["tests/test_adaptation.py"],
    "training/loop.py": ["tests/training"],
}
# Imported before any fork, as far as they are installed: they take longer than most tests.
LIBRARIES = (
    "numpy",
    "scipy.stats",
    "scipy.optimize",
    "sklearn.linear_model",
    "PIL.Image",
    "click",
    "rich.console",
    "pydantic",
    "jinja2",
    "hypothesis",
    "matplotlib.pyplot",
    "torch",
    "onnx",
    "onnxruntime",
    "skimage.segmentation",
    "cv2",
    "lifelines",
    "fastapi.testclient",
    "sqlalchemy.orm",
    "lightning_fabric",
    "timm",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutants", help="where the copy and results lie")
    parser.add_argument("--only", choices=PACKAGES, action="append", help="run the mutants of this package alone")
    parser.add_argument("--most", type=int, help="stop after this many")
    parser.add_argument("--survivors", action="store_true", help="try those again that survived, with today's tests")
    parser.add_argument("--page", action="store_true", help="write the page from what has been run, and run nothing")
    parser.add_argument("--commit", help="the code that the faults are put into; default: HEAD")
    options = parser.parse_args()
    commit = short(options.commit or "HEAD")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tree = copy_of(commit, work)
    with use_db(work / f"{commit}-{options.count}-{options.seed}.sqlite") as database, chdir(tree):
        if not database.num_work_items:
            draw(database, count=options.count, rng=random.Random(options.seed))
        if not options.page:
            for library in LIBRARIES:
                with suppress(ImportError):
                    importlib.import_module(library)
            items = survivors_of(database) if options.survivors else list(database.pending_work_items)
            wanted = [item for item in items if package_of(item.mutations[0].module_path) in (options.only or PACKAGES)]
            changed = copy_tests(tree) if options.survivors else []
            run(database, wanted[: options.most], Tests(tree, changed))
        table = page_of(database, count=options.count, seed=options.seed)
    PAGE.write_text(table, encoding="utf-8")
    print(table)


def short(commit: str) -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", commit], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def copy_of(commit: str, work: Path) -> Path:
    """Return a folder with the committed files, fresh, so that an interrupted mutation is gone."""
    tree = work / commit
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tree, filter="data")
    # Compiled files are told by the text they come from: by its time, a fault written within a second would be missed.
    compileall.compile_dir(tree / "src", quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return tree


def package_of(module: Path) -> str:
    inside = module.relative_to("src/leukoscope").as_posix()
    return next(name for name in PACKAGES if inside == name or inside.startswith(f"{name}/"))


def draw(database: WorkDB, *, count: int, rng: random.Random) -> None:
    """Keep `count` mutants: places are drawn first, so that an operator with many replacements counts once."""
    modules = [
        path
        for name in PACKAGES
        for path in (
            [Path("src/leukoscope", name)] if name.endswith(".py") else Path("src/leukoscope", name).rglob("*.py")
        )
    ]
    init(sorted(modules), database, {})
    places: dict[tuple[str, tuple[int, int]], list[WorkItem]] = defaultdict(list)
    for item in sorted(database.work_items, key=lambda item: _identity(item.mutations[0])):
        mutation = item.mutations[0]
        places[str(mutation.module_path), mutation.start_pos].append(item)
    chosen = rng.sample(list(places.values()), count)
    items = [rng.choice(at) for at in chosen]
    database.clear()
    database.add_work_items(items)


def _identity(mutation: MutationSpec) -> tuple[str, tuple[int, int], str, int]:
    return str(mutation.module_path), mutation.start_pos, mutation.operator_name, mutation.occurrence


def survivors_of(database: WorkDB) -> list[WorkItem]:
    return [item for item, result in database.completed_work_items if outcome_of(result) == "survived"]


def copy_tests(tree: Path) -> list[str]:
    """Copy today's tests over those of the commit; return the files that differ."""
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")]
    changed = [str(file) for file in files if not (tree / file).exists() or not cmp(ROOT / file, tree / file, False)]
    shutil.copytree(ROOT / "tests", tree / "tests", dirs_exist_ok=True)
    return changed


@dataclass
class Tests:
    """Tests run in forks of this process; which of them pass without a fault is found out once."""

    tree: Path
    changed: Sequence[str] = ()
    """Test files that differ from those of the commit: which lines they run is recorded by itself."""
    sound: set[str] = field(default_factory=set)
    unsound: set[str] = field(default_factory=set)
    lines: dict[str, list["TestedLines"]] = field(default_factory=dict)

    def against(self, mutation: MutationSpec) -> tuple[str | None, str]:
        """Return the test that fails with this fault, or None where none does; and the change as a diff."""
        operator = get_operator(mutation.operator_name)(**(mutation.operator_args or {}))
        records = self._lines_of(package_of(mutation.module_path))
        tests = list(dict.fromkeys(test for each in records for test in each.tests(mutation)))
        parts = [[str(mutation.module_path)], tests]  # a module by itself: its doctests
        while True:
            with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
                failed = next(filter(None, (self._first_failure(part) for part in parts if part)), None)
            if failed is None or self._is_sound(failed):
                return failed, changed_lines(before, after or before, mutation.module_path)

    def _lines_of(self, package: str) -> list["TestedLines"]:
        """Return which test runs which line of a package: recorded once, and kept beside the copy."""
        if package not in self.lines:
            name, tests = f"{self.tree.name}-{package.replace('/', '-')}", PACKAGES[package]
            changed = [file for file in self.changed if any(file == test or f"{test}/" in file for test in tests)]
            known, new = (self.tree.with_name(f"{name}{ending}.coverage") for ending in ("", "-changed"))
            if not known.with_suffix(".json").exists():
                self._record(package, tests, known)
            if changed:
                self._record(package, changed, new)
            self.lines[package] = [TestedLines(self.tree, path) for path in ([new] if changed else []) + [known]]
        return self.lines[package]

    def _record(self, package: str, tests: Sequence[str], path: Path) -> None:
        print(f"recording which tests of {package} run which line", flush=True)
        self._first_failure(tests, record=path)

    def _is_sound(self, test: str) -> bool:
        """Whether this test passes without the fault; one that does not is left out from now on."""
        if test not in self.sound | self.unsound:
            (self.unsound if self._first_failure([node_of(test)]) else self.sound).add(test)
            if test in self.unsound:
                print(f"left out, since it fails without a fault: {test}", flush=True)
        return test in self.sound

    def _first_failure(self, tests: Sequence[str], *, record: Path | None = None) -> str | None:
        """Return the name of the first of these tests that fails, or None. "(hung)" is added to one that hangs.

        record: all of them run, and the lines that each runs are written to this file.
        """
        reads, writes = os.pipe()
        process = os.fork()
        if not process:
            os.close(reads)
            _child(self.tree, tests, self.unsound, writes, record)
        os.close(writes)
        code = _waited(process)
        with os.fdopen(reads, encoding="utf-8") as told:
            lines = [json.loads(line) for line in told]
        if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return None
        failed = next((line["failed"] for line in lines if "failed" in line), None)
        started = next((line["started"] for line in reversed(lines) if "started" in line), None)
        return failed or (f"{started}{_HUNG}" if started else f"{tests[0]}{_NOT_COLLECTED}")


def node_of(test: str) -> str:
    """Return the name under which pytest knows a test; parameters may hold spaces."""
    return test.removesuffix(_HUNG).removesuffix(_NOT_COLLECTED)


class TestedLines:
    """Which test runs which line of a package, by coverage.py's contexts.

    What a fixture runs that tests share counts for all tests that ask for the fixture.
    """

    def __init__(self, tree: Path, path: Path) -> None:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.seconds: dict[str, float] = told["seconds"]
        self._fixtures: dict[str, list[str]] = told["fixtures"]
        self._tree = tree
        self._data = CoverageData(str(path))
        self._data.read()

    def tests(self, mutation: MutationSpec) -> list[str]:
        """Return the tests that run a mutation's lines, the shortest first."""
        contexts = self._data.contexts_by_lineno(str(self._tree / mutation.module_path))
        lines = range(mutation.start_pos[0], mutation.end_pos[0] + 1)
        found = {context for line in lines for context in contexts.get(line, [])}
        shared = {name.removeprefix(_FIXTURE) for name in found if name.startswith(_FIXTURE)}
        chosen = {test for test in self.seconds if test in found or shared & set(self._fixtures[test])}
        if "" in found and not chosen:  # it runs when the module is imported
            chosen = set(self.seconds)
        return sorted(chosen, key=lambda test: self.seconds[test])


def _waited(process: int) -> int:
    """Return the exit status of a child, ended by force when it takes too long by the clock."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _child(tree: Path, tests: Sequence[str], left_out: set[str], writes: int, record: Path | None) -> None:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.environ["PYTHONPATH"], os.environ["PYTHONDONTWRITEBYTECODE"] = str(tree / "src"), "1"
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(tree / "src"), str(tree)]
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_A_RUN, SECONDS_A_RUN))
    options = ["-q", "-p", "no:cacheprovider", *(f"--deselect={node_of(test)}" for test in left_out)]
    with os.fdopen(writes, "w", encoding="utf-8") as told:
        if record:
            code = pytest.main([*options, *tests], plugins=[_Recorder(tree, record)])
        else:
            code = pytest.main(["-x", *options, *tests], plugins=[_Told(told, tests)])
        told.flush()
    os._exit(int(code))


class _Recorder:
    """A plugin of pytest: records which test or shared fixture runs which line, and how long each test takes."""

    def __init__(self, tree: Path, path: Path) -> None:
        self.path, self.seconds, self.fixtures = path, defaultdict[str, float](float), dict[str, list[str]]()
        self.context = [""]
        self.coverage = Coverage(data_file=str(path), source=[str(tree / "src" / "leukoscope")], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        return (yield from self._within(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        shared = fixturedef.scope != "function"
        return (yield from self._within(f"{_FIXTURE}{fixturedef.argname}" if shared else self.context[-1]))

    def _within(self, context: str) -> Generator[None, object, object]:
        self.context.append(context)
        self.coverage.switch_context(context)
        try:
            return (yield)
        finally:
            self.context.pop()
            self.coverage.switch_context(self.context[-1])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        told = {"seconds": self.seconds, "fixtures": self.fixtures}
        self.path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


class _Told:
    """A plugin of pytest: reports which test starts and which fails, ends one that hangs, keeps the order asked for."""

    def __init__(self, told: Any, tests: Sequence[str]) -> None:
        self.told, self.place = told, {test: number for number, test in enumerate(tests)}
        self.failed = False
        signal.signal(signal.SIGPROF, lambda *_: os._exit(int(pytest.ExitCode.TESTS_FAILED)))

    def _tell(self, **what: str) -> None:
        self.told.write(json.dumps(what) + "\n")
        self.told.flush()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.place.get(item.nodeid, 0))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, SECONDS_A_TEST)
        self._tell(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = True
            self._tell(failed=report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        if not self.failed and time.process_time() > SECONDS_A_MUTANT:
            os._exit(int(pytest.ExitCode.OK))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(failed=report.nodeid)


def changed_lines(before: str, after: str, path: Path) -> str:
    return "\n".join(
        difflib.unified_diff(before.split("\n"), after.split("\n"), str(path), str(path), lineterm="", n=1)
    )


def run(database: WorkDB, items: Sequence[WorkItem], tests: Tests) -> None:
    """Test these mutants and store each result at once."""
    for number, item in enumerate(items, 1):
        mutation, begun = item.mutations[0], time.monotonic()
        failed, diff = tests.against(mutation)
        outcome = TestOutcome.SURVIVED if failed is None else TestOutcome.KILLED
        database.set_result(item.job_id, WorkResult(WorkerOutcome.NORMAL, failed, outcome, diff))
        took = time.monotonic() - begun
        print(f"{number}/{len(items)} {outcome} {place_of(mutation)} by {failed} ({took:.0f} s)", flush=True)


def outcome_of(result: WorkResult) -> str:
    return "survived" if result.test_outcome == TestOutcome.SURVIVED else "killed"


def place_of(mutation: MutationSpec) -> str:
    return f"{mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name.removeprefix('core/')}"


def page_of(database: WorkDB, *, count: int, seed: int) -> str:
    """Return the page: mutants and kills per package, and every survivor with its change and what is said of it."""
    done = sorted(database.completed_work_items, key=lambda pair: _identity(pair[0].mutations[0]))
    by_package: dict[str, list[str]] = defaultdict(list)
    for item, result in done:
        by_package[package_of(item.mutations[0].module_path)].append(outcome_of(result))
    rows = [
        f"| `{name}` | {len(found)} | {found.count('killed')} | {found.count('killed') / len(found):.0%} |"
        for name, found in by_package.items()
    ]
    killed = sum(found.count("killed") for found in by_package.values())
    remarks = tomllib.loads(REMARKS.read_text(encoding="utf-8")) if REMARKS.exists() else {}
    survivors = [
        f"### `{place_of(item.mutations[0])}`\n\n{remarks.get(place_of(item.mutations[0]), '')}\n\n"
        f"```diff\n{(result.diff or '').strip()}\n```\n"
        for item, result in done
        if outcome_of(result) == "survived"
    ]
    return "\n".join(
        [
            "# Mutation testing",
            "",
            "How many small faults, put into the code one at a time, make a test of the same package fail. Written by",
            f"`make mutants`: {len(done)} of the {count} mutants drawn with seed {seed} have been run. Mutants that",
            "change nothing count as survivors; the reason is given below.",
            "",
            "| package | mutants | killed | share |",
            "|---|---|---|---|",
            *rows,
            f"| all | {len(done)} | {killed} | {killed / max(len(done), 1):.0%} |",
            "",
            "## Survivors",
            "",
            *survivors,
        ]
    )


if __name__ == "__main__":
    main()
