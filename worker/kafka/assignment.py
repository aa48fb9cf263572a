"""The table of owned partitions: what each assignment begins with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from confluent_kafka import TopicPartition as KafkaPartition

from worker.kafka.offsets import NO_TOPICS, CommitTopics, PartitionOffsets
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending
from worker.telemetry.window import Lateness

# A position that could not be read is asked for again after this long; polls go on meanwhile. The answer
# takes 1 ms, or as long as the open transaction of a dead member (10 s): asking is cut short, a little later
# each time, so that a busy broker gets its chance and the other partitions do not wait.
POSITION_TIMEOUT = 0.1


POSITION_TIMEOUT_MAX = 1.0


@dataclasses.dataclass(slots=True)
class OwnedPartition:
    """One assigned partition; `offsets` is None until its position is known."""

    epoch: int
    lateness: Lateness
    offsets: PartitionOffsets | None = None
    committed: KafkaPartition | None = None  # as its last owner left it, when that is known
    restored: PendingRetries[Pending] | None = None  # its pending retries, between restoration and beginning
    reset: bool = False  # librdkafka had nowhere to begin
    ask_at: float = -math.inf
    asked: bool = False  # and not answered
    patience: float = POSITION_TIMEOUT
    topics: CommitTopics = NO_TOPICS  # that its offsets are of
    pending: PendingRetries[Pending] | None = None  # what waits for another try, once it has begun
    end: int = 0  # of the log, as it was last heard of
    assigned_at: float = math.inf
    trouble: str = ""  # why it cannot begin
    told: bool = False  # that it has not begun for long
    lag_at: float = -math.inf  # when its lag was asked for last, while it has not begun
    held_back: int | None = None  # first offset that waits until commits can describe it
    heard_at: float = math.inf  # of its records; infinite before it begins
    silence: float = 0.0  # how long it may be silent before the broker is asked whether there are any


class Assigned(Protocol):
    """What a consumer remembers of one assignment of a partition."""

    @property
    def epoch(self) -> int: ...


State = TypeVar("State", bound=Assigned)


class OwnedPartitions(dict[int, State]):
    """The table of owned partitions, of uploads or of tags. Each assignment has an epoch of its own.

    Args:
        state: what is remembered of an assignment at first, by its epoch.
    """

    def __init__(self, state: Callable[[int], State]) -> None:
        super().__init__()
        self._state = state
        self._epoch = 0

    def begin(self, partition: int) -> State:
        """It is assigned, perhaps once more."""
        self._epoch += 1
        self[partition] = owned = self._state(self._epoch)
        return owned

    def end(self, partition: int) -> None:
        """It is somebody else's."""
        del self[partition]

    def of_epoch(self, partition: int, epoch: int) -> State | None:
        """None when that assignment is over."""
        owned = self.get(partition)
        return owned if owned is not None and owned.epoch == epoch else None


@dataclasses.dataclass(frozen=True, slots=True)
class BegunPartition:
    """A partition is ours and is read from now on.

    Attributes:
        position: the first offset that is read.
        deaths: how many owners in a row began to encode at this position and did not leave in order.
        suspects_end: where what the last of them may have had in flight ends.
        pending: what waits for another try.
    """

    partition: int
    epoch: int
    position: int
    deaths: int
    pending: PendingRetries[Pending]
    suspects_end: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What is done in owned partitions, and the membership under which they are owned, of one moment.

    Attributes:
        member: group metadata for `send_offsets_to_transaction`.
        states: (partition, epoch, (offset, metadata)).
    """

    topic: str
    member: Any
    states: tuple[tuple[int, int, tuple[int, str]], ...]

    @property
    def offsets(self) -> list[KafkaPartition]:
        return [KafkaPartition(self.topic, p, offset, text) for p, _, (offset, text) in self.states]


def is_member(metadata: Any) -> bool:
    """Whether group metadata names a member: brokers take offsets without one, and fence nobody then.

    The bytes are librdkafka's: "CGMDv2:", the generation (4 bytes), the group and the member, each ended by
    a zero byte (rd_kafka_consumer_group_metadata_write).
    """
    raw = bytes(metadata)
    if not raw.startswith(b"CGMDv2:"):
        raise ValueError(f"group metadata of a form that this program does not know: {raw[:8]!r}")
    generation = int.from_bytes(raw[7:11], "little", signed=True)
    _, _, rest = raw[11:].partition(b"\0")
    return generation >= 0 and not rest.startswith(b"\0") and bool(rest)
