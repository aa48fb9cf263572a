"""How fast embeddings are tagged again, beside the predictors alone.

    KAFKA_HOME=… python -m benchmarks.retag --setting synthetic-150k --processes 2

So many processes, of one thread each, predict the same embeddings in batches of 1024: from memory, and as
members of a `retag` on a broker of the same machine (read, parsed, predicted, written in transactions). Runs
take turns; prints a JSON line each, then the medians and the ratio. The rate of predictors is the sum of
their own; that of `retag` is taken from its tags' times, from the end of the first batches to the last tag.
The model is that of `benchmarks/predict.py`, fitted once and cached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.common import FITTED
from benchmarks.settings import SETTINGS, frozen
from imgclust.types import EncoderIdentity, Preprocessing
from worker.commands.retag import retag
from worker.demo.backends import JavaKafka
from worker.kafka.scanner import Scanner
from worker.messages.embedding import EmbeddingWriter, halves
from worker.messages.upload import Upload
from worker.retagging.member import BATCH
from worker.settings.load import load

PARTITIONS = 4
TOGETHER = {"group.initial.rebalance.delay.ms": "3000"}  # members that come at once share from the start
WHATS = ("predict", "retag")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--cache", type=Path, default=FITTED)
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="synthetic-150k")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--images", type=int, default=32_768)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # of the processes to come
    frozen(arguments.setting, arguments.cache)
    model = arguments.cache / f"model-{arguments.setting}"
    lines = []
    with JavaKafka(Path(os.environ["KAFKA_HOME"]), options=TOGETHER) as kafka:
        kafka.create_topics(["embeddings"], PARTITIONS)
        _fill(kafka.bootstrap, _vectors(arguments.setting, arguments.images))
        for run in range(arguments.runs):
            of_one = arguments.images // arguments.processes
            alone = each(arguments.processes, predicted, model, arguments.setting, of_one)
            to = f"again-{run}"
            each(arguments.processes, retagged, model, kafka.bootstrap, to)
            for what, rate in zip(
                WHATS, (sum(alone), rate_of(kafka.bootstrap, to, arguments.processes)), strict=True
            ):
                lines.append({"what": what, "run": run, "images_per_s": round(rate, 1)})
                print(json.dumps(lines[-1]), flush=True)
    rate = {what: float(np.median([x["images_per_s"] for x in lines if x["what"] == what])) for what in WHATS}
    ratio = round(rate["retag"] / rate["predict"], 3)
    told = {"setting": arguments.setting, "processes": arguments.processes, "ratio": ratio, **rate}
    print(json.dumps(told))


def _vectors(setting: str, count: int) -> np.ndarray:
    held_out = SETTINGS[setting].data().held_out
    return np.resize(held_out, (count, held_out.shape[1])).astype(np.float16).astype(np.float32)


def _fill(bootstrap: str, vectors: np.ndarray) -> None:
    encoder = EncoderIdentity("made-up", "none", "0" * 64, Preprocessing(8, 8), "float32", vectors.shape[1])
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    writer = EmbeddingWriter(encoder, keep_url=True)
    for n, vector in enumerate(halves(vectors)):
        upload = Upload(f"upload-{n}", f"https://cdn.example/{n}.jpg", 1_795_000_000_000 + n)
        producer.produce("embeddings", writer.value(upload, vector), f"upload-{n}".encode(), n % PARTITIONS)
        producer.poll(0)
    assert producer.flush(60) == 0


def each(count: int, work: Callable[..., None], *arguments: Any) -> list[float]:
    """What so many processes answer that begin at one moment, when all are ready."""
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(count), spawn.Queue()
    processes = [spawn.Process(target=work, args=(barrier, answers, *arguments)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _loaded(model: Path) -> Any:
    from imgclust.model.model import ClusterModel

    loaded = ClusterModel.load(model)
    loaded.predict(loaded.arrays["embeddings"][:BATCH].astype(np.float32), batch=BATCH)  # warm
    return loaded


def predicted(barrier: Barrier, answers: Any, model: Path, setting: str, count: int) -> None:
    loaded, vectors = _loaded(model), _vectors(setting, count)
    barrier.wait()
    began = time.perf_counter()
    loaded.predict(vectors, batch=BATCH)
    answers.put(count / (time.perf_counter() - began))


def retagged(barrier: Barrier, answers: Any, model: Path, bootstrap: str, to: str) -> None:
    _loaded(model)  # its file is in memory, the code is loaded
    settings = load({"WORKER_BOOTSTRAP_SERVERS": bootstrap, "WORKER_EMBEDDINGS_TOPIC": "embeddings"})
    barrier.wait()
    with contextlib.redirect_stdout(None):
        retag(settings, to, model=model, quiet=True)
    answers.put(0.0)


def rate_of(bootstrap: str, to: str, processes: int) -> float:
    """Tags in a second, by their times; the first batch of each process has none before it."""
    with Scanner({"bootstrap.servers": bootstrap}) as scanner:
        times = sorted(entry.timestamp for entry in scanner.read(to, dict.fromkeys(range(PARTITIONS), 0)))
    counted = times[processes * BATCH - 1 :]
    return 1000 * (len(counted) - 1) / (counted[-1] - counted[0])


if __name__ == "__main__":
    main()
