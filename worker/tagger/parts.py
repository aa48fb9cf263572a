"""What a pipeline is put together from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from worker.fetching.protocol import Job
from worker.kafka.assignment import BegunPartition
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import Delivery
from worker.messages.mapping import Intake
from worker.tagger.prediction import Ready
from worker.tagger.results import Results
from worker.tagger.retrying import Retrying


class Fetchers(Protocol):
    """Fetch and decode, in processes of their own; see `worker.fetching.pool.FetcherPool`."""

    def submit(self, jobs: list[Job]) -> None: ...
    def release(self, slots: list[int]) -> None: ...
    def forget(self, tokens: Iterable[int]) -> None: ...
    @property
    def cancelling(self) -> int: ...


class Encoding(Protocol):
    """Encode and predict, in threads of their own; see `worker.tagger.inference.Inference`."""

    def put(self, ready: Sequence[Ready]) -> None: ...
    @property
    def outstanding(self) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class PipelinePolicy:
    """
    Attributes:
        max_in_flight: uploads that are fetched, encoded or not yet published at once, at most.
        skip: (partition, offset) of records that become dead letters untried.
        fill: as many fill the fetchers' connections and the encoder's batches.
    """

    max_in_flight: int
    skip: frozenset[tuple[int, int]] = frozenset()
    fill: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class PipelineParts:
    """
    Attributes:
        intake: reads an upload from a record.
        results: makes the records of what uploads end as.
    """

    intake: Intake
    fetchers: Fetchers
    inference: Encoding
    results: Results
    retrying: Retrying


Begun = Callable[[BegunPartition], None]
Leaving = Callable[[set[int], bool], None]
Connect = Callable[[Begun, Leaving], tuple[UploadsConsumer, Delivery]]
