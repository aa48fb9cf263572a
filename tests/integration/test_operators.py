"""`dlq list`, `dlq replay`, `explain` on topics that a test wrote: on the mock cluster, on Apache Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.support.kafka_cluster import Topics, headers_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE, wait_for
from tests.support.worker_process import settings_for
from worker.__main__ import main
from worker.kafka.offsets import encode_done
from worker.messages.tag import Tag
from worker.view.records import read_record
from worker.view.store import Reached, Span, TagsView

Command = Callable[..., tuple[int, str, str]]
EVIL = "x\x1b[31m\u202e\n"  # colours a terminal, turns text round, starts a new line
AT = 1_790_000_000_000  # 2026-09-21T14:13:20Z
NOW = time.time_ns() // 1_000_000  # tags older than 30 days have expired


class Written:
    """Writes records of all four topics into partition 2, as the worker would."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self._producer = Producer({"bootstrap.servers": topics.bootstrap})

    def write(
        self, topic: str, key: str | None, value: bytes | None, source: int | None = None, **more: str
    ) -> int:
        headers = {name.replace("_", "-"): text for name, text in more.items()}
        if source is not None:
            headers |= {"source-partition": "2", "source-offset": str(source), "source-timestamp": str(AT)}
        offsets: list[int] = []
        self._producer.produce(
            topic, value, key, 2, headers=list(headers.items()), timestamp=AT,
            on_delivery=lambda error, message: offsets.append(message.offset()),
        )  # fmt: skip
        assert self._producer.flush(PATIENCE) == 0
        return offsets[0]

    def upload(self, upload_id: str, **more: object) -> int:
        """An event; returns its offset."""
        return self.write(self.topics.uploads, upload_id, upload(upload_id, **more))

    def letter(self, upload_id: str, source: int, code: str = "fetch-failed", **more: str) -> int:
        headers = {"error_stage": "fetch", "error_message": "HTTP 500", "attempts": "5", "model": "m1"}
        return self.write(
            self.topics.dlq, upload_id, upload(upload_id), source, error_code=code, **(headers | more)
        )

    def tag(self, upload_id: str, source: int) -> int:
        return self.write(self.topics.tags, upload_id, tag(upload_id), source)

    def commit(self, offset: int, done: set[int]) -> None:
        """As the worker's group; no member of it may be there."""
        consumer = Consumer({"bootstrap.servers": self.topics.bootstrap, "group.id": self.topics.group})
        state = TopicPartition(self.topics.uploads, 2, offset, encode_done(offset, done))
        consumer.commit(offsets=[state], asynchronous=False)
        consumer.close()


def upload(upload_id: str, **more: object) -> bytes:
    return orjson.dumps({"id": upload_id, "url": "http://pictures.example/1.jpg", **more})


def tag(upload_id: str) -> bytes:
    return Tag(upload_id, 3, "cats", 0.9, (), False, "m1", "t1", None, NOW, NOW, {}).to_json()


@pytest.fixture
def written(topics: Topics) -> Written:
    return Written(topics)


@pytest.fixture
def command(
    topics: Topics,
    redis_store: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs `imgclust-worker …`: exit code, stdout, stderr."""
    for name, value in settings_for(topics, redis_store.url, tmp_path, 80).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_letters_are_listed_filtered_and_counted(written: Written, command: Command) -> None:
    """All of them as JSON lines; filters by code, id, partition and age; counts; nothing comes out raw."""
    for i in range(3):
        written.letter(f"a{i}", i)
    written.letter(EVIL, 3, "decode-failed", error_message="…" + EVIL)
    written.write(written.topics.dlq, "who", b"{not json", 4, error_code="bad-event")

    code, out, err = command("dlq", "list")
    assert code == 0, err
    assert out.isascii()
    found = lines(out)
    assert [f["id"] for f in found] == ["a0", "a1", "a2", EVIL, None]
    assert found[0] | {"offset": 0, "value": ""} == {
        "partition": 2, "offset": 0, "id": "a0", "key": "a0", "value": "",
        "written": "2026-09-21T14:13:20.000Z",
        "code": "fetch-failed", "stage": "fetch", "message": "HTTP 500", "attempts": 5, "model": "m1",
        "source": {"partition": 2, "offset": 0, "timestamp": "2026-09-21T14:13:20.000Z"},
    }  # fmt: skip

    def ids(*arguments: str) -> list[object]:
        return [f["id"] for f in lines(command("dlq", "list", *arguments)[1])]

    assert ids("--code", "decode-failed") == [EVIL]
    assert ids("--code", "decode-failed", "--code", "bad-event") == [EVIL, None]
    assert ids("--id", "a1", "--id", "a2", "--partition", "2") == ["a1", "a2"]
    assert ids("--partition", "1") == []
    assert ids("--newer-than", "1h") == []
    assert len(ids("--older-than", "1h")) == 5
    assert ids("--limit", "2") == [EVIL, None]
    counts = lines(command("dlq", "list", "--counts")[1])
    assert {c["code"]: c["letters"] for c in counts} == {
        "fetch-failed": 3,
        "decode-failed": 1,
        "bad-event": 1,
    }
    code, _, err = command("dlq", "list", "--partition", "17")
    assert code == 2
    assert "--partition 17" in err


def test_a_table_for_people(written: Written, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: letters and counts, and nothing of a stranger's unescaped."""
    written.letter(EVIL, 0, error_message=EVIL)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = command("dlq", "list")
    assert code == 0, err
    assert "2:0" in out
    assert "fetch-failed" in out
    assert "x\\x1b[31m" in out
    assert "\x1b[31m" not in out
    assert "\u202e" not in out


def test_replay_sends_what_has_no_later_event(written: Written, command: Command) -> None:
    """Sent: the letter that is the last word on its id. Left out, with a reason: those with a later tag,
    letter, pending retry or unread event, and events without an id. A second replay sends nothing."""
    topics = written.topics
    names = ("sent", "tagged", "dead-again", "pending", "waiting", "old-tag")
    for name in (*names, "?", "dead-again", "tagged", "pending"):
        written.upload(name)  # offsets 0 to 9
    written.commit(10, set())
    written.tag("old-tag", 4)
    for offset, name in enumerate(names):
        written.letter(name, offset)
    written.write(topics.dlq, "?", b"{not json", 6, error_code="bad-event")
    written.letter("dead-again", 7)
    written.tag("tagged", 8)
    written.write(topics.retry, "pending", upload("pending"), 9, attempt="1", not_before="0")
    written.upload("waiting")  # offset 10: nobody has read it

    code, out, err = command("dlq", "replay", "--dry-run")
    assert code == 0, err
    plan = [(f["id"], f["action"], str(f.get("reason", ""))) for f in lines(out)]
    assert [(name, action) for name, action, _ in plan] == [
        ("sent", "send"), ("tagged", "skip"), ("dead-again", "skip"), ("pending", "skip"),
        ("waiting", "skip"), ("old-tag", "send"), (None, "skip"), ("dead-again", "send"),
    ]  # fmt: skip
    for (_, action, reason), word in zip(
        plan, ("", "is tagged", "dead letter", "another try", "on its way", "", "no id", ""), strict=True
    ):
        assert word in reason
        assert bool(reason) is (action == "skip")

    reader = topics.reader(topics.uploads)
    assert len(reader.read(1.0)) == 11, "a dry run sends nothing"
    assert command("dlq", "replay")[0] == 0
    replayed = [m for m in reader.read(1.0) if "replay-of" in headers_of(m)]
    assert [(m.key(), m.partition(), headers_of(m)["replay-of"]) for m in replayed] == [
        (b"sent", 2, "2:0"), (b"old-tag", 2, "2:5"), (b"dead-again", 2, "2:7"),
    ]  # fmt: skip
    assert replayed[0].value() == upload("sent")
    assert [headers_of(m)["source-offset"] for m in replayed] == ["0", "5", "7"]
    assert {headers_of(m)["replay-seen"] for m in replayed} == {"11"}

    assert {f["action"] for f in lines(command("dlq", "replay")[1])} == {"skip"}
    assert command("dlq", "replay", "--code", "bad-event")[0] == 0
    assert [m.value() for m in reader.read(1.0)][14:] == [b"{not json"]
    reader.close()


def test_the_newest_events_are_looked_at(written: Written, command: Command) -> None:
    """`check --event` without a file: what the worker would make of the newest ten, of all partitions."""
    # a broker may not know yet of topics that were made a moment ago
    wait_for("the empty topic is seen", lambda: "no event yet" in command("check", "--event")[1])
    for number in range(12):
        written.upload(f"u{number}")
    code, out, err = command("check", "--event")
    assert code == 0, err
    assert [f"event 2:{offset}:" in out for offset in (1, 2, 11)] == [False, True, True]
    written.write(written.topics.uploads, "who", b"{not json")
    code, out, err = command("check", "--event")
    assert code == 3, err
    assert "event 2:12: would be a dead letter, bad-event" in out


def test_many_are_sent_only_when_told(written: Written, command: Command) -> None:
    """More than 20 need --yes where nobody can be asked; without it nothing is sent, exit code 2."""
    for i in range(21):
        written.letter(f"m{i}", i)
    written.upload("later")
    written.commit(1, set())
    reader = written.topics.reader(written.topics.uploads)
    code, _, err = command("dlq", "replay")
    assert code == 2
    assert "--yes" in err
    assert len(reader.read(1.0)) == 1
    assert command("dlq", "replay", "--yes")[0] == 0
    assert len(reader.read(1.0)) == 22
    reader.close()


def test_explain_knows_every_fate(written: Written, command: Command, redis_store: RedisServer) -> None:
    """Tagged, deleted, dead, superseded, pending and waiting are told apart; so is what Redis has."""
    topics = written.topics
    fates = ("tagged", "dead", "pending", "super", "super", "deleted", "gone", "done-above", "waiting")
    for name in fates:
        written.upload(name)
    written.commit(7, {7})
    tagged_at = written.tag("tagged", 0)
    letter = written.letter("dead", 1)
    written.write(topics.retry, "pending", upload("pending"), 2, attempt="3", not_before=str(AT + 60_000),
                  error_code="fetch-timeout")  # fmt: skip
    last = written.tag("super", 4)
    written.write(topics.tags, "deleted", None, 5)

    def outcomes(name: str, *more: str) -> tuple[list[object], dict[str, object]]:
        code, out, err = command("explain", name, *more)
        assert code == 0, err
        story = json.loads(out)
        return [event["outcome"] for event in story["events"]], story

    assert outcomes("tagged")[0] == ["tagged"]
    event = outcomes("tagged")[1]["events"][0]  # type: ignore[index]
    assert (event["event"], event["tag"], event["cluster"]) == ("2:0", f"2:{tagged_at}", 3)
    event = outcomes("dead")[1]["events"][0]  # type: ignore[index]
    assert (event["outcome"], event["letter"]) == ("dead", f"2:{letter}")
    assert event["why"] == "fetch-failed at fetch: HTTP 500"
    event = outcomes("pending")[1]["events"][0]  # type: ignore[index]
    assert (event["outcome"], event["why"]) == ("pending retry", "fetch-timeout in try 3")
    assert outcomes("super")[0] == ["superseded", "tagged"]
    assert outcomes("deleted")[0] == ["deleted"]
    assert outcomes("gone")[0] == ["done, without a trace"]
    assert outcomes("done-above")[0] == ["done, without a trace"]
    assert outcomes("waiting")[0] == ["waiting"]
    assert command("explain", "nobody")[0] == 1

    assert outcomes("super")[1]["view"]["state"] == "behind"  # type: ignore[index]
    view = TagsView(redis_store.client())
    value = tag("super")
    view.restart({2: Reached(0)})
    view.apply([read_record(b"super", value, 2, last, NOW)], {2: Span(0, last + 1, NOW)})
    assert outcomes("super")[1]["view"] == {"state": "there", "position": f"2:{last}"}
    redis_store.kill()
    assert outcomes("super")[1]["view"]["state"] == "unknown"  # type: ignore[index]


def test_explain_for_people(written: Written, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: lines, and nothing of a stranger's unescaped."""
    written.write(written.topics.uploads, EVIL, upload(EVIL))
    written.letter(EVIL, 0, error_message=EVIL)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = command("explain", EVIL)
    assert code == 0, err
    assert "→ dead" in out
    assert "fetch-failed" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out.splitlines()) == 6
