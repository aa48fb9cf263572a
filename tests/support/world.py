"""A pipeline, moved by hand, with stand-ins for Kafka, the fetchers, inference and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from tests.support.fake_fetchers import FakeFetchers
from tests.support.fake_uploads import FakeDelivery, FakeUploadsConsumer
from worker.fetching.protocol import Failed
from worker.kafka.assignment import BegunPartition
from worker.settings.values import RetryLimits
from worker.tagger.pipeline import Pipeline, Policy
from worker.tagger.prediction import ModelInfo, Predicted, Ready, Unencodable
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

POLICY = Policy(
    tags_topic="tags", retry_topic="retry", dlq_topic="dlq", max_in_flight=8, retry_limit=RetryLimits(3),
    retry_first=1.0, retry_max=10.0, tag_url=True,
)  # fmt: skip

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
        policy: Policy = POLICY,
        tracing: Callable[[Callable[[], float]], Tracing] | None = None,
    ) -> None:
        self.now = 0.0
        self.policy = policy
        self.fetchers = FakeFetchers()
        self.inference = FakeInference()
        self.metrics = Metrics()
        made: dict[str, object] = {}

        def consumer(
            on_begun: Callable[[BegunPartition], None],
            on_leaving: Callable[[set[int], bool], None],
        ) -> FakeUploadsConsumer:
            made["consumer"] = FakeUploadsConsumer(logs, on_begun, on_leaving)
            return made["consumer"]  # type: ignore[return-value]

        def delivery(consumer: FakeUploadsConsumer) -> FakeDelivery:
            made["delivery"] = FakeDelivery(consumer)
            return made["delivery"]  # type: ignore[return-value]

        self.pipeline = Pipeline(
            policy, connect_consumer=consumer, connect_delivery=delivery, fetchers=self.fetchers,  # type: ignore[arg-type]
            inference=self.inference,
            clock=lambda: self.now, wall_ms=lambda: int(self.now * 1000),
            metrics=self.metrics, spread=lambda: 0.5, sleep=self.sleep,
            tracing=tracing(lambda: self.now) if tracing else None,
        )  # fmt: skip
        self.consumer: FakeUploadsConsumer = made["consumer"]  # type: ignore[assignment]
        self.delivery: FakeDelivery = made["delivery"]  # type: ignore[assignment]
        for partition in logs:
            self.assign(partition)

    def assign(self, partition: int) -> None:
        self.consumer.assign(partition, self.delivery.retries)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def pending(self) -> int:
        return sum(map(len, self.pipeline._retries.values()))

    def next_life(self) -> World:
        """Another process, after this one was killed: it has what the broker has."""
        after = World({}, self.policy)
        after.now = self.now
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
            self.pipeline.on_failed([Failed(job.token, code, "fetch", "no", transient, None)])

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

    def ends(self) -> dict[str, float]:
        return {o: self.metrics.value("imgclust_uploads_total", outcome=o) or 0.0
                for o in ("tagged", "deleted", "dead", "superseded")}  # fmt: skip


def upload(upload_id: str, url: str = "http://x/1.jpg") -> bytes:
    return orjson.dumps({"id": upload_id, "url": url})
