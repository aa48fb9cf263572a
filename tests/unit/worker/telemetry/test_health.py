"""Health and metrics over HTTP, asked by a real client over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_for
from worker.errors import StartError
from worker.telemetry.health import MAX_REQUESTS, MAX_SILENCE, REQUEST_BYTES, Health, HealthServer
from worker.telemetry.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def health() -> Health:
    CLOCK.now = 100.0
    return Health(("assigned", "model", "encoder"), clock=CLOCK)


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    with HealthServer("127.0.0.1", 0, Metrics().registry, health, seconds=0.5) as running:
        yield running


def ask(
    server: HealthServer, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, response.getheader("Content-Type", ""), body


def raw(server: HealthServer, request: bytes) -> bytes:
    """What comes back for these bytes, until the server closes."""
    with socket.create_connection(server.address, timeout=10) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass  # closed with bytes of ours unread
        return answer


def test_metrics_are_served_as_prometheus_reads_them(server: HealthServer) -> None:
    """`/metrics` gives text that Prometheus' own parser reads, with a query string too."""
    status, kind, body = ask(server, "/metrics?x=1")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "imgclust_uploads" in {family.name for family in text_string_to_metric_families(body)}


def test_open_metrics_is_served_to_who_asks_for_it(server: HealthServer) -> None:
    """The Accept header chooses OpenMetrics, as Prometheus sends it."""
    _, kind, body = ask(server, "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_alive_while_every_loop_turns(server: HealthServer, health: Health) -> None:
    """`/healthz` is 200 until one watched loop has not turned for 30 s, and tells which."""
    assert ask(server, "/healthz")[0] == 200  # nothing is watched yet: it starts
    health.beat("tagger")
    health.beat("view")
    CLOCK.now += MAX_SILENCE
    assert ask(server, "/healthz")[0] == 200
    health.beat("tagger")
    CLOCK.now += 1
    status, _, body = ask(server, "/healthz")
    assert status == 503
    assert json.loads(body)["alive"] is False
    assert json.loads(body)["loops"]["view"]["seconds_since_turn"] == 31
    health.forget("view")
    assert ask(server, "/healthz")[0] == 200


def test_a_loop_that_waits_is_alive_and_says_for_what(server: HealthServer, health: Health) -> None:
    """`waits_for` is in the answer while it waits, and no longer than that; a loop that hangs is dead."""
    health.beat("view", "Kafka")
    CLOCK.now += 5
    status, _, body = ask(server, "/healthz")
    assert (status, json.loads(body)["loops"]["view"]) == (
        200, {"seconds_since_turn": 5, "waits_for": "Kafka"},
    )  # fmt: skip
    health.beat("view")
    assert "waits_for" not in ask(server, "/healthz")[2]
    health.beat("view", "Kafka")
    CLOCK.now += MAX_SILENCE + 1
    assert ask(server, "/healthz")[0] == 503


def test_ready_when_all_conditions_hold(server: HealthServer, health: Health) -> None:
    """`/readyz` is 503 with the reason of each missing condition, then 200, then 503 again."""
    assert ask(server, "/readyz")[0] == 503
    health.set("model", True)
    health.set("encoder", True)
    health.set("assigned", False, "no partition is assigned yet")
    status, kind, body = ask(server, "/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body) == {
        "ready": False,
        "conditions": {
            "assigned": {"ok": False, "reason": "no partition is assigned yet"},
            "model": {"ok": True},
            "encoder": {"ok": True},
        },
    }
    health.set("assigned", True)
    assert ask(server, "/readyz")[0] == 200
    health.set("assigned", False, "draining")
    assert ask(server, "/readyz")[0] == 503


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/healthz/..", "/%6detrics"])
def test_everything_else_is_not_found(server: HealthServer, path: str) -> None:
    """Only the three paths exist, exactly as they are written."""
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_only_reading_is_allowed(server: HealthServer, method: str) -> None:
    """Any other method than GET and HEAD gets 405."""
    assert ask(server, "/metrics", method)[0] == 405


def test_head_has_no_body(server: HealthServer) -> None:
    """HEAD gives the headers of GET alone."""
    status, kind, body = ask(server, "/healthz", "HEAD")
    assert (status, kind, body) == (200, "application/json", "")


def test_a_request_that_never_ends_is_dropped(server: HealthServer) -> None:
    """One byte at a time does not hold a thread: the time is for the request as a whole."""
    began = time.monotonic()
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n")
        connection.settimeout(0.05)
        closed = False
        while not closed and time.monotonic() - began < 30:
            try:
                connection.sendall(b"a")
                closed = connection.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
    assert closed
    assert ask(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 2 * REQUEST_BYTES + b" HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n"
        + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 400) for n in range(90))
        + b"\r\n",
    ],
    ids=["path", "headers"],
)
def test_a_huge_request_is_refused(server: HealthServer, request_bytes: bytes) -> None:
    """More than 16 KiB is not read; the client is told, or cut off."""
    answer = raw(server, request_bytes)
    assert answer == b"" or answer.split(b"\r\n")[0].split()[1] in (b"431", b"414")
    assert ask(server, "/metrics")[0] == 200


@pytest.mark.parametrize(
    "request_bytes", [b"\r\n\r\n", b"\x00\xff\x16\x03\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_nonsense_hurts_nobody(server: HealthServer, request_bytes: bytes) -> None:
    """Bytes that are no HTTP get an error or nothing, and the next request is served."""
    answer = raw(server, request_bytes)
    assert not answer.startswith(b"HTTP/1.0 200")
    assert ask(server, "/healthz")[0] == 200


def test_many_idle_clients_leave_the_rest_served(server: HealthServer) -> None:
    """With all threads held by silent clients the next one is turned away at once, and served soon after."""

    def status() -> int:
        try:
            return ask(server, "/healthz")[0]
        except ConnectionError:  # closed before our request was read, so the 503 may not have arrived
            return 503

    idle = [socket.create_connection(server.address) for _ in range(MAX_REQUESTS)]
    try:
        wait_for("one too many is turned away", lambda: status() == 503)
        wait_for("the silent ones run out of time", lambda: status() == 200)
    finally:
        for connection in idle:
            connection.close()


def test_a_taken_port_is_told_clearly(server: HealthServer, health: Health) -> None:
    """The error names the address and the setting."""
    host, port = server.address
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port}.*WORKER_HTTP"):
        HealthServer(host, port, Metrics().registry, health)


@pytest.mark.parametrize("address", [("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_impossible_address_is_told_clearly(health: Health, address: tuple[str, int]) -> None:
    """A host that is not here, or a port that does not exist, is a StartError too."""
    with pytest.raises(StartError, match="WORKER_HTTP"):
        HealthServer(*address, Metrics().registry, health)


def test_the_server_ends(health: Health) -> None:
    """After `close` the port is free again."""
    with HealthServer("127.0.0.1", 0, Metrics().registry, health) as first:
        host, port = first.address
    with HealthServer(host, port, Metrics().registry, health) as second:
        assert ask(second, "/healthz")[0] == 200
