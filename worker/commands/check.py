"""`imgclust-worker check`: what works, what does not, what to do. Changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from imgclust.errors import ImgclustError
from worker import wiring
from worker.commands import topics
from worker.commands.findings import Finding, report
from worker.errors import WorkerError
from worker.kafka.rights import try_transactions
from worker.messages import registry
from worker.settings.settings import Settings


def _kafka(settings: Settings) -> Iterator[Finding]:
    try:
        yield from topics.findings(settings)
    except WorkerError as error:
        yield Finding("Kafka", False, str(error))


def _transactions(settings: Settings) -> Iterator[Finding]:
    if settings.delivery != "exactly-once":
        return
    try:
        try_transactions(wiring.connection(settings), settings.group_id)
    except WorkerError as error:
        yield Finding("transactions", False, str(error))
    else:
        yield Finding("transactions", True, "this user may publish in them")


def _redis(settings: Settings) -> Iterator[Finding]:
    import redis

    from worker.settings.redis_address import RedisAddress
    from worker.view.client import connect

    client = connect(settings.redis_url, settings.redis_password, timeout=3.0)
    key = f"{settings.redis_prefix}check:{os.getpid()}"
    try:
        started = time.perf_counter()
        client.set(key, b"1", ex=10)
        client.delete(key)
        seconds = time.perf_counter() - started
        version = client.info("server").get("redis_version", "?")
    except redis.RedisError as error:
        remedy = (
            "check WORKER_REDIS_URL and WORKER_REDIS_PASSWORD; without Redis the tagger works, the view waits"
        )
        if isinstance(error, redis.exceptions.NoPermissionError):
            remedy = "docs/redis.md lists the commands that its user needs"
        yield Finding("Redis", False, f"{type(error).__name__}: {error}", remedy)
        return
    kind = {"cluster": "a Redis Cluster, ", "sentinel": "the primary of the Sentinels, ", "server": ""}
    which = kind[RedisAddress.parse(settings.redis_url).kind]
    yield Finding("Redis", True, f"{which}version {version}, written and deleted in {seconds * 1000:.1f} ms")


def _model(settings: Settings) -> Iterator[Finding]:
    import numpy as np

    from worker.tagger.model_loading import load

    try:
        model, encoder = load(settings)
    except (WorkerError, ImgclustError) as error:
        yield Finding("model and encoder", False, str(error))
        return
    clusters = f"version {model.version}, taxonomy {model.taxonomy}, {len(model.clusters)} clusters"
    yield Finding("model", True, clusters)
    side = encoder.identity.preprocessing.size
    picture = np.full((1, side, side, 3), 128, np.uint8)
    model.predict(encoder.encode(picture))
    started = time.perf_counter()
    embeddings = encoder.encode(picture)
    between = time.perf_counter()
    model.predict(embeddings)
    ended = time.perf_counter()
    yield Finding(
        "encoder", True,
        f"{encoder.identity.describe()}: one image takes {(between - started) * 1000:.0f} ms to encode, "
        f"{(ended - between) * 1000:.1f} ms to predict",
    )  # fmt: skip


def _registry(settings: Settings) -> Iterator[Finding]:
    if not wiring.needs_registry(settings):
        return
    try:
        registry.reach_registry(
            registry.registry(settings.schema_registry_url, settings.schema_registry_auth)
        )
    except WorkerError as error:
        yield Finding("schema registry", False, str(error))
    else:
        yield Finding("schema registry", True, "it answers")


STEPS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _kafka,
    _transactions,
    _registry,
    _redis,
    _model,
)


def look(settings: Settings) -> Iterator[Finding]:
    """Look at everything that a run needs, one after the other."""
    yield Finding("settings", True, "all are valid")
    for step in STEPS:
        yield from step(settings)


def check(settings: Settings, console: Console | None = None) -> int:
    """Print what `look` finds; returns the exit code: 0 when all works, else 3."""
    return report(look(settings), console, ready="ready: `imgclust-worker run`")
