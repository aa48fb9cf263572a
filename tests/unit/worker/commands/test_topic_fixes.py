"""What `topics --check` says to do: one command for each topic, after all of which nothing is left to say."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from worker.commands.topic_fixes import fixes
from worker.kafka.topic_rules import PLANS, KafkaCluster, Topic, TopicRole, warnings

VALUES = {
    "cleanup.policy": ["compact", "delete", "compact,delete"],
    "min.insync.replicas": ["1", "2", "3"],
    "unclean.leader.election.enable": ["true", "false"],
    "max.message.bytes": ["1000", "1048588", "5000000"],
    "delete.retention.ms": ["1000", "604800000"],
    "retention.ms": ["1000", "604800000"],
}
CONFIGS = st.fixed_dictionaries({}, optional={name: st.sampled_from(v) for name, v in VALUES.items()})


def cluster(configs: Mapping[TopicRole, dict[str, str]], counts: Mapping[TopicRole, int]) -> KafkaCluster:
    topics = {role: Topic(f"{role}-topic", counts[role], 3, configs[role]) for role in configs}
    return KafkaCluster(3, topics)


def after(cluster: KafkaCluster, commands: list[str]) -> KafkaCluster:
    """What Kafka's tools would make of it."""
    topics = {topic.name: topic for topic in cluster.topics.values()}
    for command in commands:
        words = shlex.split(command)
        assert words[1:3] == ["--bootstrap-server", "k1:9092,k2:9092"]
        options = dict(zip(words[4::2], words[5::2], strict=True))
        if words[0] == "kafka-topics.sh":
            topic = topics[options["--topic"]]
            more = dataclasses.replace(topic, partitions=int(options["--partitions"]))
            topics[topic.name] = more
        else:
            topic = topics[options["--entity-name"]]
            changed = dict(pair.split("=") for pair in options["--add-config"].split(","))
            topics[topic.name] = dataclasses.replace(topic, config={**topic.config, **changed})
    return dataclasses.replace(
        cluster, topics={role: topics[topic.name] for role, topic in cluster.topics.items()}
    )


@given(
    st.fixed_dictionaries(dict.fromkeys(PLANS, CONFIGS)), st.lists(st.integers(1, 3), min_size=6, max_size=6)
)
def test_when_all_is_done_nothing_is_left(
    configs: dict[TopicRole, dict[str, str]], counts: list[int]
) -> None:
    """Whatever is wrong with properties and numbers of partitions; what is right is left alone."""
    before = cluster(configs, dict(zip(PLANS, counts, strict=True)))
    commands = list(fixes("k1:9092,k2:9092", before, warnings(before)))
    fixed = after(before, commands)
    assert not [warn for warn in warnings(fixed) if warn.fix is not None]
    assert list(fixes("k1:9092,k2:9092", fixed, warnings(fixed))) == []
    assert len({topic.partitions for role, topic in fixed.topics.items() if role != "models"}) == 1
    assert len(commands) == len(set(commands))


def test_missing_topics_are_made_by_the_worker() -> None:
    """They need no other tool, and no number of partitions is made up for them."""
    none = cluster({role: {} for role in PLANS}, dict.fromkeys(PLANS, 0))
    assert list(fixes("k1:9092", none, warnings(none))) == ["imgclust-worker topics --create"]
