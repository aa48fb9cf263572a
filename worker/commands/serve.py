"""`imgclust-worker serve`: answer questions over HTTP until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path

from imgclust.support.machine import keep_freed_memory
from worker.http.server import listening
from worker.messages.text import wall_ms
from worker.run import spare_collector, tagger_config
from worker.serving.app import Serving
from worker.serving.engine import Bounds, Engine
from worker.serving.inference_protocol import InferenceProtocol
from worker.settings.settings import Settings
from worker.tagger.model_loading import load
from worker.tagger.models_topic import follow
from worker.telemetry import log as logs
from worker.telemetry.health import Health, HealthServer
from worker.telemetry.metrics import Metrics
from worker.telemetry.otlp import exporting
from worker.telemetry.watchdog import Watchdog

log = logs.get(__name__)

BODIES = 256 * 1024 * 1024  # bytes of pictures that were sent, at least; they wait for a decoder


def serve(settings: Settings) -> int:
    """Serve until a signal.

    Raises:
        StartError: an address cannot be listened on, or the model or its encoder is not there.
    """
    if settings.device in ("auto", "cpu"):
        keep_freed_memory()  # before any thread, see there
    metrics, health = Metrics(), Health(conditions=("model", "encoder"))
    with HealthServer(*settings.http, metrics.registry, health) as server, exporting(metrics.registry):
        log.info("metrics and health", address="{}:{}".format(*server.address))
        asyncio.run(_serve(settings, metrics, health))
    return 0


async def _serve(settings: Settings, metrics: Metrics, health: Health) -> None:
    config = tagger_config(settings)
    model, encoder = await asyncio.to_thread(load, settings)
    bounds = Bounds(settings.serve_queue, max(BODIES, settings.fetch_max_bytes))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imgclust-serve-")))
        engine = Engine(
            config.fetching, bounds, folder, model, encoder,
            max_batch=config.max_batch, max_wait=config.max_wait, metrics=metrics,
        )  # fmt: skip
        models = follow(
            config.source.connection, config.models, model, engine.inference, encoder.identity,
            metrics=metrics, health=health, wall_ms=wall_ms,
        )  # fmt: skip
        metrics.set_model(
            model.version, model.taxonomy, encoder.identity.name, {c.id: c.stability for c in model.clusters}
        )
        metrics.serve_waiting.set_function(lambda: engine.waiting)
        await asyncio.to_thread(engine.start)
        stack.callback(engine.stop)
        health.set("model", True)
        health.set("encoder", True)
        if models is not None:
            models.start()
            stack.callback(models.stop)
        watchdog = Watchdog(config.stall_timeout, engine.inference.stalled_for)
        watchdog.start()
        stack.callback(watchdog.stop)
        spare_collector()
        await _listen(settings, engine, metrics, health, stop)


async def _listen(
    settings: Settings, engine: Engine, metrics: Metrics, health: Health, stop: asyncio.Event
) -> None:
    """Answer until `stop` is set; then what was asked is answered still, and nothing new is taken.

    Raises:
        Exception: what broke the encoder.
    """
    host, port = settings.serve
    serving = Serving(
        engine, host=host, max_bytes=settings.fetch_max_bytes, seconds=settings.fetch_timeout,
        tag_url=settings.tag_url, metrics=metrics,
    )  # fmt: skip
    app = serving.application()
    InferenceProtocol(serving, lambda: not stop.is_set() and not engine.broken.done()).add_to(app)
    async with listening(app, host, port, setting="WORKER_SERVE") as address:
        log.info("ask here", address=f"http://{address}/v1/tag")
        engine.broken.add_done_callback(lambda _: stop.set())
        await stop.wait()
        if engine.broken.done():
            raise engine.broken.result()
        health.set("model", False, "draining")
        log.info("draining", waiting=engine.waiting, seconds=settings.drain_timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_timeout):
                await engine.idle.wait()
