"""Everything bad that `tests/hostile` builds goes through one running worker, with good uploads between."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.hostile.answers import MAX_BYTES, answers, silent
from tests.hostile.corpus import cases, fuzzed
from tests.hostile.disarmed import disarmed
from tests.hostile.events import STRANGE_IDS, bad_events
from tests.hostile.images import MAX_PIXELS, SEED
from tests.hostile.listener import Listener
from tests.hostile.url_vectors import EVERYTHING, NAMED
from tests.support.kafka_cluster import PARTITIONS, Topics, headers_of
from tests.support.origin import Origin, response
from tests.support.paths import CLIPART
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_for
from tests.support.worker_process import WorkerProcess, settings_for
from worker.demo.backends import Kafka
from worker.feed import Feed
from worker.fetching.pool import memory_needed
from worker.messages.tag import Tag

pytestmark = [
    pytest.mark.slow,
    pytest.mark.kafka,
    pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8, and /proc"),
]

GOOD, BAD, SERVERS = "127.0.0.10", "127.0.0.20", "127.0.2.0/24"  # hosts, all of them the same server
WORKER_GROWTH = (
    400 * 1024 * 1024
)  # bytes beyond what the worker takes once it is warm: batches, records in flight
FAR = "9999-12-31T23:59:59Z"


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.close()


@pytest.fixture
def server() -> Iterator[Origin]:
    with Origin(host="0.0.0.0").running() as origin:
        yield origin


def peak_memory(pid: int) -> int:
    """The most that a process ever had in memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(path.parent.name))
    return found


class Uploads:
    """What is sent: good uploads by id, bad ones by the key of their record."""

    def __init__(self, server: Origin, listener: Listener, held_out: list[str]) -> None:
        self.server = server
        self.good: dict[str, bytes] = {}
        self.bad: dict[bytes, tuple[bytes, set[str]]] = {}  # key → value, the codes that are right
        self._images(held_out)
        self._servers()
        self._urls(listener.port)
        for number, value in enumerate(bad_events()):
            self.bad[b"event-%d" % number] = (value, {"bad-event"})

    def _upload(self, upload_id: str, url: str, **more: object) -> bytes:
        return orjson.dumps({"id": upload_id, "url": url, **more})

    def _spoil(self, name: str, url: str, *codes: str) -> None:
        self.bad[name.encode()] = (self._upload(name, url), set(codes))

    def _images(self, held_out: list[str]) -> None:
        def url(host: str, path: str) -> str:
            return f"http://{host}:{self.server.port}{path}"

        pictures = {file: (CLIPART / file).read_bytes() for file in held_out} | dict(disarmed())
        for name, data in pictures.items():
            self.server.paths[f"/good/{name}"] = response(data)
        names = list(pictures)
        for number, upload_id in enumerate([*STRANGE_IDS, *(f"good-{i}" for i in range(200))]):
            path = f"/good/{names[number % len(names)]}"
            more = {"uploaded_at": FAR, "attributes": {"\n": "\x1b[2J"}} if number < len(STRANGE_IDS) else {}
            self.good[upload_id] = self._upload(upload_id, url(GOOD, path), **more)
        any_code = {"decode-failed", "unsupported-format", "too-many-pixels"}
        images = [(case.name, case.data, {case.code}) for case in cases()]
        images += [(name, data, any_code) for name, data in fuzzed()]
        for number, (name, data, codes) in enumerate(images):
            self.server.paths[f"/bad/{number}"] = response(data)
            self._spoil(name, url(BAD, f"/bad/{number}"), *codes)

    def _servers(self) -> None:
        """Each bad server is a host of its own, or one would be left alone for what another did."""
        for number, (name, (answer, code)) in enumerate({**answers(), **silent()}.items(), 1):
            self.server.paths[f"/{name}"] = answer
            self._spoil(f"server/{name}", f"http://127.0.2.{number}:{self.server.port}/{name}", code)
        self.server.paths["/redirect-loop"] = response(b"", "302 Found", "Location: /redirect-loop")

    def _urls(self, port: int) -> None:
        for number, vector in enumerate(EVERYTHING):
            # no resolver here knows the attacker's names; what is not found is tried again
            codes = ["url-forbidden", "fetch-failed"] if vector in NAMED else ["url-forbidden"]
            codes = codes if vector else ["bad-event"]
            self._spoil(f"url-{number}", vector.replace("{port}", str(port)), *codes)


def test_nothing_gets_in_and_nothing_falls_over(
    apache_kafka: Kafka, tmp_path: Path, model_folder: Path, redis_store: RedisServer, server: Origin,
    listener: Listener, held_out: list[str],
) -> None:  # fmt: skip
    """Every good upload is tagged, every bad one a dead letter with the right code and its bytes unchanged;
    what must not be reached is not; the same processes are there at the end, within their memory."""
    topics = Topics(apache_kafka)
    uploads = Uploads(server, listener, held_out)
    events = [(key.encode(), value) for key, value in uploads.good.items()]
    events += [(key, value) for key, (value, _) in uploads.bad.items()]
    random.Random(SEED).shuffle(events)
    assert len(uploads.bad) > 3_400
    settings = settings_for(
        topics, redis_store.url, model_folder, f"80 443 {server.port} {listener.port}"
    ) | {
        "WORKER_FETCH_ALLOW_NETWORKS": f"{GOOD} {BAD} {SERVERS}",
        "WORKER_FETCHERS": "2",
        "WORKER_FETCH_TIMEOUT": "5",
        "WORKER_FETCH_CONNECT_TIMEOUT": "1",
        "WORKER_FETCH_SILENCE_TIMEOUT": "2",
        "WORKER_RETRY_LIMIT": "3",  # so that a busy machine does not make a good upload a dead letter
        "WORKER_FETCH_MAX_BYTES": str(MAX_BYTES),
        "WORKER_MAX_PIXELS": str(MAX_PIXELS),
        "WORKER_MAX_IN_FLIGHT": "512",
    }
    tags, letters = topics.reader(topics.tags), topics.reader(topics.dlq)
    with WorkerProcess(tmp_path, settings, program="worker") as worker:
        worker.ready()
        assert worker.process is not None
        pids = children(worker.process.pid)
        warm = peak_memory(worker.process.pid)
        for number, (key, value) in enumerate(events):
            topics.send(key, value, number % PARTITIONS)
        topics.flush()
        sent = time.monotonic()
        missing = {*uploads.good, *(key.decode() for key in uploads.bad)}

        def ended() -> bool:
            tags.read(0.2)
            letters.read(0.2)
            missing.difference_update(tags.last(), letters.last())
            return not missing

        try:
            wait_for("every upload has ended", ended, seconds=900)
        except AssertionError:
            raise AssertionError(f"without an end: {sorted(missing)[:20]}") from None
        print(f"{len(events)} uploads in {time.monotonic() - sent:.1f} s")

        _check_tags(tags.last(), uploads)
        wrong = {}
        for message in letters.messages:
            value, codes = uploads.bad[message.key() or b""]
            headers = headers_of(message)
            assert (message.value() or b"") == value
            assert headers["error-message"].isprintable()
            assert len(headers["error-message"]) <= 500
            if headers["error-code"] not in codes:
                wrong[message.key()] = (headers["error-code"], codes, headers["error-message"])
        assert not wrong
        assert len(letters.messages) == len(uploads.bad)

        assert listener.accepted == 0
        assert worker.process.poll() is None
        assert children(worker.process.pid) == pids
        assert worker.metric("imgclust_fetcher_restarts_total") == 0
        bound = memory_needed(MAX_PIXELS, MAX_BYTES)
        peaks = {pid: peak_memory(pid) for pid in pids}
        assert max(peaks.values()) < bound, (peaks, bound)
        assert peak_memory(worker.process.pid) < warm + WORKER_GROWTH
        _check_feeds(redis_store, uploads)
        assert worker.terminate() == 0, worker.text()
    for line in worker.log.read_text().splitlines():
        assert line.isascii() or line.isprintable()
        assert json.loads(line)["level"] in ("info", "warning", "error")
    tags.close()
    letters.close()


def _check_tags(found: dict[str, object], uploads: Uploads) -> None:
    assert set(found) == set(uploads.good)
    for upload_id, message in found.items():
        tag = Tag.from_json(message.value())  # type: ignore[attr-defined]
        assert tag.id == upload_id


def _check_feeds(redis_store: RedisServer, uploads: Uploads) -> None:
    """Each strange id has its own key, and a date in the year 9999 does not stay at the head of a feed."""
    client = redis_store.client()
    names = {b"imgclust:tag:" + upload_id.encode() for upload_id in uploads.good}
    wait_for("the view has every tag", lambda: client.exists(*names) == len(names))
    feed = Feed(client)
    assert set(feed.get(list(uploads.good))) == set(uploads.good)
    soon = time.time() * 1000 + 10 * 60 * 1000
    others = set(client.scan_iter("imgclust:*", count=1000)) - names
    feeds = [key for key in others if client.type(key) == b"zset"]
    assert feeds
    assert not any(client.zcount(key, soon, "+inf") for key in feeds)
