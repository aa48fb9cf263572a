"""A schema registry over HTTP for tests: the few requests that confluent-kafka's serialisers make."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any


class SchemaRegistry(http.server.ThreadingHTTPServer):
    """Schemas by number and by subject, for one user if `auth` (the header's value) is set."""

    daemon_threads = True

    def __init__(self, auth: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.auth = auth
        self.schemas: list[dict[str, Any]] = []  # number 1 first
        self.subjects: dict[str, list[int]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[SchemaRegistry]:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SchemaRegistry

    def _answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _serve(self, body: dict[str, Any] | None) -> None:
        if self.server.auth is not None and self.headers.get("Authorization") != self.server.auth:
            self._answer({"error_code": 401, "message": "who are you"}, 401)
            return
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path == "/subjects":
            self._answer(sorted(self.server.subjects))
        elif body is not None and (found := re.fullmatch("/subjects/(.+)/versions", path)):
            schema = {"schemaType": "AVRO", **{k: body[k] for k in ("schema", "schemaType") if k in body}}
            if schema not in self.server.schemas:
                self.server.schemas.append(schema)
            number = self.server.schemas.index(schema) + 1
            versions = self.server.subjects.setdefault(found[1], [])
            if number not in versions:
                versions.append(number)
            self._answer({"id": number, "version": versions.index(number) + 1, **schema})
        elif (found := re.fullmatch(r"/schemas/ids/(\d+)", path)) and int(found[1]) <= len(
            self.server.schemas
        ):
            self._answer({"id": int(found[1]), **self.server.schemas[int(found[1]) - 1]})
        else:
            self._answer({"error_code": 40403, "message": "Schema not found"}, 404)

    def _numbers(self) -> dict[str, dict[str, Any]]:
        return {f"/schemas/ids/{i}": {"id": i, **s} for i, s in enumerate(self.server.schemas, 1)}

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: object) -> None:
        pass
