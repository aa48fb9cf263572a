"""What the worker says when it cannot start, as an operator sees it: exit codes and sentences."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.support import preloaded
from tests.support.kafka_cluster import Topics
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import Kafka, free_ports

pytestmark = pytest.mark.slow


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WORKER_")}
    (port,) = free_ports(1)
    settings = {"WORKER_HTTP": f"127.0.0.1:{port}", "WORKER_LOG": "text", "WORKER_DEVICE": "cpu"}
    return preloaded.run("worker", *arguments, env={**clean, **settings, **env}, timeout=120)


def of(topics: Topics, **env: str) -> dict[str, str]:
    return {
        "WORKER_BOOTSTRAP_SERVERS": topics.bootstrap, "WORKER_UPLOADS_TOPIC": topics.uploads,
        "WORKER_TAGS_TOPIC": topics.tags, "WORKER_RETRY_TOPIC": topics.retry, "WORKER_DLQ_TOPIC": topics.dlq,
        **env,
    }  # fmt: skip


def test_all_wrong_settings_are_named_at_once() -> None:
    """Exit code 2; each wrong setting by name with value and what is allowed; secrets are not shown."""
    done = run(
        "run", WORKER_MAX_BATCH="many", WORKER_HTTP="here", WORKER_SLOT="3", WORKER_REDIS_URL="hunter2",
        WORKER_KAFKA_ENABLE_IDEMPOTENCE="false",
    )  # fmt: skip
    assert done.returncode == 2
    assert "WORKER_MAX_BATCH must be a whole number between 1 and 4,096; got 'many'" in done.stderr
    assert "WORKER_HTTP must be host:port; got 'here'" in done.stderr
    assert "WORKER_SLOT is not a setting; did you mean WORKER_SLOTS?" in done.stderr
    assert "WORKER_KAFKA_ENABLE_IDEMPOTENCE cannot be set" in done.stderr
    assert "WORKER_REDIS_URL must be" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_does_not_wait_for_kafka() -> None:
    """Exit code 3 and the address that was tried."""
    (port,) = free_ports(1)
    done = run("topics", "--create", WORKER_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    assert done.returncode == 3
    assert f"no answer from Kafka at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_topics_are_named(mock_kafka: Kafka) -> None:
    """Exit code 3, the missing topics, and the setting that makes them."""
    done = run("run", WORKER_BOOTSTRAP_SERVERS=mock_kafka.bootstrap, WORKER_UPLOADS_TOPIC="nowhere")
    assert done.returncode == 3
    assert "missing topics: nowhere" in done.stderr
    assert "WORKER_CREATE_TOPICS=true" in done.stderr


def test_a_model_is_needed(mock_kafka: Kafka) -> None:
    """Exit code 3 when WORKER_MODEL is not set."""
    done = run("run", **of(Topics(mock_kafka)))
    assert done.returncode == 3
    assert "WORKER_MODEL is not set" in done.stderr


def test_a_damaged_model_is_refused(mock_kafka: Kafka, model_folder: Path, tmp_path: Path) -> None:
    """One changed byte in the model folder: exit code 3 and the file's name."""
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    arrays = copy / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    done = run("run", **of(Topics(mock_kafka), WORKER_MODEL=str(copy)))
    assert done.returncode == 3
    assert "arrays.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(mock_kafka: Kafka, model_folder: Path) -> None:
    """Exit code 3, the address, and the setting to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("run", **of(Topics(mock_kafka), WORKER_MODEL=str(model_folder), WORKER_HTTP=address))
    assert done.returncode == 3
    assert address in done.stderr
    assert "WORKER_HTTP" in done.stderr


def test_check_says_what_works(mock_kafka: Kafka, model_folder: Path, redis_store: RedisServer) -> None:
    """Everything in place: exit code 0; Redis away: exit code 3, and only Redis is marked."""
    topics = Topics(mock_kafka)
    env = of(topics, WORKER_MODEL=str(model_folder), WORKER_REDIS_URL=redis_store.url)
    done = run("check", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("Kafka", "topics", "Redis", "model", "encoder"):
        assert f"ok  {what}" in done.stdout
    redis_store.kill()
    done = run("check", **env)
    assert done.returncode == 3
    assert "no  Redis" in done.stdout
    assert "ok  Kafka" in done.stdout


@pytest.mark.kafka
def test_missing_topics_are_made_and_looked_at(
    apache_kafka: Kafka, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`topics --create` and WORKER_CREATE_TOPICS=true make all of them alike, configured as planned, once;
    what contradicts the order of events or exactly-once delivery is told, and changes no exit code."""
    from worker.commands.topics import command
    from worker.kafka import topics
    from worker.kafka.topic_rules import PLANS
    from worker.settings import load as settings
    from worker.wiring import topics_config

    run_id = uuid.uuid4().hex[:8]
    names = {f"WORKER_{role.upper()}_TOPIC": f"{run_id}-{role}" for role in PLANS}
    env = {"WORKER_BOOTSTRAP_SERVERS": apache_kafka.bootstrap, "WORKER_PARTITIONS": "3", **names}
    env["WORKER_MODELS_FOLDER"] = str(tmp_path)
    loaded = settings.load({**env, "WORKER_CREATE_TOPICS": "true"})

    assert command(settings.load(env), create=False) == 3
    first = capsys.readouterr().out
    assert "missing topics" in first
    assert "  imgclust-worker topics --create" in first
    assert command(loaded, create=True, replicas=1) == 0
    assert f"{run_id}-tags (3 partitions, 1 replicas, compact)" in capsys.readouterr().out
    assert topics.ensure(topics_config(loaded)).counts == {
        **dict.fromkeys(names.values(), 3),
        f"{run_id}-models": 1,
    }
    cluster = topics.describe(topics_config(loaded))
    for role, plan in PLANS.items():
        told = cluster.topics[role].config
        assert {name: told[name] for name in plan.config} == plan.config
        assert told["min.insync.replicas"] == "1"

    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap})
    for partition, key in ((0, b"same"), (2, b"same"), (1, None)):
        producer.produce(loaded.uploads_topic, b"{}", key, partition)
    assert producer.flush(PATIENCE) == 0
    assert command(loaded, create=True) == 0
    told_now = capsys.readouterr().out
    assert "made: nothing" in told_now
    assert "!!  topics: 1 broker(s)" in told_now
    assert f"{loaded.uploads_topic}: events without a key in partition(s) 1" in told_now
    assert "the key b'same' is in partitions 0 and 2" in told_now


@pytest.mark.kafka
def test_topics_that_do_not_fit_are_refused(apache_kafka: Kafka) -> None:
    """Different numbers of partitions: the start is refused with the numbers, because results keep theirs."""
    from worker.errors import StartError
    from worker.kafka import topics
    from worker.settings import load as settings
    from worker.wiring import topics_config

    run_id = uuid.uuid4().hex[:8]
    names = {f"WORKER_{t}_TOPIC": f"{run_id}-{t.lower()}" for t in ("UPLOADS", "TAGS", "RETRY", "DLQ")}
    apache_kafka.create_topics(list(names.values())[:3], 2)
    apache_kafka.create_topics([f"{run_id}-dlq"], 3)
    loaded = settings.load({"WORKER_BOOTSTRAP_SERVERS": apache_kafka.bootstrap, **names})
    wait_for("the broker knows them", lambda: all(topics.look(topics_config(loaded)).counts.values()))
    with pytest.raises(StartError, match=f"{run_id}-dlq: 3"):
        topics.ensure(topics_config(loaded))


def test_help_answers_without_loading_anything_heavy() -> None:
    """`--help` names the commands and the exit codes."""
    done = run("--help")
    assert done.returncode == 0
    for word in ("run", "view", "demo", "check", "topics", "exit codes"):
        assert word in done.stdout
    code = "import sys, json, worker.__main__ as m; m.parser(); print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "umap", "numpy", "confluent_kafka"} & set(json.loads(loaded.stdout))
