"""How fast embeddings are tagged again, beside the predictors alone.

    KAFKA_HOME=… python -m benchmarks.retag --setting synthetic-150k --processes 2

So many processes, of one thread each, predict the same embeddings in batches of 1024: from memory, and as
members of a `retag` on a broker of the same machine (read, parsed, predicted, written in transactions). Runs
take turns; prints a JSON line each, then the medians and the ratio. The rate of predictors is the sum of
their own; that of `retag` is taken from its tags' times, from the end of the first batches to the last tag.
Processor time is that of the processes, and of the broker beside them. The model is that of
`benchmarks/predict.py`, fitted once and cached.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.common import FITTED
from benchmarks.settings import SETTINGS, frozen
from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity, Preprocessing
from worker.commands.retag import Clients
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
    held_out = SETTINGS[arguments.setting].data().held_out
    vectors = np.resize(held_out, (arguments.images, held_out.shape[1])).astype(np.float16).astype(np.float32)
    home = Path(os.environ["KAFKA_HOME"])
    with JavaKafka(home, options=TOGETHER) as kafka, tempfile.TemporaryDirectory() as t:
        kafka.create_topics(["embeddings"], PARTITIONS)
        _fill(kafka.bootstrap, vectors)
        np.save(Path(t) / "vectors.npy", vectors[: arguments.images // arguments.processes])
        model = arguments.cache / f"model-{arguments.setting}"
        lines = measure(kafka, arguments.processes, arguments.runs, arguments.images, model, Path(t))
    rate = {what: float(np.median([x["images_per_s"] for x in lines if x["what"] == what])) for what in WHATS}
    ratio = round(rate["retag"] / rate["predict"], 3)
    print(
        json.dumps({"setting": arguments.setting, "processes": arguments.processes, "ratio": ratio, **rate})
    )


def measure(
    kafka: JavaKafka, processes: int, runs: int, images: int, model: Path, folder: Path
) -> list[dict[str, Any]]:
    """A line for each run of predictors and members; they begin at one moment, when all are ready."""
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(processes + 1), spawn.Queue()
    given = (barrier, answers, model, folder / "vectors.npy", kafka.bootstrap, runs)
    started = [spawn.Process(target=work, args=given) for _ in range(processes)]
    for process in started:
        process.start()
    lines = []
    for run in range(runs):
        for what in WHATS:
            barrier.wait()
            before = _broker_seconds(kafka)
            found = [answers.get() for _ in started]
            broker = _broker_seconds(kafka) - before
            alone = sum(rate for rate, _ in found)
            rate = alone if what == "predict" else rate_of(kafka.bootstrap, f"again-{run}", processes)
            cpu = sum(seconds for _, seconds in found)
            lines.append(
                {"what": what, "run": run, "images_per_s": round(rate, 1),
                 "cpu_ms": round(1000 * cpu / images, 4), "broker_cpu_ms": round(1000 * broker / images, 4)}
            )  # fmt: skip
            print(json.dumps(lines[-1]), flush=True)
    for process in started:
        process.join()
    return lines


def work(barrier: Barrier, answers: Any, model: Path, vectors: Path, bootstrap: str, runs: int) -> None:
    """Predict alone and as a member, in turns; answers are (images per second, seconds of processors)."""
    loaded, rows = ClusterModel.load(model), np.load(vectors)
    settings = load({"WORKER_BOOTSTRAP_SERVERS": bootstrap, "WORKER_EMBEDDINGS_TOPIC": "embeddings"})
    loaded.predict(rows[:BATCH], batch=BATCH)  # warm
    for run in range(runs):
        barrier.wait()
        wall, cpu = time.perf_counter(), time.process_time()
        loaded.predict(rows, batch=BATCH)
        answers.put((len(rows) / (time.perf_counter() - wall), time.process_time() - cpu))
        barrier.wait()
        cpu = time.process_time()
        with Clients(settings, "embeddings", f"again-{run}") as clients:
            member = clients.member(clients.join(loaded), loaded, lambda _: None)
            while not member.finished:
                member.run_once()
            member.stop()
        answers.put((0.0, time.process_time() - cpu))


def _broker_seconds(kafka: JavaKafka) -> float:
    """Processor time so far."""
    assert kafka.process is not None
    fields = Path(f"/proc/{kafka.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fill(bootstrap: str, vectors: np.ndarray) -> None:
    encoder = EncoderIdentity("made-up", "none", "0" * 64, Preprocessing(8, 8), "float32", vectors.shape[1])
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    writer = EmbeddingWriter(encoder, keep_url=True)
    for n, vector in enumerate(halves(vectors)):
        upload = Upload(f"upload-{n}", f"https://cdn.example/{n}.jpg", 1_795_000_000_000 + n)
        producer.produce("embeddings", writer.value(upload, vector), f"upload-{n}".encode(), n % PARTITIONS)
        producer.poll(0)
    assert producer.flush(60) == 0


def rate_of(bootstrap: str, to: str, processes: int) -> float:
    """Tags in a second, by their times; the first batch of each process has none before it."""
    with Scanner({"bootstrap.servers": bootstrap}) as scanner:
        times = sorted(entry.timestamp for entry in scanner.read(to, dict.fromkeys(range(PARTITIONS), 0)))
    counted = times[processes * BATCH - 1 :]
    return 1000 * (len(counted) - 1) / (counted[-1] - counted[0])


if __name__ == "__main__":
    main()
