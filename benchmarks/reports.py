"""What `report`, `names`, `evaluate` and `compare` take where far more images were predicted than trained on.

    python -m benchmarks.reports [--rows 10000000] [--train 200000] [--data FOLDER]

Everything is made up: a model of clouds, the Parquet that `predict -o` writes, an embeddings folder of the
same images, labels of 20,000 of them. Each command runs in a process of its own; its time and its peak memory
are the figures. Embeddings have 64 numbers, so that ten million take 1.3 GB of disk. `compare` predicts every
image with both models, which takes minutes a million: it gets `--compare` images.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import Figure, machine, table
from benchmarks.made_up import made_up
from imgclust.embedding import store
from imgclust.model.drift import Reference
from imgclust.model.map_labels import map_rows
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Cluster
from imgclust.tagging import files
from imgclust.types import EncoderIdentity, Preprocessing

DIM, CLUSTERS, ON_MAP, LABELLED = 64, 100, 20_000, 20_000
SHARD = 10_000  # rows, as `embed` and `predict` write them
KINDS = ("food", "animals", "memes", "selfies", "cars", "anime")
IDENTITY = EncoderIdentity("made up", "made up", "0" * 64, Preprocessing(224, 224), "float32", DIM)


def name_of(row: int) -> str:
    return f"uploads/2026/{row % 365:03d}/{row:09d}.jpg"


def make_model(folder: Path, train: int) -> np.ndarray:
    """Write a model; returns float32 (SHARD, DIM), rows like its training rows."""
    centres = np.random.default_rng(1).standard_normal((CLUSTERS, DIM)).astype(np.float32)
    arrays, parameters, others = made_up(train, centres, SHARD, min_samples=100)
    parameters["umap"]["random_state"] = 0
    sizes = np.bincount(arrays["labels"], minlength=CLUSTERS).tolist()
    clusters = tuple(Cluster(i, f"cluster {i}", size, ()) for i, size in enumerate(sizes))
    shown = map_rows(min(ON_MAP, train), train, 0)
    on_map = pa.table(
        {
            "id": [name_of(row) for row in shown.tolist()],
            "x": arrays["points"][shown, 0],
            "y": arrays["points"][shown, 1],
            "cluster": arrays["labels"][shown],
        }
    )  # fmt: skip
    file = io.BytesIO()
    pq.write_table(on_map, file)
    model = ClusterModel(IDENTITY, parameters, clusters, {"images": train}, arrays, file.getvalue())
    reference = Reference.of(model.predict(others), range(CLUSTERS))
    assert reference is not None
    dataclasses.replace(model, reference=reference.to_dict()).save(folder)
    return others


def make_tags(path: Path, rows: int) -> None:
    """As `imgclust predict -o tags.parquet` writes them."""
    rng, columns = np.random.default_rng(2), files.schema()
    candidate = columns.field("candidates").type.value_type
    with pq.ParquetWriter(path, columns) as out:
        for start in range(0, rows, SHARD):
            numbers = range(start, min(rows, start + SHARD))
            n = len(numbers)
            likely = rng.integers(CLUSTERS, size=3 * n).astype(np.int32)
            scores = rng.random(3 * n, dtype=np.float32)
            structs = pa.StructArray.from_arrays(
                [pa.array(likely), pa.array([f"cluster {c}" for c in likely]), pa.array(scores)],
                fields=list(candidate),
            )
            made = {
                "id": [name_of(i) for i in numbers], "source": [f"/data/{name_of(i)}" for i in numbers],
                "cluster": likely[::3], "name": [f"cluster {c}" for c in likely[::3]],
                "probability": scores[::3], "novel": rng.random(n) < 0.02,
                "candidates": pa.ListArray.from_arrays(np.arange(0, 3 * n + 1, 3, dtype=np.int32), structs),
                "model": ["m"] * n, "taxonomy": [None] * n, "attributes": attributes_of(numbers),
                "similarity": pa.nulls(n), "assigned": [False] * n,
                "from_class": [False] * n, "group": pa.nulls(n, pa.int32()),
            }  # fmt: skip
            near = pa.array(0.5 + 0.5 * scores[1::3])
            made["similarity"] = near.cast(columns.field("similarity").type)
            out.write_table(pa.table({name: made[name] for name in columns.names}, schema=columns))


def attributes_of(numbers: range) -> list[str]:
    return [json.dumps({"category": KINDS[i % len(KINDS)], "album": i // 50}) for i in numbers]


def make_embeddings(folder: Path, rows: int, like: np.ndarray) -> None:
    folder.mkdir()
    columns, rng = store.schema(IDENTITY), np.random.default_rng(3)
    for shard, start in enumerate(range(0, rows, SHARD)):
        numbers = range(start, min(rows, start + SHARD))
        n = len(numbers)
        vectors = like[rng.permutation(len(like))[:n]].astype(np.float16)
        made = {
            "id": [name_of(i) for i in numbers], "source": [f"/data/{name_of(i)}" for i in numbers],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
            "width": np.full(n, 640, np.int32), "height": np.full(n, 427, np.int32),
            "sha256": [f"{i:064x}" for i in numbers], "attributes": attributes_of(numbers),
            "phash": rng.integers(2**63, size=n, dtype=np.uint64),
        }  # fmt: skip
        whole = pa.table({name: made[name] for name in columns.names}, schema=columns)
        pq.write_table(whole, folder / f"embeddings-{shard:06d}.parquet", compression="zstd")


def make_labels(path: Path, rows: int) -> None:
    step = max(1, rows // LABELLED)
    lines = [f"{name_of(i)},{KINDS[i % len(KINDS)]}\n" for i in range(0, rows, step)]
    path.write_text("id,label\n" + "".join(lines))


def make_all(data: Path, rows: int, train: int, compared: int, wanted: list[str]) -> None:
    """What the commands need; what is there already is kept."""
    if not (data / "rows.npy").exists():
        np.save(data / "rows.npy", make_model(data / "model", train))
    like = np.load(data / "rows.npy")
    makers: dict[str, Callable[[Path], None]] = {
        "tags.parquet": lambda path: make_tags(path, rows),
        "embeddings": lambda path: make_embeddings(path, rows, like),
        "few": lambda path: make_embeddings(path, compared, like),
        "labels.csv": lambda path: make_labels(path, rows),
    }
    for name, make in makers.items():
        path = data / name
        if not path.exists() and any(name in COMMANDS[command] for command in wanted):
            unfinished = data / f"unfinished {name}"
            make(unfinished)
            unfinished.rename(path)


COMMANDS = {
    "report --tags": ["report", "model", "-o", "report.html", "--tags", "tags.parquet"],
    "report --images": ["report", "model", "-o", "report.html", "--images", "embeddings"],
    "names --by attribute": [
        "names", "model", "-o", "named", "--by", "attribute", "--attribute", "category",
        "--images", "embeddings",
    ],
    "evaluate --on": [
        "evaluate", "model", "--labels", "labels.csv", "--on", "embeddings", "-o", "found.json",
    ],
    "compare --on": ["compare", "model", "model", "--on", "few", "-o", "changes.json"],
}  # fmt: skip


# A small process between, as a child's peak begins with what its parent held when it was made.
BETWEEN = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(status)
"""


def measured(command: list[str], data: Path) -> tuple[float, float, float]:
    """Seconds, those of a processor, and megabytes at the peak, of a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    imgclust = [sys.executable, "-m", "imgclust", *command]
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-S", "-c", BETWEEN, *imgclust], cwd=data, env=environment, check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    cpu, peak = map(float, found.stdout.split())
    return time.monotonic() - started, cpu, peak / 1024


def figures(data: Path, rows: int, compared: int, wanted: list[str]) -> Iterator[Figure]:
    for name in wanted:
        seconds, cpu, peak = measured(COMMANDS[name], data)
        images = compared if name.startswith("compare") else rows
        yield Figure("reports", f"{name}, {images:,} rows: time", "s", seconds)
        yield Figure("reports", f"{name}, {images:,} rows: processor time", "s", cpu)
        yield Figure("reports", f"{name}, {images:,} rows: peak memory", "MB", peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="predicted images (%(default)s)")
    parser.add_argument("--train", type=int, default=200_000, help="training images (%(default)s)")
    parser.add_argument(
        "--compare", type=int, default=50_000, help="images that `compare` gets (%(default)s)"
    )
    parser.add_argument("--data", type=Path, help="where it is made, and left; else in a temporary folder")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="COMMAND")
    arguments = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        data = arguments.data or Path(temporary)
        data.mkdir(parents=True, exist_ok=True)
        make_all(data, arguments.rows, arguments.train, arguments.compare, arguments.commands)
        for figure in figures(data, arguments.rows, arguments.compare, arguments.commands):
            print(figure.line(), flush=True)
            lines.append(json.loads(figure.line()))
    print(table(lines))


if __name__ == "__main__":
    main()
