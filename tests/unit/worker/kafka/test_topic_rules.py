"""worker.kafka.topic_rules: of what it makes there is nothing to warn, and each danger has its sentence."""

import dataclasses

import pytest

from tests.support.paths import ROOT
from worker.kafka.topic_rules import (
    PLANS,
    KafkaCluster,
    KeySample,
    Topic,
    TopicRole,
    duration,
    min_insync,
    plan_table,
    warnings,
)

ROLES: tuple[TopicRole, ...] = ("uploads", "tags", "retry", "dlq")


def made(brokers: int = 3, **broker: str) -> KafkaCluster:
    """A cluster whose topics are as `topics --create` makes them."""
    replicas = min(3, brokers)
    common = {"min.insync.replicas": str(min_insync(replicas)), "max.message.bytes": "1048588",
              "unclean.leader.election.enable": "false"}  # fmt: skip
    topics = {role: Topic(role, 8, replicas, {**common, **PLANS[role].config}) for role in ROLES}
    internal = (Topic("__transaction_state", 50, replicas, {**common, "cleanup.policy": "compact"}),)
    return KafkaCluster(brokers, topics, internal, {"offsets.retention.minutes": "10080", **broker})


def changed(role: TopicRole, replicas: int = 3, **config: str) -> KafkaCluster:
    """The same with one topic's configuration changed; `_` stands for `.`."""
    cluster = made()
    topic = cluster.topics[role]
    config = {name.replace("_", "."): value for name, value in config.items()}
    other = dataclasses.replace(topic, replicas=replicas, config={**topic.config, **config})
    return dataclasses.replace(cluster, topics={**cluster.topics, role: other})


def sampled(*keys: tuple[bytes | None, ...]) -> KafkaCluster:
    return dataclasses.replace(made(), samples=[KeySample(p, found) for p, found in enumerate(keys)])


def test_what_is_made_is_not_warned_of() -> None:
    """On three brokers and more, topics made from the plans contradict nothing, nor do keys that stay put."""
    assert warnings(made(3)) == []
    assert warnings(made(9)) == []
    assert warnings(sampled((b"a", b"a", b"b"), (), (b"c",))) == []


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (made(1), "1 broker(s): acknowledged results"),
        (made(2), "2 broker(s)"),
        (changed("tags", replicas=1), "fewer replicas than 3: tags (1)"),
        (changed("tags", min_insync_replicas="1"), "tags: min.insync.replicas is 1, so"),
        (changed("dlq", min_insync_replicas="3"), "dlq: min.insync.replicas is 3 of 3 replicas"),
        (changed("tags", unclean_leader_election_enable="true"), "tags: unclean.leader.election.enable"),
        (changed("tags", cleanup_policy="delete"), "tags: cleanup.policy is delete"),
        (changed("retry", cleanup_policy="compact,delete"), "retry: cleanup.policy has delete"),
        (changed("uploads", cleanup_policy="compact"), "uploads: cleanup.policy has compact"),
        (changed("tags", delete_retention_ms="3600000"), "tags: delete.retention.ms is 1 h"),
        (changed("uploads", retention_ms="3600000"), "uploads: retention.ms is 1 h"),
        (changed("uploads", retention_ms="-1"), "while uploads keeps its events for ever"),
        (made(3, **{"offsets.retention.minutes": "1440"}), "away for 1 d (offsets.retention.minutes)"),
        (changed("uploads", max_message_bytes="5000000"), "dlq: max.message.bytes is 1048588"),
        (changed("tags", max_message_bytes="1000"), "tags: max.message.bytes is 1000"),
        (changed("retry", max_message_bytes="1000"), "is not retried, but becomes a dead letter"),
        (made(3, **{"offset.metadata.max.bytes": "1024"}), "the brokers' offset.metadata.max.bytes is 1024"),
        (made(3, **{"transaction.max.timeout.ms": "9000"}), "no worker can start a transaction"),
        (sampled((b"a", None), (b"b",)), "events without a key in partition(s) 0"),
        (sampled((b"a",), (b"b\n", b"a"), (b"b\n",)), "the key b'a' is in partitions 0 and 1"),
    ],
)  # fmt: skip
def test_each_danger_is_named_with_a_remedy(cluster: KafkaCluster, said: str) -> None:
    """Who reads it learns the topic, the value that it has, what is lost, and what to do."""
    found = [warn for warn in warnings(cluster) if said in warn.what]
    assert found, [warn.what for warn in warnings(cluster)]
    assert all(warn.remedy for warn in found)


def test_what_brokers_do_not_tell_is_not_warned_of() -> None:
    """Topics without configuration (no right to describe them), or missing ones: only brokers are counted."""
    bare = {role: Topic(role, 4, 3) for role in ROLES}
    assert warnings(KafkaCluster(3, bare)) == []
    assert warnings(KafkaCluster(3, {role: Topic(role, 0) for role in ROLES})) == []


def test_two_replicas_are_not_told_to_be_what_they_are() -> None:
    """With two replicas min.insync.replicas has no good value; the remedy is a third broker, said once."""
    assert [w.what.split(":")[0] for w in warnings(made(2))] == ["2 broker(s)"]


@pytest.mark.parametrize(
    ("ms", "text"),
    [(-1, "ever"), (604_800_000, "7 d"), (5_400_000, "90 min"), (1500, "1500 ms"), (0, "0 ms")],
)
def test_durations_are_for_people(ms: int, text: str) -> None:
    """The largest unit that leaves no rest."""
    assert duration(ms) == text


def test_the_documentation_has_the_plans() -> None:
    """docs/deploy.md shows what `topics --create` makes, for those who make topics in another way."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert plan_table() in page
