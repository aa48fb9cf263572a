"""Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`, and nothing else.

What asks here may be slow, broken or hostile, and must not cost the worker anything: a request has five
seconds and 16 KiB in all, and eight of them are answered at a time.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.errors import StartError
from worker.telemetry import log as logs

log = logs.get(__name__)

MAX_SILENCE = 30.0  # seconds: a loop that has not turned for so long is dead
REQUEST_SECONDS = 5.0
REQUEST_BYTES = 16 * 1024
MAX_REQUESTS = 8


class Health:
    """Which loops turn, and what is still missing before work can be done.

    Args:
        conditions: names of what must hold before the worker is ready; none of them does at first.
        clock: seconds, steady.
        max_silence: seconds that a loop may take for one turn.
    """

    def __init__(
        self,
        conditions: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        max_silence: float = MAX_SILENCE,
    ) -> None:
        self._clock = clock
        self._max_silence = max_silence
        self._lock = threading.Lock()
        self._beats: dict[str, tuple[float, str]] = {}
        self._conditions: dict[str, tuple[bool, str]] = dict.fromkeys(conditions, (False, "not yet"))

    def beat(self, loop: str, waits_for: str = "") -> None:
        """The loop turned. A loop is watched from its first beat on.

        Args:
            waits_for: what it can do nothing without and is not there, like Kafka: it is alive all the same.
        """
        self._beats[loop] = self._clock(), waits_for

    def forget(self, loop: str) -> None:
        """The loop has ended on purpose."""
        self._beats.pop(loop, None)

    def set(self, condition: str, ok: bool, reason: str = "") -> None:
        """Say whether a condition holds, and why not."""
        with self._lock:
            self._conditions = {**self._conditions, condition: (ok, reason)}

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Whether every watched loop turned lately, the seconds since each did, and what each waits for."""
        now, beats = self._clock(), self._beats.copy()
        ok = all(now - at <= self._max_silence for at, _ in beats.values())
        loops: dict[str, dict[str, Any]] = {}
        for loop, (at, waits_for) in beats.items():
            loops[loop] = {"seconds_since_turn": round(now - at, 3)}
            if waits_for:
                loops[loop]["waits_for"] = waits_for
        return ok, {"alive": ok, "max_seconds": self._max_silence, "loops": loops}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether all conditions hold, and the reason of each that does not."""
        conditions = self._conditions
        ok = all(held for held, _ in conditions.values())
        shown = {
            name: {"ok": held, "reason": reason} if reason else {"ok": held}
            for name, (held, reason) in conditions.items()
        }
        return ok, {"ready": ok, "conditions": shown}


class _TooLarge(Exception):
    pass


class _Bounded(io.RawIOBase):
    """Reads a socket until a moment and up to a size, however slowly the bytes come."""

    def __init__(self, connection: socket.socket, seconds: float, size: int) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise _TooLarge
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(remaining)
        count = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HealthServer
    server_version = "imgclust"
    sys_version = ""
    timeout = REQUEST_SECONDS

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Bounded(self.connection, self.server.seconds, REQUEST_BYTES))

    def handle(self) -> None:
        try:
            super().handle()
        except _TooLarge:
            self.request_version, self.requestline, self.command = "HTTP/1.0", "", "GET"
            self._answer(431, "text/plain; charset=utf-8", b"the request is too large\n")
        except (OSError, ValueError):
            pass  # the client went away, or was too slow

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.server.registry))
        elif path in ("/healthz", "/readyz"):
            health = self.server.health
            ok, body = health.alive() if path == "/healthz" else health.ready()
            self._answer(200 if ok else 503, "application/json", orjson.dumps(body) + b"\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"/metrics, /healthz and /readyz are here\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # http.server looks for a method of this name for any other command
            return self._not_allowed
        raise AttributeError(name)

    def _not_allowed(self) -> None:
        self._answer(405, "text/plain; charset=utf-8", b"only GET and HEAD\n", {"Allow": "GET, HEAD"})

    def _answer(
        self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.connection.settimeout(self.server.seconds)  # of all of the answer (socket.sendall)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("http", message=format % args)


class HealthServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves metrics and health from threads of its own; a context manager.

    Args:
        host, port: where; port 0 takes a free one, `address` is which.
        registry: the metrics.
        health: what `/healthz` and `/readyz` show.
        seconds: that a request may take to come in, and again to be answered.

    Raises:
        StartError: the address cannot be listened on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.registry = registry
        self.health = health
        self.seconds = seconds
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise StartError(
                f"metrics and health cannot be served on {host}:{port} ({error}); "
                "set WORKER_HTTP to a free address, or to port 0 for any"
            ) from error
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on."""
        host, port = self.server_address[:2]
        return str(host), int(port)

    def server_bind(self) -> None:
        # HTTPServer.server_bind asks DNS for the host's name, which can take seconds
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening; requests that are being answered end by themselves."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def __enter__(self) -> HealthServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.setblocking(False)
        with contextlib.suppress(OSError):
            request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("http request failed")
