"""What the process does that was started with `embed` or `predict --engine ray`: processor time of an image.

    python -m benchmarks.driver [--images 100000]

It lists the images of a CSV of URLs, gives them out, and takes in what actors report; actors are played by
prepared reports, whose cost is left out, and Ray's own part is not in it. Once the actors have written the
embeddings, once every embedding comes back and is written here, as it is where names are contested. Then that
folder is read, sent to actors that predict, and what they report is written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks.common import Figure, machine, table
from imgclust.embedding.embed import embed
from imgclust.engines import ray_data, runs
from imgclust.engines.batches import REPORTED
from imgclust.engines.ray_data import Workers
from imgclust.engines.steps import PREDICTED, EmbedOptions
from imgclust.types import EncoderIdentity, Preprocessing

DIM = 512
IDENTITY = EncoderIdentity("made up", "made up", "0" * 64, Preprocessing(224, 224), "float32", DIM)


class Encoder:
    """Of which only the identity is asked for."""

    identity = IDENTITY

    def encode(self, pixels: Any) -> Any:
        raise AssertionError("actors encode")


def report(rows: int, first: int, shard: str | None) -> pa.RecordBatch:
    vectors = np.random.default_rng(first).standard_normal((rows, DIM)).astype(np.float16)
    columns = {
        "shard": pa.array([shard] * rows, pa.string()),
        "sha256": [f"{i:064x}" for i in range(first, first + rows)],
        "code": [""] * rows, "message": [""] * rows,
        "embedding": pa.array([None] * rows if shard else list(vectors), REPORTED.field("embedding").type),
        "width": [640] * rows, "height": [480] * rows, "phash": list(range(first, first + rows)),
    }  # fmt: skip
    return pa.RecordBatch.from_pydict(columns, schema=REPORTED)


class Actors:
    """In the place of `imgclust.engines.ray_data.run`.

    Attributes:
        seconds: of a processor, that playing them took.
    """

    def __init__(self, folder: Path, *, written: bool) -> None:
        self._folder, self._written = folder, written
        self.seconds = 0.0

    def run(self, batches: Iterable[pa.RecordBatch], *_: object, rows: int) -> Generator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, len(batch), rows):
                began = time.process_time()
                shard = f".embeddings-{start}.part" if self._written else None
                if shard:
                    (self._folder / shard).touch()
                found = report(min(rows, len(batch) - start), start, shard)
                self.seconds += time.process_time() - began
                yield found


def embedding(images: Path, folder: Path, count: int, *, written: bool) -> float:
    """Milliseconds of a processor for each image."""
    actors = Actors(folder, written=written)
    with replaced(actors.run):
        outcomes = runs.outcomes_on_ray(EmbedOptions(IDENTITY), Workers(2))
        began = time.process_time()
        summary = embed([images], folder, Encoder(), progress=False, outcomes=outcomes)
        used = time.process_time() - began - actors.seconds
    assert summary.embedded == count
    return used / count * 1000


class Model:
    """Of which only names are asked for."""

    version = taxonomy = "made up"

    def check_encoder(self, identity: EncoderIdentity) -> None: ...


def predicted(rows: int) -> pa.RecordBatch:
    guess = {"cluster": 1, "name": "cluster 1", "score": 0.25}
    row = {
        "id": "12345678", "source": "https://images.example/012345678.jpg", "cluster": 1, "name": "cluster 1",
        "probability": 0.5, "novel": False, "candidates": [guess] * 3, "model": "made up",
        "taxonomy": "made up", "attributes": "{}", "similarity": 0.5, "assigned": False, "from_class": False,
        "group": None, "code": "", "message": "",
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row] * rows, schema=PREDICTED)


def predicting(folder: Path, count: int) -> float:
    """Milliseconds of a processor for each image."""
    made = predicted(ray_data.BLOCK_ROWS)

    def run(batches: Iterable[pa.RecordBatch], *_: object, rows: int) -> Generator[pa.RecordBatch]:
        for batch in batches:
            yield from (made.slice(0, len(batch) - start) for start in range(0, len(batch), rows))

    with tempfile.TemporaryDirectory() as out, replaced(run):
        began = time.process_time()
        parts = runs.predict_on_ray(
            cast(Any, Model()), [str(folder)], Path(out) / "tags", None, Workers(2), skipped=Counter()
        )
        used = time.process_time() - began
    assert parts.rows == count
    return used / count * 1000


def replaced(run: Callable[..., Any]) -> Any:
    return mock.patch.object(ray_data, "run", run)


def figures(count: int, turns: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.csv"
        rows = (f"{i},https://images.example/{i:09d}.jpg,{i % 7}\n" for i in range(count))
        images.write_text("id,url,category\n" + "".join(rows))
        for turn in range(turns):
            for written in (True, False):
                with tempfile.TemporaryDirectory() as out:
                    found = embedding(images, Path(out), count, written=written)
                    what = "embed, actors write" if written else "embed, embeddings come back"
                    yield Figure("driver", f"{what}, turn {turn + 1}", "ms/image", found)
                    if not written:
                        found = predicting(Path(out), count)
                        yield Figure("driver", f"predict, turn {turn + 1}", "ms/image", found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="images (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind (%(default)s)")
    arguments = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    lines: list[dict[str, Any]] = []
    for figure in figures(arguments.images, arguments.turns):
        print(figure.line(), flush=True)
        lines.append(json.loads(figure.line()))
    print(table(lines))


if __name__ == "__main__":
    main()
