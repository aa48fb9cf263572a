"""Commands that fix what `imgclust-worker topics --check` has found: those of Kafka's own tools."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from worker.kafka.topic_rules import ONE_PARTITION, KafkaCluster, Warn


def fixes(servers: str, cluster: KafkaCluster, warnings: Iterable[Warn]) -> Iterator[str]:
    """All of them, to be looked at and pasted; what no command can fix is left out.

    Args:
        servers: WORKER_BOOTSTRAP_SERVERS. Brokers that want credentials want `--command-config` as well.
    """
    if any(not topic.partitions for topic in cluster.topics.values()):
        yield "imgclust-worker topics --create"
    alike = [t for role, t in cluster.topics.items() if role not in ONE_PARTITION and t.partitions]
    most = max((topic.partitions for topic in alike), default=0)
    for topic in alike:
        if topic.partitions < most:
            yield _command("kafka-topics.sh", servers, f"--alter --topic {topic.name} --partitions {most}")
    changes: dict[str, list[str]] = {}
    for name, key, value in (warn.fix for warn in warnings if warn.fix is not None):
        changes.setdefault(name, []).append(f"{key}={value}")
    for name, pairs in changes.items():
        alter = f"--alter --entity-type topics --entity-name {name} --add-config {','.join(pairs)}"
        yield _command("kafka-configs.sh", servers, alter)


def _command(tool: str, servers: str, rest: str) -> str:
    return f"{tool} --bootstrap-server {shlex.quote(servers)} {rest}"
