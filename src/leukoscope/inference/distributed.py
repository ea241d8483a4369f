"""The shards of a prediction over the workers of a Ray cluster, by Ray Data.

Each worker keeps one predictor and fetches, answers and writes whole shards; what travels through Ray is a row of
counts per shard, so the store of objects stays empty and a worker holds only the few images that it looks at. Ray Data
hands a worker its next shard when it is done with the last, starts a worker that died again, and gives its shards to
another.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import DataError, UsageError, require
from .shards import Counts, Plan, Shard, answer_shard, load_planned

_STORE_BYTES = 128 * 1024**2  # of shared memory, where Ray is started here
_MOST_BLOCKS = 10_000  # units in which Ray Data hands out shards


class Answering:
    """One worker: a predictor that answers shards, with as many threads as it has processors."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self._plan, self._threads = plan, threads
        self._predictor = load_planned(plan)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the shards of a batch."""
        shards = [
            Shard(int(number), str(table), int(start), int(stop))
            for number, table, start, stop in zip(
                batch["number"], batch["table"], batch["start"], batch["stop"], strict=True
            )
        ]
        counts = [answer_shard(self._plan, shard, self._predictor, threads=self._threads) for shard in shards]
        return {"counts": [json.dumps(asdict(each)) for each in counts]}


def answer_on_ray(
    plan: Plan, shards: Sequence[Shard], *, workers: int | None = None, cpus_per_worker: int = 1
) -> Iterator[Counts]:
    """Answer shards on a Ray cluster; yield the counts of each as it is done, in any order.

    The cluster is the one that the variable RAY_ADDRESS names, else one that is started here, for this call.

    workers: how many; None: as many as the cluster has processors for. cpus_per_worker: cores of each.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster has fewer processors than one worker needs.
        DataError: a worker cannot go on; what is finished is kept.
    """
    ray = require("ray.data", feature="--engine ray", extra="cluster") and require("ray", feature="", extra="cluster")
    _connect(ray)
    try:
        workers = _workers(int(ray.cluster_resources().get("CPU", 0)), asked=workers, cpus_per_worker=cpus_per_worker)
        for row in _answered(ray, plan, shards, workers=workers, cpus_per_worker=cpus_per_worker).iter_rows():
            yield Counts(**json.loads(row["counts"]))
    except ray.exceptions.RayError as failed:
        raise DataError(
            f"A worker could not go on ({_cause_of(failed)}). Finished shards are kept in {plan.out}: run the same "
            "command again."
        ) from None
    finally:
        ray.shutdown()


def _answered(ray: Any, plan: Plan, shards: Sequence[Shard], *, workers: int, cpus_per_worker: int) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images
    context.print_on_execution_start = False
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS))
    return rows.map_batches(
        Answering,
        fn_constructor_args=(plan, cpus_per_worker),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
        num_cpus=cpus_per_worker,
    )


def _cause_of(failed: Exception) -> str:
    """Return the line of a worker's traceback that names the error; Ray writes advice behind it."""
    lines = re.findall(r"^[\w.]+(?:Error|Exception|Refused)\b.*", str(failed), flags=re.MULTILINE)
    return lines[-1] if lines else type(failed).__name__


def _connect(ray: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every use
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its own warnings; ours name what fails
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            address="local",
            **quiet,
        )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # our own errors say what fails


def _workers(available: int, *, asked: int | None, cpus_per_worker: int) -> int:
    possible = available // cpus_per_worker
    if possible < 1 or (asked or 1) > possible:
        raise UsageError(
            f"The cluster has {available} processors, room for {possible} workers of {cpus_per_worker}. Ask for fewer "
            "workers, or for smaller ones."
        )
    return asked or possible
