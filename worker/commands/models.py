"""`imgclust-worker models`: which model is live, what each worker runs; set, shadow, roll back, promote."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import redis
from confluent_kafka import KafkaException, Producer
from rich.console import Console
from rich.table import Table

from imgclust.errors import ModelError
from imgclust.model.folder import MANIFEST, read_json
from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity
from worker import wiring
from worker.errors import SettingsError, WorkerError
from worker.kafka.reading import client_log
from worker.messages.models import (
    FOLDER,
    ROLES,
    Assignment,
    ModelRef,
    ModelRole,
    ModelsState,
    WorkerReport,
    write_wish,
)
from worker.messages.tag import TAXONOMY
from worker.messages.text import format_time, printable, wall_ms
from worker.settings.settings import Settings
from worker.tagger.model_loading import (
    check_encoder,
    load_named,
    models_folder,
    models_topic,
    read_book,
    warm,
)
from worker.tagger.models_topic import REPORT_EVERY
from worker.view.client import connect, text_of
from worker.view.keys import Keys

GONE = 3 * REPORT_EVERY  # seconds without a report
POLL = 1.0
SEND_TIMEOUT = 15.0


def alive(book: ModelsState, now: int) -> dict[str, WorkerReport]:
    """Workers that have reported lately, by name."""
    return {name: r for name, r in sorted(book.reports.items()) if now - r.at <= GONE * 1000}


# ── show ─────────────────────────────────────────────────────────────────────────────────────────────────


def show(settings: Settings, *, as_json: bool | None = None, out: TextIO | None = None) -> int:
    """Tell what is named live and shadow, which taxonomy feeds read, and what each worker runs.

    Raises:
        WorkerError: Kafka is away, or there is no models topic.
    """
    out = out or sys.stdout
    book, now = read_book(settings), wall_ms()
    feeds = _feeds(settings)
    if not out.isatty() if as_json is None else as_json:
        print(json.dumps(_fields(book, feeds, now)), file=out)
        return 0
    console = Console(file=out, highlight=False, soft_wrap=True, markup=False)
    for role in ROLES:
        console.print(f"{role:7} {_wished(book, role, now)}")
    console.print(f"feeds   {feeds if isinstance(feeds, str) else feeds['reads']}")
    workers = alive(book, now)
    if not workers:
        console.print(f"no worker has reported within {GONE:g} s")
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("worker", "live", "for", "shadow", "agrees", "other", "refuses"):
        table.add_column(heading, no_wrap=heading != "refuses")
    for name, report in workers.items():
        shadow = report.shadow or {}
        refused = "; ".join(f"{role}: {reason}" for role, reason in report.refused.items())
        table.add_row(
            printable(name)[1:-1],
            printable(report.version)[1:-1],
            _age(now - report.since),
            printable(str(shadow.get("version", "–")))[1:-1],
            _share(shadow.get("agreement")),
            _share(shadow.get("other")),
            printable(refused)[1:-1] or "–",
        )
    Console(file=out, highlight=False, markup=False).print(table)
    return 0


def _wished(book: ModelsState, role: ModelRole, now: int) -> str:
    wish = book.wishes.get(role)
    if wish is None:
        return "none is named: each worker runs its WORKER_MODEL" if role == "live" else "none"
    model, before = wish.model, wish.before
    back = f"; before it {before}" if before else ""
    age = _age(now - wish.at)
    return f"{model.version} in {model.folder}, taxonomy {model.taxonomy}, named {age} ago{back}"


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float | int) else "–"


def _age(ms: int) -> str:
    seconds = max(0, ms // 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _fields(book: ModelsState, feeds: str | Mapping[str, str | None], now: int) -> dict[str, Any]:
    def wished(role: ModelRole) -> dict[str, Any] | None:
        wish = book.wishes.get(role)
        if wish is None:
            return None
        before = wish.before and dataclasses.asdict(wish.before)
        return {**dataclasses.asdict(wish.model), "set_at": format_time(wish.at), "before": before}

    workers = {
        name: {**dataclasses.asdict(r), "since": format_time(r.since), "at": format_time(r.at)}
        for name, r in alive(book, now).items()
    }
    reads = feeds["taxonomy"] if not isinstance(feeds, str) else None
    return {"live": wished("live"), "shadow": wished("shadow"), "feeds": reads, "workers": workers}


def _feeds(settings: Settings) -> str | dict[str, str | None]:
    """What feeds read, for people and for programs; a sentence when Redis does not say."""
    try:
        value = _redis(settings).get(Keys(settings.redis_prefix).taxonomy)
    except redis.RedisError as error:
        return f"not known: Redis does not answer ({printable(str(error))[1:-1]})"
    taxonomy = None if value is None else printable(text_of(value))[1:-1]
    return {"taxonomy": taxonomy, "reads": f"read taxonomy {taxonomy}" if taxonomy else "have no tag yet"}


def _redis(settings: Settings) -> Any:
    return connect(settings.redis_url, settings.redis_password, timeout=3.0)


# ── change ───────────────────────────────────────────────────────────────────────────────────────────────


def set_live(settings: Settings, folder: str, *, wait: float) -> int:
    """Name the live model, and watch the workers change over.

    Args:
        folder: a name in WORKER_MODELS_FOLDER, or the path of a folder there.
        wait: seconds; 0: do not watch.

    Returns:
        The exit code: 0, or 1 when not every worker runs it by then.

    Raises:
        SettingsError, StartError, ModelError: there is no such model, or no worker could use it.
        WorkerError: Kafka is away.
    """
    book = read_book(settings)
    live = book.wishes.get("live")
    before = _at_work(settings) if live is None else live.model
    model, named = _checked(settings, folder, book)
    if before == named:
        print(f"{named} is live already")
    else:
        _write(settings, {"live": Assignment(named, wall_ms(), before), **_without(book, named)})
        print(f"live: {named}" + (f"; before it {before}" if before else ""))
        _tell_taxonomy(named, before)
        _tell_origin(model, before)
    return _watch(settings, named, wait)


def _at_work(settings: Settings) -> ModelRef | None:
    """WORKER_MODEL, where it lies in the folder of models: the way back from the first one that is named."""
    path, root = settings.model, models_folder(settings)
    if path is None or path.resolve().parent != root.resolve() or not FOLDER.fullmatch(path.name):
        return None
    model = ClusterModel.load(path)
    return ModelRef(model.version, model.taxonomy, path.name)


def roll_back(settings: Settings, *, wait: float) -> int:
    """Name the model before the live one; done twice, it is the first again.

    Raises:
        SettingsError: there is none.
    """
    book = read_book(settings)
    live = book.wishes.get("live")
    if live is None or live.before is None:
        raise SettingsError("there is no model before the live one; name one with `models set FOLDER`")
    load_named(models_folder(settings), live.before, None)
    _write(settings, {"live": Assignment(live.before, wall_ms(), live.model), **_without(book, live.before)})
    print(f"live: {live.before}; before it {live.model}")
    _tell_taxonomy(live.before, live.model)
    return _watch(settings, live.before, wait)


def set_shadow(settings: Settings, folder: str | None) -> int:
    """Name the shadow model; None: none any more.

    Raises:
        as with `set_live`.
    """
    if folder is None:
        _write(settings, {"shadow": None})
        print("shadow: none")
        return 0
    book = read_book(settings)
    _, named = _checked(settings, folder, book)
    live = book.wishes.get("live")
    if live is not None and live.model.version == named.version:
        raise SettingsError(f"{named} is live: as its own shadow it says nothing")
    _write(settings, {"shadow": Assignment(named, wall_ms())})
    print(f"shadow: {named}")
    print("how it does: `imgclust-worker models`, and the metrics imgclust_shadow_…")
    return 0


def promote(settings: Settings, taxonomy: str | None) -> int:
    """Have feeds read the live model's taxonomy, or another one that Redis holds.

    Raises:
        SettingsError: Redis holds no cluster of it: feeds would be empty.
        WorkerError: Redis is away.
    """
    if taxonomy is None:
        live = read_book(settings).wishes.get("live")
        if live is None:
            raise SettingsError(f"{settings.models_topic!r} names no live model; name the taxonomy")
        taxonomy = live.model.taxonomy
    if not TAXONOMY.fullmatch(taxonomy):
        raise SettingsError(f"{printable(taxonomy)} is no taxonomy")
    keys, client = Keys(settings.redis_prefix), _redis(settings)
    try:
        if not client.exists(keys.clusters(taxonomy)):
            raise SettingsError(
                f"Redis holds no cluster of taxonomy {taxonomy!r}: feeds would be empty. The first tags of a "
                "model of this taxonomy bring them"
            )
        before = client.set(keys.taxonomy, taxonomy, get=True)
    except redis.RedisError as error:
        raise WorkerError(f"Redis does not answer: {printable(str(error))[1:-1]}") from None
    was = None if before is None else text_of(before)
    print(f"feeds read taxonomy {taxonomy}")
    if was and was != taxonomy:
        print(f"back: imgclust-worker models promote {printable(was)[1:-1]}")
    return 0


def _checked(settings: Settings, folder: str, book: ModelsState) -> tuple[ClusterModel, ModelRef]:
    """The model as a worker would load it, tried here first."""
    root = models_folder(settings)
    path = Path(folder)
    if path.parent != Path() or not FOLDER.fullmatch(folder):
        if path.resolve().parent != root.resolve() or not FOLDER.fullmatch(path.name):
            raise SettingsError(
                f"{folder!r} is not a folder in WORKER_MODELS_FOLDER ({str(root)!r}), where the workers "
                "look: copy it there"
            )
        folder = path.resolve().name
    if not (root / folder).is_dir():
        there = sorted(p.name for p in root.iterdir() if (p / "manifest.json").is_file())
        raise SettingsError(
            f"there is no folder {folder!r} in WORKER_MODELS_FOLDER ({str(root)!r}); models there: "
            f"{', '.join(there) or 'none'}"
        )
    model = ClusterModel.load(root / folder)
    named = ModelRef(model.version, model.taxonomy, folder)
    live = book.wishes.get("live")
    encoder = None
    if live is not None:
        encoder = _encoder_of(root, live.model)
    check_encoder(model, named, encoder)
    warm(model)
    return model, named


def _encoder_of(root: Path, named: ModelRef) -> EncoderIdentity | None:
    """A model's encoder, by its manifest alone; None where it cannot be told, as where its folder holds
    another model by now: then the workers will."""
    try:
        manifest = read_json(root / named.folder, MANIFEST)
        return (
            EncoderIdentity.from_dict(manifest["encoder"]) if manifest["version"] == named.version else None
        )
    except (ModelError, KeyError, TypeError, ValueError):
        return None


def _without(book: ModelsState, live: ModelRef) -> dict[ModelRole, Assignment | None]:
    """A model that goes live is its own shadow no more."""
    shadow = book.wishes.get("shadow")
    return {"shadow": None} if shadow is not None and shadow.model.version == live.version else {}


def _tell_taxonomy(live: ModelRef, before: ModelRef | None) -> None:
    if before is not None and before.taxonomy != live.taxonomy:
        print(
            f"a new taxonomy, {live.taxonomy}: feeds read {before.taxonomy} until "
            "`imgclust-worker models promote`"
        )


def _tell_origin(live: ClusterModel, before: ModelRef | None) -> None:
    """Two models that continue the same one give the same new numbers to different clusters."""
    if before is None or before.taxonomy != live.taxonomy:
        return
    told = live.figures.get("taxonomy")
    continued = told.get("previous") if isinstance(told, dict) else None
    if continued is not None and continued != before.version:
        print(
            f"careful: it continues {continued}, not {before.version}: a number that both have given to a "
            "new cluster since then means two things",
            file=sys.stderr,
        )


def _write(settings: Settings, wishes: Mapping[ModelRole, Assignment | None]) -> None:
    """
    Raises:
        WorkerError: Kafka does not take them.
    """
    failed: list[str] = []
    connection = {**wiring.connection(settings), "enable.idempotence": True}
    producer = Producer({"client.id": "imgclust-models", **connection}, logger=client_log)
    topic = models_topic(settings)
    try:
        for role, wish in wishes.items():
            producer.produce(
                topic, key=role.encode(), value=None if wish is None else write_wish(wish), partition=0,
                on_delivery=lambda error, _: failed.append(error.str()) if error else None,
            )  # fmt: skip
        left = producer.flush(SEND_TIMEOUT)
    except KafkaException as error:
        raise WorkerError(f"{topic!r} does not take the change: {error.args[0].str()}") from None
    if left or failed:
        reason = failed[0] if failed else f"no answer within {SEND_TIMEOUT:g} s"
        raise WorkerError(f"{topic!r} does not take the change: {reason}")


def _watch(
    settings: Settings, named: ModelRef, wait: float, clock: Callable[[], float] = time.monotonic
) -> int:
    """Wait until all workers that report run a model, or one refuses it."""
    deadline = clock() + wait
    told = ""
    while wait and clock() < deadline:
        workers = alive(read_book(settings), wall_ms())
        running = [name for name, r in workers.items() if r.version == named.version]
        line = f"{len(running)} of {len(workers)} workers run {named.version}"
        if line != told:
            print(line)
            told = line
        told_so = {name: r.refused.get("live", "") for name, r in workers.items()}
        refusing = {name: text for name, text in told_so.items() if text.startswith(named.version)}
        for name, reason in refusing.items():
            print(f"  {printable(name)[1:-1]} refuses: {printable(reason)[1:-1]}", file=sys.stderr)
        if refusing:
            return 1
        if len(running) == len(workers):
            return 0
        time.sleep(POLL)
    if wait:
        print(f"not all after {wait:g} s; `imgclust-worker models` tells how it goes on", file=sys.stderr)
    return 1 if wait else 0
