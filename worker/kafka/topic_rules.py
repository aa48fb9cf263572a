"""How the four topics should be configured, and what is wrong with those that are not. Pure.

`PLANS` is the one table: `topics --create` makes topics from it, and docs/deploy.md shows it (a test compares
the two). A rule never refuses what works for somebody; it says what is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from worker.kafka.client_config import TRANSACTION_TIMEOUT_MS
from worker.kafka.offsets import MAX_METADATA_BYTES
from worker.messages.text import printable

TopicRole = Literal["uploads", "tags", "retry", "dlq", "embeddings", "models"]
MINUTE, DAY = 60_000, 86_400_000  # milliseconds
REPLICAS = 3  # one broker may be taken down for an upgrade while another one fails


@dataclasses.dataclass(frozen=True, slots=True)
class TopicPlan:
    """What a topic is made with, and why."""

    config: Mapping[str, str]
    why: str


PLANS: Mapping[TopicRole, TopicPlan] = {
    "uploads": TopicPlan(
        {"cleanup.policy": "delete", "retention.ms": str(7 * DAY)},
        "how far the workers may fall behind before uploads are lost",
    ),
    "tags": TopicPlan(
        {"cleanup.policy": "compact", "delete.retention.ms": str(7 * DAY), "max.compaction.lag.ms": str(DAY)},
        "keeps the newest tag of each id for ever; a view may be down for a week and still see "
        "deletions; the old tag of a deleted upload is gone within about a day",
    ),
    "retry": TopicPlan(
        {"cleanup.policy": "compact", "max.compaction.lag.ms": str(10 * MINUTE)},
        (
            "pending retries, never dropped by age; compacted soon, because the next owner of a "
            "partition reads them first"
        ),
    ),
    "dlq": TopicPlan(
        {"cleanup.policy": "delete", "retention.ms": str(30 * DAY)},
        "how long you have to look at a dead letter and replay it",
    ),
    "embeddings": TopicPlan(
        {"cleanup.policy": "compact", "max.compaction.lag.ms": str(DAY)},
        "if set: keeps the newest embedding of each id for ever; that of a deleted upload is gone "
        "within about a day",
    ),
    "models": TopicPlan(
        {"cleanup.policy": "compact", "max.compaction.lag.ms": str(DAY)},
        "if set: which model is live and which is the shadow, and what each worker runs; one partition",
    ),
}
ONE_PARTITION: frozenset[TopicRole] = frozenset({"models"})
"""Topics that hold no results, and so need not have the partitions of uploads."""


def min_insync(replicas: int) -> int:
    """One less than there are replicas: a result survives any one broker, and no one broker stops writing."""
    return max(1, replicas - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Topic:
    """One topic as the brokers describe it.

    Attributes:
        partitions: 0 when it is missing.
        replicas: of the partition that has fewest.
        config: name → value of the topic; empty when the brokers do not say.
    """

    name: str
    partitions: int
    replicas: int = 0
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """A numeric property; None when it is not known. −1 means unlimited in most of them."""
        try:
            return int(self.config[name])
        except (KeyError, ValueError):
            return None

    @property
    def policies(self) -> set[str]:
        return {policy.strip() for policy in self.config.get("cleanup.policy", "").split(",")} - {""}


@dataclasses.dataclass(frozen=True, slots=True)
class KeySample:
    """The keys of the last records of one partition of uploads; None is a record without one."""

    partition: int
    keys: tuple[bytes | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class KafkaCluster:
    """What the rules look at.

    Attributes:
        topics: by role; "embeddings" and "models" only where they are set.
        internal: `__transaction_state` and `__consumer_offsets`, as far as they exist.
        broker: configuration of one broker; empty when it does not say.
        samples: see `KeySample`; empty when not taken.
    """

    brokers: int
    topics: Mapping[TopicRole, Topic]
    internal: Sequence[Topic] = ()
    broker: Mapping[str, str] = dataclasses.field(default_factory=dict)
    samples: Sequence[KeySample] = ()

    @property
    def all(self) -> tuple[Topic, ...]:
        return (*self.topics.values(), *self.internal)


@dataclasses.dataclass(frozen=True, slots=True)
class Warn:
    """Something that works today and contradicts a promise; `remedy` says what to do.

    Attributes:
        fix: topic, property, value: where a property of a topic is all that must change.
    """

    what: str
    remedy: str
    fix: tuple[str, str, str] | None = None


def _set(topic: Topic, name: str, value: str | int, what: str, remedy: str = "set it to {}") -> Warn:
    return Warn(f"{topic.name}: {what}", remedy.format(value), (topic.name, name, str(value)))


Rule = Callable[[KafkaCluster], Iterable[Warn]]


def replication(cluster: KafkaCluster) -> Iterator[Warn]:
    """Exactly once means that what was acknowledged stays."""
    wanted = min(REPLICAS, cluster.brokers)
    few = [topic for topic in cluster.all if 0 < topic.replicas < wanted]
    if few:
        shown = ", ".join(f"{topic.name} ({topic.replicas})" for topic in few)
        yield Warn(
            f"fewer replicas than {wanted}: {shown}; acknowledged results and positions are gone with one "
            "broker",
            "raise the replication factor (kafka-reassign-partitions)",
        )
    elif cluster.brokers < REPLICAS:
        yield Warn(
            f"{cluster.brokers} broker(s): acknowledged results and positions are gone with one disk",
            f"run at least {REPLICAS} brokers in production",
        )


def in_sync(cluster: KafkaCluster) -> Iterator[Warn]:
    for topic in cluster.all:
        least = topic.number("min.insync.replicas")
        if least is None or topic.replicas < 2:
            continue
        if least < 2 < topic.replicas:
            what = f"min.insync.replicas is {least}, so a result counts as safe on one broker alone"
        elif least >= topic.replicas:
            what = (
                f"min.insync.replicas is {least} of {topic.replicas} replicas, so nothing can be written "
                "while one broker is down"
            )
        else:
            continue
        yield _set(topic, "min.insync.replicas", min_insync(topic.replicas), what)


def unclean(cluster: KafkaCluster) -> Iterator[Warn]:
    for topic in cluster.all:
        if topic.config.get("unclean.leader.election.enable") == "true":
            what = (
                "unclean.leader.election.enable is true, so a broker that was behind may take over, and "
                "committed results disappear"
            )
            yield _set(topic, "unclean.leader.election.enable", "false", what)


def compaction(cluster: KafkaCluster) -> Iterator[Warn]:
    losses: dict[TopicRole, str] = {
        "embeddings": (
            "so embeddings are deleted after some time, and are missing in training and retagging"
        ),
        "models": "so the name of the live model is deleted after the retention time",
        "tags": "so tags are deleted after the retention time, and are missing in a rebuilt view",
    }
    for role, loss in losses.items():
        topic = cluster.topics.get(role)
        both_will_do = role != "models"
        if topic is None or not topic.policies or topic.policies == {"compact"}:
            continue
        if not (both_will_do and "compact" in topic.policies):
            what = f"cleanup.policy is {','.join(sorted(topic.policies))}, {loss}"
            yield _set(topic, "cleanup.policy", "compact", what)
    retry, uploads = cluster.topics["retry"], cluster.topics["uploads"]
    if "delete" in retry.policies:
        what = "cleanup.policy has delete, so an upload that waits for a retry can be lost"
        yield _set(retry, "cleanup.policy", "compact", what)
    if "compact" in uploads.policies:
        what = (
            "cleanup.policy has compact, so an event may vanish before it is read, and a deletion may be "
            "missed"
        )
        yield _set(uploads, "cleanup.policy", "delete", what)


def retention(cluster: KafkaCluster) -> Iterator[Warn]:
    tags, uploads = cluster.topics["tags"], cluster.topics["uploads"]
    kept = tags.number("delete.retention.ms")
    if kept is not None and kept < DAY:
        what = (
            f"delete.retention.ms is {duration(kept)}; a view that is down for longer reads all tags again "
            "to find what was deleted"
        )
        yield _set(tags, "delete.retention.ms", PLANS["tags"].config["delete.retention.ms"], what)
    reach = uploads.number("retention.ms")
    if reach is not None and 0 <= reach < DAY:
        yield _set(
            uploads, "retention.ms", PLANS["uploads"].config["retention.ms"],
            f"retention.ms is {duration(reach)}; workers that are down for longer lose uploads",
            "set it to the longest outage that you want to survive, such as {}",
        )  # fmt: skip
    minutes = cluster.broker.get("offsets.retention.minutes", "")
    if minutes.isdigit() and reach is not None and (reach < 0 or reach > int(minutes) * MINUTE):
        kept_for = duration(int(minutes) * MINUTE)
        yield Warn(
            f"the brokers forget the positions of a group that has been away for {kept_for} "
            f"(offsets.retention.minutes), while {uploads.name} keeps its events for {duration(reach)}: "
            "after such a pause uploads are tagged again, or skipped (WORKER_START)",
            "raise offsets.retention.minutes above the retention of uploads",
        )


def sizes(cluster: KafkaCluster) -> Iterator[Warn]:
    uploads = cluster.topics["uploads"]
    largest = uploads.number("max.message.bytes")
    losses: dict[TopicRole, str] = {
        "retry": "a larger event is not retried, but becomes a dead letter",
        "dlq": "a larger event arrives there without its value",
        "tags": "an event whose attributes are larger becomes a dead letter",
    }
    for role, loss in losses.items():
        copy = cluster.topics[role]
        limit = copy.number("max.message.bytes")
        if largest is not None and limit is not None and limit < largest:
            yield _set(
                copy, "max.message.bytes", largest,
                f"max.message.bytes is {limit}, {uploads.name} takes {largest}: {loss}",
                "set it to {} or more",
            )  # fmt: skip


def brokers(cluster: KafkaCluster) -> Iterator[Warn]:
    """What the brokers allow at most, where a worker needs more."""
    needs = {
        "offset.metadata.max.bytes": (MAX_METADATA_BYTES, "commits fail when uploads are done out of order"),
        "transaction.max.timeout.ms": (TRANSACTION_TIMEOUT_MS, "no worker can start a transaction"),
    }
    for name, (need, loss) in needs.items():
        value = cluster.broker.get(name, "")
        if value.isdecimal() and int(value) < need:
            yield Warn(f"the brokers' {name} is {value}: {loss}", f"set it to {need} or more")


def order(cluster: KafkaCluster) -> Iterator[Warn]:
    """All events of an id must be in one partition, or nobody knows which is the last."""
    keyless = [sample.partition for sample in cluster.samples if None in sample.keys]
    if keyless:
        yield Warn(
            f"{cluster.topics['uploads'].name}: events without a key in partition(s) "
            f"{', '.join(map(str, keyless))}; without keys, events of one id can overtake each "
            "other",
            "let the producer send the upload's id as the key",
        )
    seen: dict[bytes, int] = {}
    for sample in cluster.samples:
        for key in sample.keys:
            if key is not None and seen.setdefault(key, sample.partition) != sample.partition:
                yield Warn(
                    f"{cluster.topics['uploads'].name}: the key {printable(key)} is in partitions "
                    f"{seen[key]} and {sample.partition}; so the order of its events is undefined",
                    "let all producers use the same partitioner, and add partitions only to a drained topic",
                )
                return


RULES: tuple[Rule, ...] = (replication, in_sync, unclean, compaction, retention, sizes, brokers, order)


def warnings(cluster: KafkaCluster) -> list[Warn]:
    """What contradicts exactly-once delivery, or the order of an id's events."""
    return [warn for rule in RULES for warn in rule(cluster)]


def duration(ms: int) -> str:
    """Milliseconds for a person: the largest unit that leaves no rest, 'ever' for −1."""
    if ms < 0:
        return "ever"
    for unit, size in (("d", DAY), ("h", 60 * MINUTE), ("min", MINUTE), ("s", 1000)):
        if ms >= size and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def plan_table() -> str:
    """The table of docs/deploy.md, in Markdown."""
    lines = ["| topic | made with | why |", "|---|---|---|"]
    for role, plan in PLANS.items():
        config = ", ".join(f"`{name}={value}`" for name, value in plan.config.items())
        lines.append(f"| `WORKER_{role.upper()}_TOPIC` | {config} | {plan.why} |")
    return "\n".join(lines)
