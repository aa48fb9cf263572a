"""Kafka as a value: logs, committed offsets, a group, transactions.

tests/contracts/test_kafka.py runs the same tests against it and against Apache Kafka.

`FakeBroker.consumer` and `.producer` take the places of confluent-kafka's `Consumer` and `Producer`; the
clients are in `fake_clients`. A test scripts failures with `script`: for each call an error, and whether the
call had its effect all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition

if TYPE_CHECKING:
    from tests.support.fake_clients import FakeAdmin, FakeConsumer, FakeProducer

Error = dict[str, Any]  # arguments of KafkaError
Script = Mapping[str, Sequence[tuple[Error | None, bool]]]
MAX_METADATA_BYTES = 4095  # the broker's default setting says 4,096, and refuses that many


def failure(code: int, **flags: bool) -> KafkaException:
    return KafkaException(KafkaError(code, **flags))


@dataclasses.dataclass
class Stored:
    """A record of a log; a marker is where a transaction ended, and no reader sees it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    state: str = "committed"  # or open, aborted, marker
    timestamp: int = 1000

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")


@dataclasses.dataclass
class Transaction:
    records: list[tuple[str, int, Stored]] = dataclasses.field(default_factory=list)
    offsets: dict[tuple[str, str, int], tuple[int, str]] = dataclasses.field(default_factory=dict)


class FakeBroker:
    """One cluster.

    Attributes:
        committed: (group, topic, partition) → offset and metadata.
        history: (topic, partition, record) of all that readers can see, in the order in which they could.
        calls: the names of the calls so far that a script can make fail.
        acknowledges: whether a producer's polls bring answers; without them `FakeProducer.answer` does.
    """

    def __init__(self, topics: Mapping[str, int], script: Script | None = None) -> None:
        self.logs: dict[tuple[str, int], list[Stored]] = {
            (topic, p): [] for topic, count in topics.items() for p in range(count)
        }
        self.starts: defaultdict[tuple[str, int], int] = defaultdict(int)  # retention cuts here
        self.limits: dict[str, int] = {}  # topic → max.message.bytes
        self.denied: set[str] = set()  # topics that must not be written to
        self.committed: dict[tuple[str, str, int], tuple[int, str]] = {}
        self.history: list[tuple[str, int, Stored]] = []
        self.open: dict[str, Transaction] = {}  # transactional.id → what is not ended
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.members: dict[str, dict[str, FakeConsumer]] = {}  # group → member → client
        self.generation = 0
        self.ids: dict[str, str] = {topic: f"{n:022d}" for n, topic in enumerate(topics, 1)}
        self.acknowledges = True
        self.script = {name: deque(steps) for name, steps in (script or {}).items()}
        self.calls: list[str] = []
        self._numbers = itertools.count(1)
        self._ids = itertools.count(len(topics) + 1)

    def consumer(self, config: Mapping[str, Any], **_: object) -> FakeConsumer:
        from tests.support.fake_clients import FakeConsumer

        return FakeConsumer(self, config)

    def admin(self) -> FakeAdmin:
        from tests.support.fake_clients import FakeAdmin

        return FakeAdmin(self)

    def producer(self, config: Mapping[str, Any], **_: object) -> FakeProducer:
        from tests.support.fake_clients import FakeProducer

        return FakeProducer(self, config)

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """The block is the call's effect; raised is what the script says of it."""
        self.calls.append(name)
        steps = self.script.get(name)
        error, has_effect = steps.popleft() if steps else (None, True)
        if error is None or has_effect:
            yield
        if error is not None:
            raise KafkaException(KafkaError(**error))

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, topic: str, partition: int, record: Stored) -> int:
        """The offset of a record, from now on in the log."""
        log = self.logs[topic, partition]
        log.append(record)
        if record.state == "committed":
            self.history.append((topic, partition, record))
        return len(log) - 1

    def send(self, topic: str, value: bytes | None, partition: int = 0, key: bytes | None = None) -> int:
        return self.append(topic, partition, Stored(key, value, []))

    def end(self, topic: str, partition: int, *, stable: bool = True) -> int:
        """One past the last record, or, for `read_committed`, before the first open transaction."""
        log = self.logs[topic, partition]
        undecided = (i for i, r in enumerate(log) if r.state == "open")
        return next(undecided, len(log)) if stable else len(log)

    def cut(self, topic: str, partition: int, start: int) -> None:
        """Retention takes away what is before `start`."""
        self.starts[topic, partition] = start

    def make_anew(self, topic: str, *, keep_offsets: bool = False) -> None:
        """Delete a topic and make it again. Its offsets go with it, unless they are committed again."""
        for here in self.logs:
            if here[0] == topic:
                self.logs[here], self.starts[here] = [], 0
        if not keep_offsets:
            self.committed = {where: found for where, found in self.committed.items() if where[1] != topic}
        self.ids[topic] = f"{next(self._ids):022d}"

    # ── transactions ─────────────────────────────────────────────────────────────────────────────────────

    def finish(self, transactional_id: str, commit: bool) -> None:
        """End what is open under this id, if anything is."""
        transaction = self.open.pop(transactional_id, None)
        if transaction is None:
            return
        for topic, partition, record in transaction.records:
            record.state = "committed" if commit else "aborted"
            if commit:
                self.history.append((topic, partition, record))
        for topic, partition in dict.fromkeys((t, p) for t, p, _ in transaction.records):
            self.append(topic, partition, Stored(None, None, [], "marker"))
        if commit:
            self.committed |= transaction.offsets

    def is_unstable(self, group: str, topic: str, partition: int) -> bool:
        """Whether an open transaction has an offset of this partition in it."""
        return any((group, topic, partition) in t.offsets for t in self.open.values())

    def fetch_offset(self, group: str, topic: str, partition: int) -> TopicPartition:
        if self.is_unstable(group, topic, partition):
            raise failure(KafkaError._TIMED_OUT, retriable=True)
        offset, metadata = self.committed.get((group, topic, partition), (OFFSET_INVALID, ""))
        return TopicPartition(topic, partition, offset, metadata)

    # ── the group ────────────────────────────────────────────────────────────────────────────────────────

    def join(self, group: str, client: FakeConsumer) -> str:
        member = f"member-{next(self._numbers)}"
        self.members.setdefault(group, {})[member] = client
        self.generation += 1
        return member

    def leave(self, group: str, member: str) -> None:
        if self.members.get(group, {}).pop(member, None) is not None:
            self.generation += 1

    def share(self, group: str, member: str, topic: str) -> set[int]:
        """The partitions that this member is to have."""
        members = list(self.members.get(group, {}))
        partitions = sorted(p for name, p in self.logs if name == topic)
        return {p for p in partitions if members and members[p % len(members)] == member}

    def is_free(self, group: str, partition: int) -> bool:
        return all(partition not in client.group_owns for client in self.members[group].values())

    def metadata(self, group: str, member: str | None) -> bytes:
        """As librdkafka writes a membership, or that there is none."""
        known = member is not None and member in self.members.get(group, {})
        generation = (self.generation if known else -1).to_bytes(4, "little", signed=True)
        name = (member or "").encode() if known else b""
        return b"CGMDv2:" + generation + group.encode() + b"\0" + name + b"\0\0"

    def is_known(self, metadata: bytes) -> bool:
        """Whether a membership is that of a member now; brokers let one without a name through."""
        group, _, rest = bytes(metadata)[11:].partition(b"\0")
        member = rest.partition(b"\0")[0].decode()
        return not member or member in self.members.get(group.decode(), {})
