"""Mutation testing: how many of a fixed sample of small faults in the code are found by the tests of their package.

    python benchmarks/mutants.py --count 200 --seed 0

The code at HEAD is copied to build/mutants and changed there, one fault at a time, by cosmic-ray. Every result is
stored at once, so the same command continues after a stop. A fault that changes nothing that can be seen counts as a
survivor; `docs/benchmarks/mutants.md` lists all survivors.
"""

import argparse
import io
import os
import random
import subprocess
import sys
import tarfile
from collections import defaultdict
from contextlib import chdir
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkItem, WorkResult

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "mutants.md"
TIMEOUT_S = 900.0
# Package or module of src/leukoscope -> the tests that have to find a fault in it.
PACKAGES = {
    "evaluation": "tests/evaluation",
    "inference": "tests/inference",
    "data/split.py": "tests/data/test_split.py",
    "survival": "tests/survival",
    "server/security.py": "tests/server",
    "server/queue.py": "tests/server",
    "adapt.py": "tests/test_adapt.py",
    "training/loop.py": "tests/training",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "mutants", help="where the copy and results lie")
    parser.add_argument("--only", choices=PACKAGES, action="append", help="run the mutants of this package alone")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tree = copy_of_head(work)
    os.environ["PYTHONPATH"] = str(tree / "src")  # before whatever is installed
    with use_db(work / f"{head()}-{options.count}-{options.seed}.sqlite") as database, chdir(tree):
        if not database.num_work_items:
            draw(database, count=options.count, rng=random.Random(options.seed))
        run(database, packages=options.only or list(PACKAGES))
        table = page_of(database, count=options.count, seed=options.seed)
    PAGE.write_text(table, encoding="utf-8")
    print(table)


def head() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def copy_of_head(work: Path) -> Path:
    """Return a folder with the committed files, fresh, so that an interrupted mutation is gone."""
    tree = work / head()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tree, filter="data")
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


def run(database: WorkDB, *, packages: list[str]) -> None:
    """Test what has no result yet; a package whose tests fail without any mutation stops the run."""
    pending: dict[str, list[WorkItem]] = defaultdict(list)
    for item in sorted(database.pending_work_items, key=lambda item: _identity(item.mutations[0])):
        pending[package_of(item.mutations[0].module_path)].append(item)
    for name in packages:
        command = f"{sys.executable} -m pytest -x -q -n 0 -p no:cacheprovider {PACKAGES[name]}"
        if pending[name] and subprocess.run(command.split(), stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(f"{PACKAGES[name]} fails without any mutation. Mend the tests first.")
        for number, item in enumerate(pending[name], 1):
            mutation = item.mutations[0]
            result = mutate_and_test(item.mutations, command, TIMEOUT_S)
            database.set_result(item.job_id, result)
            print(f"{name} {number}/{len(pending[name])} {outcome_of(result)} {place_of(mutation)}", flush=True)


def outcome_of(result: WorkResult) -> str:
    return "survived" if result.test_outcome == TestOutcome.SURVIVED else "killed"


def place_of(mutation: MutationSpec) -> str:
    return f"{mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name.removeprefix('core/')}"


def page_of(database: WorkDB, *, count: int, seed: int) -> str:
    """Return the page: mutants and kills per package, and every survivor with its change."""
    done = sorted(database.completed_work_items, key=lambda pair: _identity(pair[0].mutations[0]))
    by_package: dict[str, list[str]] = defaultdict(list)
    for item, result in done:
        by_package[package_of(item.mutations[0].module_path)].append(outcome_of(result))
    rows = [
        f"| `{name}` | {len(found)} | {found.count('killed')} | {found.count('killed') / len(found):.0%} |"
        for name, found in by_package.items()
    ]
    killed = sum(found.count("killed") for found in by_package.values())
    survivors = [
        f"### `{place_of(item.mutations[0])}`\n\n```diff\n{(result.diff or '').strip()}\n```"
        for item, result in done
        if outcome_of(result) == "survived"
    ]
    return "\n".join(
        [
            "# Mutation testing",
            "",
            "How many small faults, put into the code one at a time, make a test of the same package fail. Written by",
            f"`make mutants`: {len(done)} of the {count} mutants drawn with seed {seed} have been run.",
            "",
            "| package | mutants | killed | share |",
            "|---|---|---|---|",
            *rows,
            f"| all | {len(done)} | {killed} | {killed / max(len(done), 1):.0%} |",
            "",
            "## Survivors",
            "",
            *survivors,
            "",
        ]
    )


if __name__ == "__main__":
    main()
