"""One process of a run: takes the partitions that the group gives it, one after the other, and tags them.

A partition is claimed before its committed offset is read, so whoever had it before can publish nothing more,
whatever the group thinks: see `worker.kafka.claim`. The group only divides the work.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from worker.errors import KafkaAway, WorkerError
from worker.kafka.claim import Claim, ClaimLost
from worker.kafka.group_share import GroupShare
from worker.kafka.scanner import Entry
from worker.messages.headers import result_headers
from worker.retagging.ahead import ahead, chunks
from worker.retagging.runs import Note, Part, Run
from worker.retagging.tagging import Answered, Counts, Retagger
from worker.telemetry import log as logs

log = logs.get(__name__)

BATCH = 1024  # embeddings predicted at once
COMMIT_BATCHES = 8  # batches that are published in one transaction
IDLE = 0.5  # seconds between two looks when no partition is to be tagged here
LOOK = 2.0  # seconds between two looks at how far all are
AGAIN = 2.0  # seconds until a partition whose claim was lost is claimed again, if it is still ours
TRIES = 10  # claims in a row that may be lost before anything was committed

InThread = Callable[[Generator[Any]], Generator[Any]]
Offsets = Mapping[int, tuple[int, str]]


class Source(Protocol):
    """The embeddings topic, see `Scanner`, with the group's committed offsets."""

    def committed(self, topic: str, partitions: list[int]) -> dict[int, tuple[int, str]]: ...

    def read(
        self, topic: str, starts: Mapping[int, int], *, until: Mapping[int, int]
    ) -> Generator[Entry]: ...


class Member:
    """
    Args:
        run: as it was when this process joined it.
        share: which partitions are this process's.
        claim: partition → a claim of it.
        source, to: topics.
        reader: of `source`.
        retagger: makes tags.
        watching: told now and then how far the run is.
        in_thread: has an iterator worked through beside this thread.
    """

    def __init__(
        self,
        run: Run,
        share: GroupShare,
        claim: Callable[[int], Claim],
        *,
        source: str,
        to: str,
        reader: Source,
        retagger: Retagger,
        watching: Callable[[Run], None],
        clock: Callable[[], float] = time.monotonic,
        in_thread: InThread = ahead,
    ) -> None:
        self._run, self._share, self._claim = run, share, claim
        self._source, self._to = source, to
        self._reader, self._retagger, self._watching = reader, retagger, watching
        self._clock, self._in_thread = clock, in_thread
        self._job: _PartitionJob | None = None
        self._at: int | None = None  # the partition that is claimed, or to be
        self._idle = False  # there is nothing to be tagged here now
        self._later: dict[int, float] = {}  # partitions whose claim was lost → when to try again
        self._look_at = -math.inf
        self._lost = 0
        self.replaced = False  # another run has begun

    @property
    def run(self) -> Run:
        """As it was when it was looked at last."""
        return self._run

    @property
    def finished(self) -> bool:
        return self.replaced or not self._run.unfinished

    def run_once(self) -> None:
        """One batch, or one look at what there is to do.

        Raises:
            StartError: a right is missing.
            WorkerError: Kafka does not let this process go on.
        """
        self._share.poll(IDLE if self._idle else 0)
        try:
            self._step()
        except ClaimLost as error:
            self._lost_claim(error)
        if self._clock() >= self._look_at or self._job is None:
            self._look()

    def _step(self) -> None:
        if self._job is None:
            self._at = self._next()
            self._job = None if self._at is None else self._begin(self._at)
        self._idle = self._at is None
        job = self._job
        if job is not None and (job.partition not in self._share.owned or not job.step()):
            job.commit()
            self._end(job)

    def _next(self) -> int | None:
        """Of the partitions that are ours, the one with the most to do."""
        now = self._clock()
        wanted = [
            p for p in self._run.unfinished if p in self._share.owned and self._later.get(p, -math.inf) <= now
        ]
        return max(wanted, key=lambda p: self._run.parts[p].left, default=None)

    def _begin(self, partition: int) -> _PartitionJob | None:
        claim = self._claim(partition)
        # read after the claim: nobody else moves it any more
        committed = self._reader.committed(self._source, [partition])
        part = self._part(partition, committed)
        if part is None or not part.left:
            claim.close()
            self._run = self._with(committed)
            return None
        log.debug("tagging a partition", partition=partition, offset=part.offset, end=part.note.end)
        entries = self._reader.read(self._source, {partition: part.offset}, until={partition: part.note.end})
        # one thread reads, one predicts, this one writes
        batches = self._in_thread(self._retagger.answered(self._in_thread(chunks(entries, BATCH))))
        return _PartitionJob(partition, part, claim, batches, self._source, self._to, self._retagger)

    def _part(self, partition: int, committed: Offsets) -> Part | None:
        """None when another run has begun."""
        offset, text = committed.get(partition, (0, ""))
        note = Note.read(text)
        if note is not None and note.run > self._run.number:
            self.replaced = True
            return None
        if note is None or note.run < self._run.number:  # of a run that was given up, as its topic was gone
            note = dataclasses.replace(self._run.parts[partition].note, tags=0, deletions=0, left_out={})
            offset = note.begin
        return Part(offset, note)

    def _with(self, committed: Offsets) -> Run:
        """The run with what is known of some partitions now."""
        parts = dict(self._run.parts)
        for partition in committed.keys() & parts.keys():
            part = self._part(partition, committed)
            if part is not None and part.offset >= parts[partition].offset:  # an older answer may come later
                parts[partition] = part
        return Run(parts)

    def _end(self, job: _PartitionJob) -> None:
        self._job, self._lost = None, 0
        job.close()
        self._run = self._with({job.partition: (job.part.offset, job.part.note.text())})

    def _lost_claim(self, error: ClaimLost) -> None:
        """Somebody else may have the partition; the group says whether it is still ours, a little later."""
        job, self._job = self._job, None
        self._lost += 1
        if job is not None:
            if job.commits:
                self._lost = 1
            job.close()
        if self._at is not None:
            self._later[self._at] = self._clock() + AGAIN
        log.warning("a transaction is void", error=str(error), tries=self._lost)
        if self._lost >= TRIES:
            raise WorkerError(
                f"no transaction could be committed in {TRIES} tries: {error}; run it again to continue"
            ) from None

    def _look(self) -> None:
        """How far are all?"""
        self._look_at = self._clock() + LOOK
        try:
            self._run = self._with(self._share.committed(list(self._run.parts)))
        except KafkaAway as error:
            log.warning("the progress of the other processes is not known", error=str(error))
        else:
            self._watching(self._run)

    def stop(self) -> None:
        """Commit what is tagged."""
        if self._job is not None:
            try:
                self._job.commit()
            except ClaimLost as error:
                log.warning("the last transaction is void", error=str(error))
            self._end(self._job)


class _PartitionJob:
    """A claimed partition, from its offset to the end of the run.

    Attributes:
        part: what is committed.
        commits: of this job.
    """

    def __init__(
        self,
        partition: int,
        part: Part,
        claim: Claim,
        batches: Generator[list[Answered]],
        source: str,
        to: str,
        retagger: Retagger,
    ) -> None:
        self.partition, self.part, self.commits = partition, part, 0
        self._claim, self._batches = claim, batches
        self._source, self._to, self._retagger = source.encode(), to, retagger
        self._counts, self._open, self._reached = Counts(), 0, part.offset

    def step(self) -> bool:
        """Publish the next batch; whether there was one.

        Raises:
            ClaimLost
        """
        batch = next(self._batches, None)
        if batch is None:
            self._reached = self.part.note.end  # compaction may have left nothing at the end
            return False
        for entry, value in self._retagger.written(batch, self._counts):
            kind = None if value is None else self._retagger.content_type
            headers = result_headers(self._source, entry, content_type=kind)
            self._claim.produce(self._to, self.partition, entry.key, value, headers)
        self._reached = batch[-1].entry.offset + 1
        self._open += 1
        if self._open >= COMMIT_BATCHES:
            self.commit()
        return True

    def commit(self) -> None:
        """
        Raises:
            ClaimLost
        """
        if self._reached == self.part.offset:
            return
        note = self._counts.added_to(self.part.note)
        self._claim.commit({self.partition: (self._reached, note.text())})
        self.part = Part(self._reached, note)
        self.commits += 1
        self._counts, self._open = Counts(), 0

    def close(self) -> None:
        self._batches.close()
        self._claim.close()
