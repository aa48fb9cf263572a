"""What a GPU does for a worker, stage by stage, and which stage is the limit; in less than eight minutes.

    python -m benchmarks.gpu                       on a machine with CUDA; nothing is downloaded
    python -m benchmarks.gpu --device fake --small on a processor: that it runs, and the same table

The encoder is open_clip's ViT-B/32 with random weights, on which speed does not depend; the model is made up,
with 150,000 training rows around what the encoder makes of some pictures. Measured are copies from slots of
shared memory, the encoder (float32, TF32, bf16; two batches; operation by operation and as a CUDA graph), the
predictor, both at once, and the worker's own threads from slots that are filled from memory: no Kafka, no
fetching, no decoding. Then: whether labels and bits are those of a processor, and memory.

Prints a JSON line for each figure, a table, and what the limit is. A fake device computes on the processor,
in the order of a GPU: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.bypass import MemoryPool
from benchmarks.common import Figure, machine, table
from benchmarks.fake_device import FakeDevice
from benchmarks.made_up import MIN_SAMPLES, MadeUpModel, made_up
from imgclust.embedding.cuda import Cuda
from imgclust.embedding.encode_stream import Device, EncodeStream
from imgclust.embedding.network import Network
from imgclust.embedding.streamed_encoder import StreamedEncoder
from imgclust.embedding.torch_encoder import TorchEncoder
from imgclust.errors import ModelError
from imgclust.predictor.device_check import check, probes
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import Floats, Pixels, Preprocessing
from worker.fetching.protocol import Job
from worker.fetching.shared_slots import SharedSlots
from worker.tagger.inference import Inference
from worker.tagger.prediction import InferenceOutcome, Ready
from worker.telemetry.metrics import Metrics

CLUSTERS = 33
CALLS = 8  # of a network for each wait
FED = 0.8  # share of the slowest stage that the worker reaches at least when that stage is its limit
MEANT = "bf16, graph"  # how a worker should run; precision, and how the network is launched
PRECISIONS = {"float32": ("float32", False), "TF32": ("float32", True), "bf16": ("bf16", False)}


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        tower: the arguments of open_clip's vision transformer.
        train, min_samples: of the model.
        compared: pictures that are encoded on the processor too.
        seconds: for each figure.
        fed: batches that the worker is given at a time.
    """

    tower: dict[str, int]
    batches: tuple[int, ...] = (64, 256)
    train: int = 150_000
    min_samples: int = MIN_SAMPLES
    compared: int = 64
    seconds: float = 2.0
    fed: int = 16


FULL = Plan({"image_size": 224, "patch_size": 32, "width": 768, "layers": 12, "heads": 12, "output_dim": 512})
SMALL = Plan(
    {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2, "output_dim": 16},
    (2, 4), 400, 20, 8, 0.0, 2,
)  # fmt: skip


class Bench:
    """A device, real or not, and what is run on it."""

    def __init__(self, name: str, plan: Plan) -> None:
        from open_clip.transformer import VisionTransformer

        self.plan, self.fake = plan, name == "fake"
        self.device = torch.device("cpu" if self.fake else name)
        self.predict_device = "torch-cpu" if self.fake else name
        torch.manual_seed(0)
        side = plan.tower["image_size"]
        nothing: Any = None
        self._network = Network(
            "ViT", "ViT", VisionTransformer(**plan.tower, mlp_ratio=4.0).eval(), Preprocessing(side, side),
            vocabulary=nothing,
        )  # fmt: skip
        self.pictures = smooth_pictures(max(CLUSTERS, *plan.batches), side)

    @property
    def name(self) -> str:
        return "fake" if self.fake else torch.cuda.get_device_name(self.device)

    def streams(self, *, graphs: bool = True) -> Device:
        return FakeDevice() if self.fake else Cuda(self.device, graphs=graphs)

    def network(self) -> Network:
        return dataclasses.replace(self._network, visual=copy.deepcopy(self._network.visual))

    def encoder(self, precision: str, batch: int, *, graphs: bool = True) -> StreamedEncoder:
        return StreamedEncoder(
            self.network(), self.device, precision, batch, streams=self.streams(graphs=graphs)
        )

    def slots(self, count: int) -> SharedSlots:
        ring = SharedSlots.create(count, self.plan.tower["image_size"], 1)
        ring.memory[:] = self.pictures[np.arange(count) % len(self.pictures)]
        return ring


def smooth_pictures(count: int, side: int) -> Pixels:
    """Different pictures of a few large spots of colour, for which encoders have different rows."""
    rng = np.random.default_rng(0)
    spots = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    pictures: Pixels = spots.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return pictures


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether products and convolutions of float32 may be rounded to TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Images per second of `work`, which returns how many it did; once to warm up, then for so long."""
    work()
    done, began = 0, time.perf_counter()
    while True:
        done += work()
        taken = time.perf_counter() - began
        if taken >= seconds:
            return done / taken


def figure(what: str, value: float, unit: str = "images/s") -> Figure:
    return Figure("gpu", what, unit, value)


# ── the stages ───────────────────────────────────────────────────────────────────────────────────────────


def copies(bench: Bench) -> Iterator[Figure]:
    """From slots to the device and rows back, with a network that does nothing."""
    batch = bench.plan.batches[0]
    ring = bench.slots(4 * batch)
    for registered in (False, True):
        device = bench.streams(graphs=False)
        what = "pinned slots" if registered else "pageable slots"
        if registered and (refused := device.register(ring.memory)):
            print(json.dumps({"not pinned": refused}), flush=True)
            continue
        nothing = device.empty((batch, 1), torch.float32)
        stream = EncodeStream(device, lambda _, n=nothing: n, batch=batch, side=ring.size, dim=1)  # type: ignore[misc]

        def work(stream: EncodeStream = stream) -> int:
            return len(stream.encode(list(ring.memory)))

        yield figure(f"copy from {what}, batch of {batch}", per_second(work, bench.plan.seconds))
        device.unregister()


def encoding(bench: Bench) -> Iterator[Figure]:
    """The network alone, on pictures that are on the device."""
    for name, (precision, rounded) in PRECISIONS.items():
        for batch in bench.plan.batches:
            for graphs in (False, True):
                with tf32(rounded):
                    value = network_rate(bench, precision, batch, graphs)
                how = "graph" if graphs else "eager"
                yield figure(f"encode, batch of {batch}, {name}, {how}", value)


def network_rate(bench: Bench, precision: str, batch: int, graphs: bool) -> float:
    encoder, device = bench.encoder(precision, batch), bench.streams(graphs=graphs)
    side = bench.plan.tower["image_size"]
    run = device.captured(encoder._rows, (batch, side, side, 3))
    pixels, stream, event = device.empty((batch, side, side, 3), torch.uint8), device.stream(), device.event()

    def work() -> int:
        with device.on(stream):
            for _ in range(CALLS):
                run(pixels)
            device.record(event, stream)
        device.synchronise(event)
        return CALLS * batch

    return per_second(work, bench.plan.seconds)


def predicting(bench: Bench, predictors: dict[str, FrozenPredictor], rows: Floats) -> Iterator[Figure]:
    for name, predictor in predictors.items():
        for batch in bench.plan.batches:
            some = rows[:batch]
            value = per_second(lambda p=predictor, s=some: len(p.predict(s)), bench.plan.seconds)  # type: ignore[misc]
            yield figure(f"predict, batch of {batch}, on the {name}", value)


def at_once(bench: Bench, predictors: dict[str, FrozenPredictor], rows: Floats) -> Iterator[Figure]:
    """The encoder with its copies, and the predictor, in a thread each: what one leaves the other."""
    batch = bench.plan.batches[0]
    ring = bench.slots(4 * batch)
    for name, predictor in predictors.items():
        encoder = bench.encoder("bf16", batch)
        encoder.register(ring.memory)
        found: dict[str, float] = {}

        def encode(encoder: StreamedEncoder = encoder, found: dict[str, float] = found) -> None:
            found["encode"] = per_second(lambda: len(encoder.encode(ring.memory)), bench.plan.seconds)

        thread = threading.Thread(target=encode)
        thread.start()
        found["predict"] = per_second(
            lambda p=predictor: len(p.predict(rows[:batch])),
            bench.plan.seconds,  # type: ignore[misc]
        )
        thread.join()
        encoder.unregister()
        for stage, value in found.items():
            yield figure(f"both at once, predictor on the {name}: {stage}", value)


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────


def worker(bench: Bench, predictors: dict[str, FrozenPredictor]) -> Iterator[Figure]:
    """Its own threads, from slots that are filled from memory to outcomes."""
    for batch in bench.plan.batches:
        for name, predictor in predictors.items():
            rate, processor = worker_rate(bench, batch, predictor)
            yield figure(f"worker, batch of {batch}, predictor on the {name}", rate)
            yield figure(
                f"worker, batch of {batch}, predictor on the {name}: processor", processor, "ms/image"
            )


def worker_rate(bench: Bench, batch: int, predictor: FrozenPredictor) -> tuple[float, float]:
    """Images per second, and milliseconds of the processor for each."""
    done = [0]
    enough = threading.Condition()

    def count(outcomes: list[InferenceOutcome]) -> None:
        with enough:
            done[0] += len(outcomes)
            enough.notify()

    def broke(error: Exception) -> None:
        raise SystemExit(f"the worker's inference broke: {error}")

    encoder = bench.encoder("bf16", batch)
    pool = MemoryPool(
        slots=4 * batch, preprocessing=encoder.identity.preprocessing,
        on_outcomes=lambda decoded: inference.put([Ready(d.token, d.slot) for d in decoded]),
    )  # fmt: skip
    inference = Inference(
        encoder, MadeUpModel(predictor), pixels=pool.pixels, release=pool.release, on_outcomes=count,
        on_broken=broke, max_batch=batch, max_wait=0.02, clock=time.monotonic, metrics=Metrics(),
    )  # fmt: skip
    inference.warm_up([1, batch])
    inference.register(pool.memory)
    tokens = iter(range(1 << 40))

    def work() -> int:
        images = bench.plan.fed * batch
        goal = done[0] + images
        pool.submit([Job(next(tokens), "") for _ in range(images)])
        with enough:
            if not enough.wait_for(lambda: done[0] >= goal, timeout=120):
                raise SystemExit(f"the worker stands still: {goal - done[0]} images have not come back")
        return images

    pool.start()
    inference.start()
    try:
        work()
        began, before = time.process_time(), done[0]
        rate = per_second(work, bench.plan.seconds)
        return rate, 1000 * (time.process_time() - began) / (done[0] - before)
    finally:
        inference.stop()
        pool.stop(5)


# ── agreement, memory, the limit ─────────────────────────────────────────────────────────────────────────


def agreement(
    bench: Bench, predictors: dict[str, FrozenPredictor], embeddings: Any
) -> Iterator[Figure | dict[str, Any]]:
    """Against float32 on the processor: embeddings, and labels of the model that is made up around them."""
    processor, rng = predictors["processor"], np.random.default_rng(1)
    pictures = bench.pictures[np.arange(bench.plan.compared) % CLUSTERS].astype(np.int16)
    pictures = np.clip(pictures + rng.integers(-16, 17, pictures.shape), 0, 255).astype(np.uint8)
    plain = TorchEncoder(bench.network(), torch.device("cpu"), "float32", bench.plan.batches[0])
    wanted = plain.encode(pictures)
    labels = processor.predict(wanted).labels
    for name, (precision, rounded) in PRECISIONS.items():
        with tf32(rounded):
            encoder = bench.encoder(precision, bench.plan.batches[0])
            got, again = encoder.encode(pictures), encoder.encode(pictures[::-1])[::-1]
        yield figure(f"agreement, {name}: lowest cosine", float((got * wanted).sum(1).min()), "")
        equal = 100 * float((processor.predict(got).labels == labels).mean())
        yield figure(f"agreement, {name}: equal labels", equal, "%")
        bits = 100 * float((got == wanted).all(1).mean())
        yield figure(f"agreement, {name}: embeddings of the processor's bits", bits, "%")
        order = 100 * float((got == again).all(1).mean())
        yield figure(f"agreement, {name}: the same bits in another place of the batch", order, "%")
    try:
        check(predictors["device"], processor, probes(embeddings), bench.name, bench.plan.batches)
        yield {"predictor on the device": "the processor's bits"}
    except ModelError as error:
        yield {"predictor on the device": str(error)}


def memory(bench: Bench) -> Iterator[Figure]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield figure("peak memory of the process", peak, "MB")
    device = 0.0 if bench.fake else torch.cuda.max_memory_allocated(bench.device) / 2**20
    yield figure("peak memory of the device", device, "MB")


def limit(found: dict[str, float], batch: int) -> str:
    """Which stage bounds the worker, in words.

    Args:
        found: figures by name.
        batch: that the worker was run with.
    """
    worker = found[f"worker, batch of {batch}, predictor on the processor"]
    stages = {
        "copying": max(v for k, v in found.items() if k.startswith("copy from")),
        "the encoder": found[f"encode, batch of {batch}, {MEANT}"],
        "the predictor": found[f"predict, batch of {batch}, on the processor"],
    }
    slowest = min(stages, key=lambda name: stages[name])
    share = worker / stages[slowest]
    sentence = f"{slowest} ({stages[slowest]:.0f} images/s; the worker reaches {100 * share:.0f} % of it"
    if share >= FED:
        return sentence + ")"
    cost = found[f"worker, batch of {batch}, predictor on the processor: processor"]
    return f"the worker's own threads, {cost:.3f} ms of the processor an image, not " + sentence + ")"


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


def everything(bench: Bench) -> Iterator[Figure | dict[str, Any]]:
    yield from copies(bench)
    yield from encoding(bench)
    plan = bench.plan
    centres = bench.encoder("float32", plan.batches[0]).encode(bench.pictures[:CLUSTERS])
    arrays, params, rows = made_up(plan.train, centres, max(plan.batches), plan.min_samples)
    predictors = {
        "processor": FrozenPredictor(arrays, params),
        "device": FrozenPredictor(arrays, params, device=bench.predict_device),
    }
    yield from predicting(bench, predictors, rows)
    yield from at_once(bench, predictors, rows)
    yield from worker(bench, predictors)
    yield from agreement(bench, predictors, arrays["embeddings"])
    yield from memory(bench)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    there = "cuda" if torch.cuda.is_available() else "fake"
    parser.add_argument("--device", default=there, help="cuda, cuda:N or fake (%(default)s)")
    parser.add_argument("--small", action="store_true", help="a tiny encoder and model, for a moment each")
    options = parser.parse_args(argv)
    bench = Bench(options.device, SMALL if options.small else FULL)
    print(json.dumps({**machine(), "device": bench.name, "torch": torch.__version__}), flush=True)
    lines: list[dict[str, Any]] = []
    for found in everything(bench):
        line = found.line() if isinstance(found, Figure) else json.dumps(found)
        print(line, flush=True)
        if isinstance(found, Figure):
            lines.append(json.loads(line))
    print(table(lines))
    values = {line["figure"]: line["value"] for line in lines}
    for batch in bench.plan.batches:
        print(json.dumps({"limit": limit(values, batch), "batch": batch}), flush=True)


if __name__ == "__main__":
    main()
