"""What tagging again costs: `imgclust-worker retag` beside the predictor alone, on a real broker.

    KAFKA_HOME=… python -m benchmarks.retag [--cache DIR] [--setting NAME] [--images N]

The same embeddings are predicted in batches of 1024 from memory, and tagged again from the embeddings topic
into another one: read, parsed, predicted, written in transactions. Runs take turns; prints a JSON line each,
then their medians and the ratio. The model is that of `benchmarks/predict.py`, fitted once and cached.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from benchmarks.common import FITTED
from benchmarks.settings import SETTINGS, frozen
from imgclust.types import EncoderIdentity, Preprocessing
from worker.commands.retag import BATCH, retag
from worker.demo.backends import JavaKafka
from worker.messages.embedding import EmbeddingWriter, halves
from worker.messages.upload import Upload
from worker.settings.load import load

PARTITIONS = 4


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--cache", type=Path, default=FITTED)
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="synthetic-150k")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    model = frozen(arguments.setting, arguments.cache)
    held_out = SETTINGS[arguments.setting].data().held_out
    vectors = np.resize(held_out, (arguments.images, held_out.shape[1])).astype(np.float16).astype(np.float32)
    encoder = EncoderIdentity("made-up", "none", "0" * 64, Preprocessing(8, 8), "float32", vectors.shape[1])
    home = Path(os.environ["KAFKA_HOME"])
    lines = []
    with JavaKafka(home) as kafka, tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        kafka.create_topics(["embeddings"], PARTITIONS)
        producer = Producer(
            {"bootstrap.servers": kafka.bootstrap, "linger.ms": 20, "compression.type": "lz4"}
        )
        writer = EmbeddingWriter(encoder, keep_url=True)
        for n, vector in enumerate(halves(vectors)):
            upload = Upload(f"upload-{n}", f"https://cdn.example/{n}.jpg", 1_795_000_000_000 + n)
            value = writer.value(upload, vector)
            producer.produce("embeddings", value, f"upload-{n}".encode(), n % PARTITIONS)
            producer.poll(0)
        assert producer.flush(60) == 0
        model.predict(vectors[:BATCH], batch=BATCH)  # warm
        for run in range(arguments.runs):
            lines += [alone(model, vectors, run), again(kafka.bootstrap, Path(folder) / "model", run)]
            for line in lines[-2:]:
                print(json.dumps(line), flush=True)
    rate = {what: float(np.median([x["images_per_s"] for x in lines if x["what"] == what])) for what in WHATS}
    print(
        json.dumps({"setting": arguments.setting, "ratio": round(rate["retag"] / rate["predict"], 3), **rate})
    )


WHATS = ("predict", "retag")


def alone(model: object, vectors: np.ndarray, run: int) -> dict[str, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    model.predict(vectors, batch=BATCH)  # type: ignore[attr-defined]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"what": "predict", "run": run, "images_per_s": round(len(vectors) / wall, 1),
            "cpu_ms": round(1000 * cpu / len(vectors), 4)}  # fmt: skip


def again(bootstrap: str, model: Path, run: int) -> dict[str, object]:
    """The rate that the command itself tells, which leaves out loading the model."""
    settings = load({"WORKER_BOOTSTRAP_SERVERS": bootstrap, "WORKER_EMBEDDINGS_TOPIC": "embeddings"})
    told = io.StringIO()
    cpu = time.process_time()
    with contextlib.redirect_stdout(told):
        retag(settings, f"again-{run}", model=model, quiet=True)
    cpu = time.process_time() - cpu
    images = int(told.getvalue().split(" tags", 1)[0].replace(",", ""))
    rate = float(told.getvalue().split("; ", 1)[1].split("/s", 1)[0].replace(",", ""))
    return {"what": "retag", "run": run, "images_per_s": rate, "cpu_ms": round(1000 * cpu / images, 4)}


if __name__ == "__main__":
    main()
