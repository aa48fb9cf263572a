"""Results and offsets → one Kafka transaction: each upload's result is published exactly once.

    begin → tags, deletions, retries, dead letters → offsets of all that is done by them → commit

A transaction begins when its results are there and runs to its end at once. Results are kept until it is
committed, so whatever goes wrong, the same results are published again and nothing is fetched or encoded
twice. Each kind of failure has one reaction (docs/delivery.md):

    abortable (the membership changed, a request failed)   abort; publish the same again
    timed out, broker away                                 the same call again, in the next round
    fatal (fenced, the transaction timed out)              a new producer; ask what became of the transaction
    no use to try again (no permission)                    raised: the worker ends

The broker fences a member, not a partition: which offsets may be committed is decided here, by the table of
owned partitions, see `UploadsConsumer.snapshot`.
"""

from __future__ import annotations

import enum
import functools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from worker.kafka.assignment import Snapshot
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import (
    REMEDIES,
    REVOKE_COMMIT,
    STEP,
    OnRefused,
    Result,
    cut_or_raise,
    is_refused,
    refused,
    size_of,
    wire_headers,
)
from worker.kafka.failpoints import enter, reach
from worker.kafka.reading import client_log
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics

log = logs.get(__name__)

# Seconds before a failed step is tried again: the first time, and at most. Only a commit begins anew.
AGAIN, AGAIN_MAX = 0.05, 1.0
MAX_BATCH = 5000  # results in one transaction: a tenth of a second


# What becomes of records when their transaction fails: the failing call says why.
_OF_THE_TRANSACTION = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._MSG_TIMED_OUT)
_NO_ANSWER = (KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)


# A new producer helps: somebody else has this one's name, or the broker gave up on its transaction.
_NEW_PRODUCER = (
    KafkaError._FENCED,
    KafkaError._FATAL,  # a call after one of the others
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.TRANSACTION_COORDINATOR_FENCED,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
)


class State(enum.Enum):
    NEW = "no producer that the broker knows"
    ASKING = "what became of the last transaction is not known"
    READY = "no transaction is open"
    COMMITTING = "a transaction is complete, its commit is not answered"
    ABORTING = "a transaction failed, its abort is not answered"


class ExactlyOnce:
    """Publishes results in transactions with their offsets; see `worker.kafka.delivery.Delivery`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        uploads_topic: str,
        consumer: UploadsConsumer,
        *,
        interval: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            config: see `transaction_config`.
            interval: seconds that a result waits for its transaction at most, while the broker keeps up.
        """
        self._config = config
        self._uploads_topic = uploads_topic.encode()
        self._consumer = consumer
        self._interval = interval
        self._metrics = metrics
        self._stage = metrics.stages["publish"]
        self._clock = clock
        self._gathered: list[Result] = []
        self._bytes = 0
        self._state = State.NEW
        self._producer: Producer | None = None
        # of the transaction that is open, or whose end is not known
        self._batch: list[Result] = []
        self._snapshot: Snapshot | None = None
        self._mark = ""
        self._refusals: list[tuple[Result, KafkaError]] = []  # of the last try
        self._denied: KafkaError | None = None  # a topic that this worker must not write to
        self._alone: set[int] = set()  # results, by identity, that are sent with nothing beside them
        self.on_refused: OnRefused = cut_or_raise
        self._doubt = False
        self._began = 0.0
        self._leaving: Set[int] = frozenset()  # partitions that the next transaction gives up in order
        self._left: Set[int] = frozenset()  # those that the last one does
        self._run = uuid.uuid4().hex[:8]
        self._number = 0
        self._due_at = self._again_at = clock()
        self._again = AGAIN

    @property
    def waiting(self) -> int:
        return len(self._gathered) + len(self._batch)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def publish(self, *results: Result) -> None:
        self._stage.enter(len(results))
        self._bytes += sum(map(size_of, results))
        self._gathered += results

    # ── one round ────────────────────────────────────────────────────────────────────────────────────────

    def run_once(self) -> None:
        if self._denied is not None:
            raise refused(self._denied)
        now = self._clock()
        if now >= self._again_at and (self._state is not State.READY or now >= self._due_at):
            self._step(STEP)

    def _step(self, patience: float) -> bool:
        """Go one step on: from whatever state to READY, or from READY through a whole transaction.

        Returns:
            False when only a poll of the consumer can help.
        """
        step = {
            State.NEW: self._connect,
            State.ASKING: self._ask,
            State.READY: self._transact,
            State.COMMITTING: self._commit,
            State.ABORTING: self._abort,
        }[self._state]
        opening = self._state is State.READY
        try:
            going = step(patience)
        except KafkaException as error:
            if not self._refusals:  # else the next try is another one
                self._back_off()
            self._react(error.args[0])
            if opening and self._state is State.ABORTING:
                self._again_at = self._clock()  # what is open hides what others publish: it ends at once
            return True
        return going

    def _back_off(self) -> None:
        self._again_at = self._clock() + self._again
        self._again = min(2 * self._again, AGAIN_MAX)

    def _react(self, error: KafkaError) -> None:
        """One reaction for each kind of error."""
        if error.code() in REMEDIES:
            raise refused(error)
        if error.code() == KafkaError._FENCED or (error.fatal() and error.code() in _NEW_PRODUCER):
            log.warning("the producer is fenced; continuing with a new one", error=error.str())
            self._metrics.commits["fenced"].inc()
            old, self._producer, self._state = self._producer, None, State.NEW
            if old is not None:
                old.purge()
        elif error.fatal():
            raise refused(error)
        elif error.txn_requires_abort() or self._state is State.ABORTING:
            log.warning("transaction failed; its results are published again", error=error.str())
            # an earlier try of the commit may have reached the broker
            self._doubt = self._doubt or self._state is State.COMMITTING
            self._state = State.ABORTING
        elif error.retriable() or error.code() in _NO_ANSWER or self._state is State.ASKING:
            log.warning("no answer from the broker yet", state=self._state.value, error=error.str())
        else:
            raise refused(error)

    # ── a transaction ────────────────────────────────────────────────────────────────────────────────────

    def _transact(self, patience: float) -> bool:
        if not (self._batch or self._gathered or self._leaving or self._consumer.uncommitted):
            return True
        assert self._producer is not None
        batch = self._batch = self._next_batch()
        for result in batch:
            self._consumer.done(result.source)
        self._number += 1
        self._mark = f"{self._run}-{self._number}"
        # No poll from here to `send_offsets_to_transaction`: table and membership are of one moment.
        with_results = {result.source.partition for result in batch}
        snapshot = self._consumer.snapshot(self._mark, with_results, self._leaving)
        if snapshot is None:
            return False
        if not snapshot.states:
            self._leaving = frozenset()
            return True
        self._snapshot, self._left, self._doubt = snapshot, self._leaving, False
        self._began = self._clock()
        self._due_at = self._began + self._interval
        self._producer.begin_transaction()
        # until the commit is on its way, whatever fails needs an abort
        self._state = State.ABORTING
        if not self._produce(list(batch), patience):
            return True
        reach("before-send-offsets")
        self._producer.send_offsets_to_transaction(snapshot.offsets, snapshot.member, patience)
        reach("after-send-offsets")
        self._state = State.COMMITTING
        reach("before-commit")
        return self._commit(patience)

    def _next_batch(self) -> list[Result]:
        """What was not committed yet, and after it what has been gathered; bounded, so that a transaction
        ends before its time is up. Results of one upload stay together: they decide its offset."""
        batch = self._owned(self._batch)
        gathered = self._owned(self._gathered)
        room = max(0, MAX_BATCH - len(batch))
        end = min(room, len(gathered))
        while 0 < end < len(gathered) and gathered[end].source is gathered[end - 1].source:
            end += 1
        self._gathered = gathered[end:]
        return batch + gathered[:end]

    def _owned(self, results: list[Result]) -> list[Result]:
        """Those whose assignment goes on; the others are their next owner's to publish."""
        owns = self._consumer.owns
        kept = [r for r in results if owns(r.source.partition, r.source.epoch)]
        if len(kept) < len(results):
            self._forget([r for r in results if not owns(r.source.partition, r.source.epoch)], "dropped")
        return kept

    def _forget(self, results: list[Result], outcome: str = "ok") -> None:
        self._bytes -= sum(map(size_of, results))
        self._stage.leave(len(results), outcome)
        for result in results:
            result.ended(None if outcome == "ok" else outcome)

    def _produce(self, batch: Sequence[Result], patience: float) -> bool:
        """Hand the batch to the producer; False when one of those that are sent alone was not taken."""
        assert self._producer is not None
        for result in batch:
            alone = id(result) in self._alone
            if alone:  # with nothing beside it in a request
                self._producer.flush(patience)
            self._send(result)
            if alone and (self._producer.flush(patience) or self._refusals):
                return False
        return True

    def _send(self, result: Result) -> None:
        assert self._producer is not None
        while True:
            try:
                self._producer.produce(
                    result.topic,
                    key=result.key,
                    value=result.value,
                    partition=result.source.partition,
                    headers=wire_headers(result, self._uploads_topic),
                    on_delivery=functools.partial(self._answered, result),
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if not is_refused(error.args[0]):
                    raise
                for other in self._replace(result, error.args[0]):  # this client does not take it already
                    self._send(other)
                return
            else:
                return

    def _answered(self, result: Result, error: KafkaError | None, _: object) -> None:
        """The broker did not take a record; the transaction fails with it."""
        if error is None or error.code() in _OF_THE_TRANSACTION:
            return
        self._metrics.produce_errors.inc()
        log.error(
            "publishing failed", topic=result.topic, partition=result.source.partition, error=error.str()
        )
        if is_refused(error):
            self._refusals.append((result, error))
        elif error.code() in REMEDIES:
            self._denied = error

    def _isolate(self) -> bool:
        """Find the record that was refused, after its transaction has ended; whether there was one.

        A broker refuses a whole request, so those of one that was refused are sent one at a time.
        """
        refusals, self._refusals = self._refusals, []
        for result, error in refusals:
            if len(self._batch) == 1 or id(result) in self._alone:
                if any(one is result for one in self._batch):  # else its partition went
                    self._replace(result, error)
            else:
                self._alone.add(id(result))
        return bool(refusals)

    def _replace(self, result: Result, error: KafkaError) -> Sequence[Result]:
        others = self.on_refused(result, error)
        place = next(i for i, one in enumerate(self._batch) if one is result)
        self._batch[place : place + 1] = others
        self._alone.discard(id(result))
        self._stage.enter(len(others))
        self._stage.leave(1, "dropped")
        self._bytes += sum(map(size_of, others)) - size_of(result)
        return others

    def _commit(self, patience: float) -> bool:
        assert self._producer is not None
        enter("during-commit")
        self._producer.commit_transaction(patience)
        reach("after-commit")
        self._committed()
        return True

    def _committed(self) -> None:
        if self._snapshot is not None:
            self._consumer.committed(self._snapshot)
        self._forget(self._batch)
        self._batch, self._snapshot = [], None
        self._alone.clear()
        self._again = AGAIN
        self._leaving = self._leaving - self._left
        self._state = State.READY
        self._metrics.commits["committed"].inc()
        self._metrics.commit_seconds.observe(self._clock() - self._began)

    def _abort(self, patience: float) -> bool:
        assert self._producer is not None
        self._producer.abort_transaction(patience)
        self._metrics.commits["aborted"].inc()
        isolated = self._isolate()
        if self._doubt:
            self._state = State.ASKING
        else:
            self._not_committed(at_once=isolated)
        return True

    def _not_committed(self, *, at_once: bool = False) -> None:
        """The same results again, or with one of them replaced; else the next try waits longer and longer."""
        if self._snapshot is not None:
            self._consumer.not_committed(self._snapshot)
        self._snapshot = None
        self._state = State.READY
        self._due_at = self._clock() + (0.0 if at_once else self._again)

    # ── producers ────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, patience: float) -> bool:
        """A producer under the same name: the broker ends what an earlier one of that name left open."""
        if self._producer is None:
            self._producer = Producer({**self._config, "error_cb": self._on_error}, logger=client_log)
        self._producer.init_transactions(patience)
        self._state = State.READY if self._snapshot is None else State.ASKING
        return True

    def _ask(self, _: float) -> bool:
        assert self._snapshot is not None
        wrote = self._consumer.wrote(self._snapshot, self._mark)
        log.info("what became of the last transaction", committed=wrote, results=len(self._batch))
        if wrote:
            self._committed()
        else:
            self._not_committed()
        return True

    def _on_error(self, error: KafkaError) -> None:
        if not error.fatal():  # those come as the exception of a call, too
            log.warning("Kafka client", error=error.str())

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────

    def leave(self, partitions: set[int], lost: bool) -> None:
        if not lost:
            self._settle(REVOKE_COMMIT, partitions)
        for results in (self._batch, self._gathered):
            gone = [r for r in results if r.source.partition in partitions]
            if gone:
                results[:] = [r for r in results if r.source.partition not in partitions]
                self._forget(gone, "dropped")

    def finish(self, timeout: float) -> bool:
        return self._settle(timeout, set(self._consumer.partitions))

    def _settle(self, timeout: float, leaving: Set[int]) -> bool:
        """Steps until nothing is open and nothing is left to publish, at most `timeout` seconds."""
        deadline = self._clock() + timeout
        self._leaving = frozenset(leaving)
        try:
            while (left := deadline - self._clock()) > 0:
                done = not (self.waiting or self._leaving or self._consumer.uncommitted)
                if self._state is State.READY and done:
                    return True
                if not self._step(min(STEP, left)):
                    return False
                pause = min(self._again_at, deadline) - self._clock()
                if pause > 0:
                    time.sleep(pause)
            return False
        finally:
            self._leaving = frozenset()
