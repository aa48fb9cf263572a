"""A schema registry, asked in time and translated at one border."""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.errors import RegistryError, StartError
from worker.messages.text import bad_event, printable
from worker.messages.upload import MAX_EVENT_BYTES

REGISTRY_TIMEOUT = (
    5.0  # seconds for one answer; the loop waits for it, and may for 30 s before it counts as dead
)


REGISTRY_RETRIES = 2


UNKNOWN_SECONDS, UNKNOWN_SCHEMAS = (
    60.0,
    1000,
)  # numbers of schemas that are not asked for again, how long and many


def registry(url: str | None, auth: str | None = None) -> Any:
    """A client of the schema registry.

    Args:
        url: http://host:port, several separated by commas.
        auth: user:password.

    Raises:
        StartError: the extra is not installed.
    """
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise StartError(
            f"a schema registry needs the extra: pip install 'imgclust[schema-registry]' ({error})"
        ) from None
    config: dict[str, Any] = {
        "url": url,
        "timeout": REGISTRY_TIMEOUT,
        "max.retries": REGISTRY_RETRIES,
    }
    if auth:
        config["basic.auth.user.info"] = auth
    return SchemaRegistryClient.new_client(config)


def reach_registry(client: Any) -> None:
    """Ask the registry something.

    Raises:
        RegistryError: it does not answer, or not to us.
    """
    asked(lambda: client.get_subjects())


def asked(ask: Callable[[], Any]) -> Any:
    """What a call returns that may ask the registry; what goes wrong with the registry, as our own error."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    try:
        return ask()
    except SchemaRegistryError as error:
        raise RegistryError(
            f"the schema registry refuses ({error.http_status_code}): {printable(error.error_message)}; "
            "check WORKER_SCHEMA_REGISTRY_URL and WORKER_SCHEMA_REGISTRY_AUTH, and the subject's "
            "compatibility",
            status=error.http_status_code,
        ) from None
    except _transport_errors() as error:
        raise RegistryError(
            f"the schema registry does not answer ({type(error).__name__}: {printable(str(error))}); "
            "check WORKER_SCHEMA_REGISTRY_URL"
        ) from None


@functools.cache
def _transport_errors() -> tuple[type[Exception], ...]:
    """What the registry's client lets through when there is no answer: its HTTP library's, which differs by
    version. One that is missing here would make dead letters of good events."""
    found: list[type[Exception]] = [OSError]
    for name in ("httpx2", "httpx"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).HTTPError)
    return tuple(found)


def serialization_context(topic: str) -> Any:
    from confluent_kafka.serialization import MessageField, SerializationContext

    return SerializationContext(topic, MessageField.VALUE)


class UnknownSchemas:
    """Numbers of schemas that the registry does not have: whoever writes events chooses them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def __contains__(self, number: bytes) -> bool:
        return self._until.get(number, 0.0) > self._clock()

    def add(self, number: bytes) -> None:
        if len(self._until) >= UNKNOWN_SCHEMAS:
            self._until.clear()
        self._until[number] = self._clock() + UNKNOWN_SECONDS


def framed(value: bytes) -> bytes:
    """The number of the schema in front of the data."""
    if len(value) > MAX_EVENT_BYTES:
        raise bad_event(f"the event has {len(value)} bytes, at most {MAX_EVENT_BYTES} are read")
    if len(value) < 5 or value[0] != 0:
        raise bad_event(f"the event does not begin with a schema id: {printable(value[:8])}")
    return value[1:5]


def parsed(read: Callable[[], Any]) -> Any:
    """What a foreign parser makes of a stranger's bytes: errors of any kind mean that they are not what they
    should be; those of the registry pass."""
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    passed: tuple[type[Exception], ...] = (SchemaRegistryError, *_transport_errors())
    try:
        return read()
    except passed:
        raise
    except Exception as error:
        raise bad_event(
            f"the event does not fit its schema: {printable(f'{type(error).__name__}: {error}')}"
        ) from None


def mapping(event: Any) -> Mapping[str, Any]:
    if not isinstance(event, Mapping):
        raise bad_event(f"the event must be a record, got {printable(event)}")
    return event
