"""The naive loop: one upload at a time through the same libraries, as one writes it on the first day.

    poll → fetch → Pillow → encode → UMAP.transform → approximate_predict → produce → flush → SET

It is spared what the worker does besides: limits, retries, dead letters, checks of what is fetched, metrics,
candidates, novelty, positions in Redis. Its UMAP and HDBSCAN are the libraries' own objects.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from imgclust.types import Encoder, Floats, Pixels, Preprocessing


def pixels_of(data: bytes, p: Preprocessing) -> Pixels:
    """Pillow alone: uint8 (1, size, size, 3)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = p.resize / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - p.size) // 2, (image.height - p.size) // 2
    return np.asarray(image.crop((left, top, left + p.size, top + p.size)))[None]


class Predicts:
    """`UMAP.transform` and `approximate_predict` on the objects that the model was frozen from."""

    def __init__(self, model: Any) -> None:
        from imgclust.predictor.reference import ReferencePredictor

        reference = ReferencePredictor(model.arrays, model.parameters)
        self._umap, self._hdbscan = reference.umap, reference.hdbscan

    def __call__(self, embedding: Floats) -> tuple[int, float]:
        """One row → cluster and probability."""
        import hdbscan

        point = self._umap.transform(embedding)
        labels, probabilities = hdbscan.approximate_predict(self._hdbscan, point)
        return int(labels[0]), float(probabilities[0])


def unpredicted(_: Floats) -> tuple[int, float]:
    """In place of `Predicts`: no prediction."""
    return -1, 0.0


@dataclasses.dataclass(slots=True)
class NaiveLoop:
    """The loop and what it talks to; `inside` is the processor time of encoder and predictor, in seconds."""

    bootstrap: str
    redis_url: str
    encoder: Encoder
    predict: Callable[[Floats], tuple[int, float]]
    inside: float = 0.0

    def run(self, uploads: str, tags: str, warm: int, count: int) -> tuple[float, float]:
        """Tag `warm` + `count` uploads of a topic, and measure the last `count`.

        Returns:
            Images per second, and milliseconds of a processor for each image outside encoder and predictor.
        """
        import redis
        from confluent_kafka import Consumer, Producer

        kafka = {"bootstrap.servers": self.bootstrap}
        consumer = Consumer({**kafka, "group.id": f"naive-{uploads}", "auto.offset.reset": "earliest"})
        consumer.subscribe([uploads])
        producer = Producer(kafka)
        store = redis.Redis.from_url(self.redis_url)
        done, started, used = 0, 0.0, 0.0
        try:
            while done < warm + count:
                message = consumer.poll(1.0)
                if message is None or message.error() is not None:
                    continue
                value = message.value()
                assert value is not None
                if done == warm:
                    started, used = time.monotonic(), time.process_time() - self.inside
                self._one(json.loads(value), producer, store, tags)
                done += 1
            outside = time.process_time() - self.inside - used
            return count / (time.monotonic() - started), 1000 * outside / count
        finally:
            consumer.close()

    def _one(self, upload: dict[str, Any], producer: Any, store: Any, tags: str) -> None:
        with urllib.request.urlopen(upload["url"], timeout=10) as response:
            data = response.read()
        pixels = pixels_of(data, self.encoder.identity.preprocessing)
        began = time.process_time()
        cluster, probability = self.predict(self.encoder.encode(pixels))
        self.inside += time.process_time() - began
        tag = json.dumps({"id": upload["id"], "cluster": cluster, "probability": probability})
        producer.produce(tags, tag, key=upload["id"])
        producer.flush()
        store.set(f"tag:{upload['id']}", tag)
