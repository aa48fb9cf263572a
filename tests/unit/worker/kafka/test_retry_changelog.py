"""worker.kafka.retry_changelog on stand-ins for Kafka's clients: where reading ends, and who is asked."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fake_kafka import FakeBroker, Stored
from worker.kafka.client_config import changelog_config
from worker.kafka.retry_changelog import RetryChangelog

MANY = 60


class Bench:
    """A retry topic of sixty partitions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = FakeBroker({"retry": MANY})
        monkeypatch.setattr("worker.kafka.retry_changelog.Consumer", self.broker.consumer)
        self.now = 0.0
        self.admin: Any = self.broker.admin()
        self.changelog = RetryChangelog(
            changelog_config({"bootstrap.servers": "nowhere:1"}, "group"), "retry",
            clock=lambda: self.now, wall_ms=lambda: 0, longest=60.0, admin=self.admin,
        )  # fmt: skip

    def write(self, upload_id: bytes, value: bytes | None, partition: int = 0) -> None:
        headers = {"source-partition": partition, "source-offset": 7, "source-timestamp": 0}
        headers |= {"attempt": 1, "not-before": 0}
        pairs = [(name, str(number).encode()) for name, number in headers.items()]
        self.broker.append("retry", partition, Stored(upload_id, value, pairs))

    def restored(self) -> dict[int, tuple[int, list[str]]]:
        """Partition → epoch and the ids that wait, after a few rounds."""
        found = {}
        for _ in range(8):
            for partition, epoch, pending in self.changelog.poll():
                found[partition] = epoch, sorted(item.id for item in pending.items())
            self.now += 1.0
        return found


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_all_ends_are_asked_for_at_once(bench: Bench) -> None:
    """Sixty partitions that were just assigned are one question, empty ones among them."""
    bench.write(b"a", b"{}", 3)
    bench.write(b"b", b"{}", 3)
    bench.write(b"a", None, 3)
    for partition in range(MANY):
        bench.changelog.begin(partition, partition + 1)
    found = bench.restored()
    assert found == {p: (p + 1, ["b"] if p == 3 else []) for p in range(MANY)}
    assert bench.broker.calls == ["list-offsets"]


def test_an_end_is_that_of_its_own_assignment(bench: Bench) -> None:
    """An answer that comes after the partition went and came back is of too early a moment: what its owner in
    between has written lies behind it."""
    ask, late = bench.admin.list_offsets, Future[Any]()
    bench.write(b"a", b"{}")
    bench.changelog.begin(0, 1)
    bench.admin.list_offsets = lambda wanted, **_: dict.fromkeys(wanted, late)
    bench.changelog.poll()
    bench.write(b"a", None)
    bench.changelog.begin(0, 2)
    bench.admin.list_offsets = ask
    late.set_result(SimpleNamespace(offset=1))
    assert bench.restored() == {0: (2, [])}


def test_a_partition_that_is_not_there_holds_up_no_other(bench: Bench) -> None:
    """It is asked for again, and why it waits is told."""
    del bench.broker.logs["retry", 5]
    for partition in (4, 5):
        bench.changelog.begin(partition, 1)
    assert list(bench.restored()) == [4]
    assert "has no partition 5" in bench.changelog.trouble(5)
    bench.broker.logs["retry", 5] = []
    assert list(bench.restored()) == [5]
