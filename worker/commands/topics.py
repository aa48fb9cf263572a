"""`imgclust-worker topics`: what the topics are, what they should be, and the missing ones made."""

from __future__ import annotations

from collections.abc import Iterator

from worker.commands.findings import Finding, report
from worker.commands.topic_fixes import fixes
from worker.kafka.topic_rules import KafkaCluster, Topic, duration, warnings
from worker.kafka.topics import Topics, await_made, create_missing, describe, look, problems
from worker.settings.settings import Settings
from worker.wiring import topics_config


def findings(settings: Settings) -> Iterator[Finding]:
    """What `imgclust-worker topics --check` says, and `check` too.

    Raises:
        StartError: no broker answers.
    """
    yield from _findings(settings, describe(topics_config(settings)))


def _findings(settings: Settings, cluster: KafkaCluster) -> Iterator[Finding]:
    yield Finding("Kafka", True, f"{cluster.brokers} broker(s) at {settings.bootstrap_servers}")
    counts = {topic.name: topic.partitions for topic in cluster.topics.values()}
    wrong = problems(Topics(counts, cluster.brokers, topics_config(settings).single))
    shown = "; ".join(_shown(topic) for topic in cluster.topics.values() if topic.partitions)
    if settings.create_topics and not all(counts.values()):
        made = f"there: {shown or 'none'}; `run` creates the rest (WORKER_CREATE_TOPICS)"
        yield Finding("topics", True, made)
        wrong = [problem for problem in wrong if not problem.startswith("missing topics")]
    elif not wrong:
        yield Finding("topics", True, shown)
    for problem in wrong:
        yield Finding("topics", False, problem)
    silent = [t.name for t in cluster.topics.values() if t.partitions and not t.config]
    if silent:
        yield Finding(
            "topics", True, f"the brokers do not show the configuration of {', '.join(silent)}",
            "allow DescribeConfigs on the topics to have it checked", warning=True,
        )  # fmt: skip
    for warn in warnings(cluster):
        yield Finding("topics", True, warn.what, warn.remedy, warning=True)


def _shown(topic: Topic) -> str:
    parts = [f"{topic.partitions} partitions", f"{topic.replicas} replicas"]
    if topic.config:
        parts.append("+".join(sorted(topic.policies)))
    reach = topic.number("retention.ms")
    if "delete" in topic.policies and reach is not None:
        parts.append(f"kept for {duration(reach)}")
    return f"{topic.name} ({', '.join(parts)})"


def command(settings: Settings, *, create: bool, replicas: int | None = None) -> int:
    """`imgclust-worker topics`: make what is missing if wanted, then say how things are; the exit code."""
    if create:
        config = topics_config(settings)
        made = create_missing(config, look(config), replicas)
        print(f"made: {', '.join(made)}" if made else "made: nothing, all topics are there")
        if made:
            await_made(config)
    cluster = describe(topics_config(settings))
    code = report(_findings(settings, cluster), ready="the topics are ready for `imgclust-worker run`")
    commands = list(fixes(settings.bootstrap_servers, cluster, warnings(cluster)))
    if commands:
        print("to fix everything at once with Kafka's own tools (check each line first):")
        print("\n".join(f"  {command}" for command in commands))
    return code
