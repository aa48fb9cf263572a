"""A pipeline on a real Kafka, in the test's own process; fetchers and inference answer at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.fake_fetchers import FakeFetchers
from tests.support.kafka_cluster import Topics
from tests.support.waiting import PATIENCE
from tests.support.world import MAKER, FakeInference
from worker.fetching.protocol import Failed
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.client_config import (
    changelog_config,
    consumer_config,
    producer_config,
    transaction_config,
    transactional_id,
)
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.retry_changelog import RetryChangelog
from worker.kafka.topic_ids import TopicIds
from worker.messages.formats import Formats
from worker.messages.text import wall_ms
from worker.settings.values import RetryLimits
from worker.tagger.parts import Begun, Leaving, PipelineParts, PipelinePolicy
from worker.tagger.pipeline import Pipeline
from worker.tagger.prediction import Predicted
from worker.tagger.results import Results, ResultTopics
from worker.tagger.retrying import Retrying, RetryPolicy
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing

FAILING, STUCK = "http://failing/", "http://stuck/"
RETRY = RetryPolicy(RetryLimits(3), first=0.2, longest=1.0)


class KafkaWorld:
    """A worker without pictures: an upload whose URL begins with FAILING fails for now, one that begins with
    STUCK never ends, others are tagged."""

    def __init__(
        self, topics: Topics, *, exactly_once: bool = True, connection: Mapping[str, Any] | None = None,
        max_in_flight: int = 64, protocol: str = "consumer", retry: float = RETRY.first,
        start: str = "earliest", interval: float = 0.02,
    ) -> None:  # fmt: skip
        self.topics = topics
        self.metrics = Metrics()
        self.fetchers = FakeFetchers()
        self._exactly_once, self._protocol, self._start = exactly_once, protocol, start
        self._interval = interval
        self._connection = {"bootstrap.servers": topics.bootstrap, **(connection or {})}
        policy = dataclasses.replace(RETRY, first=retry, longest=max(retry, RETRY.longest))
        results = Results(
            ResultTopics(topics.tags, topics.retry, topics.dlq), Formats(), model=lambda: MAKER.version,
            wall_ms=wall_ms, metrics=self.metrics,
        )  # fmt: skip
        self.pipeline = Pipeline(
            PipelinePolicy(max_in_flight), self._connect,
            PipelineParts(
                Formats().intake, self.fetchers, FakeInference(), results,
                Retrying(policy, clock=time.monotonic, wall_ms=wall_ms),
            ),
            clock=time.monotonic, metrics=self.metrics, tracing=Tracing(),
        )  # fmt: skip

    def _connect(self, on_begun: Begun, on_leaving: Leaving) -> Any:
        changelog = RetryChangelog(
            changelog_config(self._connection, self.topics.group), self.topics.retry,
            clock=time.monotonic, wall_ms=wall_ms, longest=RETRY.longest,
        )  # fmt: skip
        self.consumer = UploadsConsumer(
            consumer_config(self._connection, self.topics.group, self._protocol), self.topics.uploads,
            start=self._start, clock=time.monotonic, wall_ms=wall_ms, metrics=self.metrics,
            retries=changelog, ids=TopicIds(self._connection, [self.topics.uploads, self.topics.retry]),
            on_begun=on_begun, on_leaving=on_leaving,
        )  # fmt: skip
        common: dict[str, Any] = {"interval": self._interval, "metrics": self.metrics}
        if self._exactly_once:
            name = transactional_id(self.topics.group)
            config = transaction_config(self._connection, name)
            self.delivery: Any = ExactlyOnce(config, self.topics.uploads, self.consumer, **common)
        else:
            config = producer_config(self._connection)
            self.delivery = AtLeastOnce(config, self.topics.uploads, self.consumer, **common)
        return self.consumer, self.delivery

    def round(self) -> None:
        self.pipeline.run_once()
        for job in list(self.fetchers.jobs):
            if job.url.startswith(STUCK):
                continue
            self.fetchers.jobs.remove(job)
            if job.url.startswith(FAILING):
                self.pipeline.on_fetched(
                    [Failed(job.token, "fetch-timeout", "fetch", "no answer", True, None)]
                )
            else:
                self.pipeline.on_predicted([Predicted(MAKER, job.token, 1, 0.5, ((1, 0.5),), False)])

    def until(self, what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Rounds until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            self.round()

    def count(self, outcome: str) -> float:
        return self.metrics.value("imgclust_uploads_total", outcome=outcome) or 0.0

    def commits(self, outcome: str) -> float:
        return self.metrics.value("imgclust_commits_total", outcome=outcome) or 0.0

    def close(self) -> None:
        self.pipeline.close()
