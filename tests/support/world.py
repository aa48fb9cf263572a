"""A pipeline, moved by hand, with stand-ins for Kafka, the fetchers, inference and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from tests.support.fake_fetchers import FakeFetchers
from tests.support.fake_uploads import FakeDelivery, FakeUploadsConsumer
from worker.fetching.protocol import Failed
from worker.kafka.assignment import BegunPartition
from worker.messages.formats import Formats
from worker.settings.values import RetryLimits
from worker.tagger.parts import PipelineParts, PipelinePolicy
from worker.tagger.pipeline import Pipeline
from worker.tagger.prediction import ModelInfo, Predicted, Ready, Unencodable
from worker.tagger.results import Results, ResultTopics
from worker.tagger.retrying import Retrying, RetryPolicy
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

POLICY = PipelinePolicy(max_in_flight=8)
TOPICS = ResultTopics("tags", "retry", "dlq")
RETRY = RetryPolicy(RetryLimits(3), first=1.0, longest=10.0)

MAKER = ModelInfo("0123456789ab", "0123456789ab", {1: "dogs"})


class FakeInference:
    """Keeps what it is given; the test says when it is done."""

    maker = MAKER

    def __init__(self) -> None:
        self.has: list[Ready] = []

    def put(self, ready: Sequence[Ready]) -> None:
        self.has += ready

    @property
    def outstanding(self) -> int:
        return len(self.has)


class World:
    """A pipeline and everything around it, moved by hand."""

    def __init__(
        self,
        logs: dict[int, list[bytes | None]],
        policy: PipelinePolicy = POLICY,
        tracing: Callable[[Callable[[], float]], Tracing] | None = None,
        topics: ResultTopics = TOPICS,
        retry: RetryPolicy = RETRY,
        metrics: Metrics | None = None,
        **results: Any,
    ) -> None:
        """
        Args:
            metrics: those of others, where there are many worlds: making them takes longer than all the rest.
            results: what `Results` takes beside its defaults.
        """
        self.now = 0.0
        self.policy = policy
        self.fetchers = FakeFetchers()
        self.inference = FakeInference()
        self.metrics = metrics or Metrics()
        self.before = ended(self.metrics)
        self.retrying = Retrying(retry, clock=self.clock, wall_ms=self.wall_ms, spread=lambda: 0.5)
        self.results = Results(
            topics, Formats(), model=lambda: MAKER.version, wall_ms=self.wall_ms, metrics=self.metrics,
            **results,
        )  # fmt: skip
        self.consumer: FakeUploadsConsumer
        self.delivery: FakeDelivery

        def connect(
            on_begun: Callable[[BegunPartition], None], on_leaving: Callable[[set[int], bool], None]
        ) -> Any:
            self.consumer = FakeUploadsConsumer(logs, on_begun, on_leaving)
            self.delivery = FakeDelivery(self.consumer)
            return self.consumer, self.delivery

        self.pipeline = Pipeline(
            policy, connect,
            PipelineParts(
                Formats().intake, self.fetchers, self.inference, self.results, self.retrying
            ),
            clock=self.clock, sleep=self.sleep, metrics=self.metrics,
            tracing=tracing(self.clock) if tracing else Tracing(),
        )  # fmt: skip
        for partition in logs:
            self.assign(partition)

    def assign(self, partition: int) -> None:
        self.consumer.assign(partition, self.delivery.retries)

    def clock(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def pending(self) -> int:
        return len(self.retrying)

    def next_life(self) -> World:
        """Another process, after this one was killed: it has what the broker has. (And the metrics go on.)"""
        after = World({}, self.policy, metrics=self.metrics)
        after.now, after.before = self.now, self.before
        after.delivery.results = list(self.delivery.results)
        after.consumer.logs, after.consumer.stored = self.consumer.logs, dict(self.consumer.stored)
        for partition in self.consumer.logs:
            after.assign(partition)
        return after

    def answer(self, index: int, how: str) -> None:
        """One of the open jobs comes back."""
        job = self.fetchers.jobs.pop(index % len(self.fetchers.jobs))
        if how == "tag":
            self.pipeline.on_predicted([Predicted(MAKER, job.token, 1, 0.5, ((1, 0.5), (2, 0.25)), False)])
        elif how == "unencodable":
            self.pipeline.on_predicted([Unencodable(job.token, "boom")])
        else:
            transient = how == "transient"
            code = "fetch-timeout" if transient else "decode-failed"
            self.pipeline.on_fetched([Failed(job.token, code, "fetch", "no", transient, None)])

    def settle(self) -> None:
        """Everything succeeds from here on, until nothing is left to do."""
        for _ in range(1000):
            self.pipeline.run_once()
            while self.fetchers.jobs:
                self.answer(0, "tag")
            self.delivery.commit()
            self.now += 1.0
            unread = any(self.consumer.read[p] < len(self.consumer.logs[p]) for p in self.consumer.owned)
            if not (unread or self.pipeline.in_flight or self.pending or self.consumer.paused):
                return
        raise AssertionError("it never settles")

    def settled_reading(self) -> None:
        """Rounds until everything has been read; nothing is answered."""
        while any(self.consumer.read[p] < len(self.consumer.logs[p]) for p in self.consumer.owned):
            self.pipeline.run_once()

    def ends(self) -> dict[str, float]:
        """Uploads by how they ended, in this world."""
        return {outcome: count - self.before[outcome] for outcome, count in ended(self.metrics).items()}


def ended(metrics: Metrics) -> dict[str, float]:
    return {o: metrics.value("imgclust_uploads_total", outcome=o) or 0.0
            for o in ("tagged", "deleted", "dead", "superseded")}  # fmt: skip


def upload(upload_id: str, url: str = "http://x/1.jpg") -> bytes:
    return orjson.dumps({"id": upload_id, "url": url})
