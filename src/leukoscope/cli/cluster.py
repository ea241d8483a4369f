"""leukoscope predict --engine ray: millions of cells, over the workers of a cluster, into Parquet."""

from collections.abc import Sequence
from pathlib import Path

import click


def predict_on_cluster(
    images: Sequence[str], output: str | None, *, model: Path | None, point: str, workers: int | None, processors: int
) -> None:
    """Answer all images, or those that a call before left, and print the counts.

    Raises:
        CallError: there is no output folder, or it holds another prediction.
        MissingExtraError: Ray is not installed.
    """
    from ..errors import CallError, ImageError, require
    from ..progress import track
    from .terminal import many

    require("ray", feature="--engine ray", extra="cluster")
    if output is None:
        raise CallError("--engine ray writes a folder of Parquet files. Name it with -o, such as -o answers.")
    from ..inference.bundle import open_bundle
    from ..inference.ray_engine import answer_on_ray
    from ..inference.shards import Counts, finished, make_plan, summarise

    bundle = open_bundle(model)
    plan = make_plan(images, output, bundle, point=point)
    done = finished(plan)
    shards = plan.shards()
    left = [shard for shard in shards if shard.number not in done]
    if done:
        click.echo(f"Going on: {len(done):,} of {many(len(shards), 'shard')} done.", err=True)
    counts = sum(done.values(), Counts())
    answered = answer_on_ray(plan, left, workers=workers, processors=processors) if left else iter(())
    for each in track(answered, f"Answering {many(plan.images, 'cell')}", total=len(left)):
        counts += each
    summarise(plan, counts)
    decided = ", ".join(f"{number:,} {name}" for name, number in sorted(counts.decisions.items()))
    click.echo(f"{many(counts.images, 'cell')}: {decided} ({counts.unreadable:,} cannot be used as images)")
    click.echo(f"Wrote {plan.out}/cells")
    if counts.unreadable:
        raise SystemExit(ImageError.exit_status)
