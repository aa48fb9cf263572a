"""`embed` and `predict` on Ray: this process lists the images, and what comes of them comes in order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from imgclust.embedding.embed import Outcomes, Stored, Target
from imgclust.embedding.store import shard_batches
from imgclust.embedding.stream import EmbedOutcome
from imgclust.engines import ray_data
from imgclust.engines.batches import in_batches, outcomes_of, to_be_written
from imgclust.engines.parts import PART_ROWS, Parts, digest_of
from imgclust.engines.ray_data import BLOCK_ROWS, Workers
from imgclust.engines.steps import EmbedOptions
from imgclust.images.sources import Item, items
from imgclust.model.freeze import library_versions
from imgclust.model.model import ClusterModel
from imgclust.tagging.files import schema

BATCH_ROWS = 10_000
SHARD_ROWS = 4096  # images that an actor writes at once, at most: what a killed run does again
MOST_ROWS = 1_000_000  # that are given to Ray at once: 0.9 kB of memory each
BLOCKS = 4  # for each actor, at least, so that none waits long for the others


def outcomes_on_ray(
    options: EmbedOptions, workers: Workers, *, part_rows: int | None = None, block_rows: int = SHARD_ROWS
) -> Outcomes:
    """What `imgclust.embedding.embed.embed` takes to have images read, encoded and written by Ray's actors.

    This process gives out the images, adopts the shards that come of them, and writes only those whose ids
    their contents decide.

    Args:
        part_rows: images that are given to Ray at once; None: enough for all workers, at most a million.
        block_rows: images of one task and one shard, at most.
    """
    several = BLOCKS * workers.count
    part_rows = part_rows or min(MOST_ROWS, max(PART_ROWS, several * block_rows))

    def outcomes(found: Iterable[Item], target: Target) -> Generator[list[EmbedOutcome | Stored]]:
        writing = partial(
            ray_data.write_dataset, options=options, folder=target.folder, columns=target.columns,
            workers=workers,
        )  # fmt: skip
        rest = iter(found)
        while part := list(itertools.islice(rest, part_rows)):
            rows = min(block_rows, max(options.batch, -(-len(part) // several)))
            batch = to_be_written(part, map(target.is_contested, part))
            given = iter(part)
            for report in ray_data.run([batch], writing, rows=rows):
                for shard in report.column("shard").unique().drop_null().to_pylist():
                    target.adopt(shard)
                yield outcomes_of(report, list(itertools.islice(given, len(report))))

    return outcomes


def predict_on_ray(
    model: ClusterModel,
    inputs: Iterable[str],
    folder: Path,
    options: EmbedOptions | None,
    workers: Workers,
    *,
    skipped: Counter[str],
    part_rows: int = PART_ROWS,
    block_rows: int = BLOCK_ROWS,
    batch_rows: int = BATCH_ROWS,
    advance: Callable[[int], None] = lambda rows: None,
) -> Parts:
    """Predict images or embeddings folders into a folder of parts; begun before, it goes on part by part.

    Args:
        inputs: embeddings folders where `options` is None, else what `imgclust.images.sources.items` takes.
        skipped: counts by reason what folders hold beside pictures.
        part_rows: rows of a part, at most; a batch is not divided.
        block_rows: rows of one of Ray's tasks.
        batch_rows: rows that are listed, or read from an embeddings folder, at once.
        advance: called with numbers of rows as they come.

    Returns:
        The parts, for their counts.
    """
    predicting = partial(ray_data.predict_dataset, model=model, workers=workers)
    steps = [predicting]
    if options is None:
        found = _stored(model, inputs, batch_rows)
    else:
        model.check_encoder(options.identity)
        found = in_batches(items(inputs, skipped), batch_rows)
        steps = [partial(ray_data.embed_dataset, options=options, workers=workers), predicting]
    made_by = {"model": model.version, "taxonomy": model.taxonomy}
    with Parts(folder, made_by) as parts:
        for part in ray_data.parts_of(found, part_rows):
            digest = digest_of(part)
            if parts.is_done(digest):
                advance(sum(len(batch) for batch in part))
                continue
            for rows in parts.write(digest, ray_data.run(part, *steps, rows=block_rows), schema()):
                advance(rows)
        parts.finish(library_versions())
    return parts


def _stored(model: ClusterModel, folders: Iterable[str], rows: int) -> Iterator[pa.RecordBatch]:
    for folder in folders:
        for batch, identity in shard_batches(Path(folder), rows):
            model.check_encoder(identity)
            yield batch
