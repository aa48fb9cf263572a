"""`imgclust-worker models set|shadow|rollback|promote`: change the model of all workers while they run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
from confluent_kafka import KafkaException, Producer

from imgclust.comparing.words import golden_text, names_of
from imgclust.errors import ModelError
from imgclust.model.folder import MANIFEST, read_json
from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity
from worker import wiring
from worker.commands.models import alive, redis_client
from worker.commands.tag_changes import tag_changes
from worker.errors import SettingsError, WorkerError
from worker.kafka.reading import client_log
from worker.kafka.scanner import Scanner
from worker.messages.models import FOLDER, Assignment, ModelRef, ModelRole, ModelsState, write_assignment
from worker.messages.tag import TAXONOMY
from worker.messages.text import printable, readable, wall_ms
from worker.settings.settings import Settings
from worker.tagger.model_loading import (
    check_encoder,
    load_named,
    models_folder,
    models_topic,
    read_state,
    warm,
)
from worker.view.client import text_of
from worker.view.keys import Keys

POLL = 1.0
SEND_TIMEOUT = 15.0
SHOWN_GOLDEN = 10


def set_live(
    settings: Settings, folder: str, *, wait: float, force: bool = False, dry_run: bool = False
) -> int:
    """Name the live model, and watch the workers change over. Before, say how many tags would change.

    Args:
        folder: a name in WORKER_MODELS_FOLDER, or the path of a folder there.
        wait: seconds; 0: do not watch.
        force: also a model that breaks golden images of its own.
        dry_run: change nothing.

    Returns:
        The exit code: 0, or 1 when not every worker runs it by then.

    Raises:
        SettingsError, StartError, ModelError: there is no such model, no worker could use it, or it breaks
            golden images.
        WorkerError: Kafka is away.
    """
    state = read_state(settings)
    live = state.assignments.get("live")
    before = _at_work(settings) if live is None else live.model
    model, named = _checked(settings, folder, state)
    _check_golden(model, named, force=force)
    if before != named:
        print(_would_change(settings, model, before))
    if dry_run:
        print("nothing was changed")
        return 0
    if before == named:
        print(f"{named} is live already")
    else:
        _write(settings, {"live": Assignment(named, wall_ms(), before), **_without(state, named)})
        print(f"live: {named}" + (f"; before it {before}" if before else ""))
        _report_taxonomy(named, before)
        _warn_of_origin(model, before)
    return _watch(settings, named, wait)


def _check_golden(model: ClusterModel, named: ModelRef, *, force: bool) -> None:
    """
    Raises:
        SettingsError: the model breaks golden images, and that is not forced; each is named.
    """
    broken = model.check_golden()
    if not broken:
        return
    names = names_of(model)
    lines = [f"  {golden_text(one, names)}" for one in broken[:SHOWN_GOLDEN]]
    if len(broken) > SHOWN_GOLDEN:
        lines.append(f"  and {len(broken) - SHOWN_GOLDEN} more: imgclust golden MODEL check")
    text = "\n".join([f"{named} breaks {len(broken)} of its golden images:", *lines])
    if not force:
        raise SettingsError(
            f"{text}\nedit the model, remove those that are wrong (imgclust golden MODEL remove ID), or use "
            "--force to set it anyway"
        )
    print(text, file=sys.stderr)


def _would_change(settings: Settings, model: ClusterModel, before: ModelRef | None) -> str:
    """How many tags of the last week another model would change, in a sentence; or why nobody knows."""
    unknown = "it is not known how many tags would change"
    if before is None:
        return f"{unknown}: no live model is named"
    if settings.embeddings_topic is None:
        return f"{unknown}: embeddings are kept only where WORKER_EMBEDDINGS_TOPIC names a topic"
    try:
        live = load_named(models_folder(settings), before, None)
        with Scanner(wiring.connection(settings)) as scanner:
            return str(tag_changes(scanner, settings.embeddings_topic, live, model, wall_ms()))
    except (ModelError, WorkerError) as error:  # of the live model, or of the topic
        return f"{unknown}: {readable(str(error))}"


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
    state = read_state(settings)
    live = state.assignments.get("live")
    if live is None or live.before is None:
        raise SettingsError("there is no model before the live one; name one with `models set FOLDER`")
    load_named(models_folder(settings), live.before, None)
    _write(settings, {"live": Assignment(live.before, wall_ms(), live.model), **_without(state, live.before)})
    print(f"live: {live.before}; before it {live.model}")
    _report_taxonomy(live.before, live.model)
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
    state = read_state(settings)
    _, named = _checked(settings, folder, state)
    live = state.assignments.get("live")
    if live is not None and live.model.version == named.version:
        raise SettingsError(f"{named} is the live model: it cannot be its own shadow")
    _write(settings, {"shadow": Assignment(named, wall_ms())})
    print(f"shadow: {named}")
    print("to compare them: `imgclust-worker models`, and the metrics imgclust_shadow_…")
    return 0


def promote(settings: Settings, taxonomy: str | None) -> int:
    """Have feeds read the live model's taxonomy, or another one that Redis holds.

    Raises:
        SettingsError: Redis holds no cluster of it: feeds would be empty.
        WorkerError: Redis is away.
    """
    if taxonomy is None:
        live = read_state(settings).assignments.get("live")
        if live is None:
            raise SettingsError(f"{settings.models_topic!r} names no live model; name the taxonomy")
        taxonomy = live.model.taxonomy
    if not TAXONOMY.fullmatch(taxonomy):
        raise SettingsError(f"{printable(taxonomy)} is no taxonomy")
    keys, client = Keys(settings.redis_prefix), redis_client(settings)
    try:
        if not client.exists(keys.clusters(taxonomy)):
            raise SettingsError(
                f"Redis holds no cluster of taxonomy {taxonomy!r}: feeds would be empty. The first tags of a "
                "model of this taxonomy bring them"
            )
        before = client.set(keys.taxonomy, taxonomy, get=True)
    except redis.RedisError as error:
        raise WorkerError(f"Redis does not answer: {readable(str(error))}") from None
    was = None if before is None else text_of(before)
    print(f"feeds read taxonomy {taxonomy}")
    if was and was != taxonomy:
        print(f"back: imgclust-worker models promote {readable(was)}")
    return 0


def _checked(settings: Settings, folder: str, state: ModelsState) -> tuple[ClusterModel, ModelRef]:
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
    live = state.assignments.get("live")
    encoder = None
    if live is not None:
        encoder = _encoder_of(root, live.model)
    check_encoder(model, named, encoder)
    warm(model)
    return model, named


def _encoder_of(root: Path, named: ModelRef) -> EncoderIdentity | None:
    """A model's encoder, by its manifest alone; None where it does not say, as where its folder holds
    another model by now: then the workers will."""
    try:
        manifest = read_json(root / named.folder, MANIFEST)
        return (
            EncoderIdentity.from_dict(manifest["encoder"]) if manifest["version"] == named.version else None
        )
    except (ModelError, KeyError, TypeError, ValueError):
        return None


def _without(state: ModelsState, live: ModelRef) -> dict[ModelRole, Assignment | None]:
    """A model that goes live is its own shadow no more."""
    shadow = state.assignments.get("shadow")
    return {"shadow": None} if shadow is not None and shadow.model.version == live.version else {}


def _report_taxonomy(live: ModelRef, before: ModelRef | None) -> None:
    if before is not None and before.taxonomy != live.taxonomy:
        print(
            f"a new taxonomy, {live.taxonomy}: feeds read {before.taxonomy} until "
            "`imgclust-worker models promote`"
        )


def _warn_of_origin(live: ClusterModel, before: ModelRef | None) -> None:
    """Two models that continue the same one give the same new numbers to different clusters."""
    if before is None or before.taxonomy != live.taxonomy:
        return
    figures = live.figures.get("taxonomy")
    continued = figures.get("previous") if isinstance(figures, dict) else None
    if continued is not None and continued != before.version:
        print(
            f"careful: it continues {continued}, not {before.version}: a number that both gave to a new "
            "cluster means two things",
            file=sys.stderr,
        )


def _write(settings: Settings, assignments: Mapping[ModelRole, Assignment | None]) -> None:
    """
    Raises:
        WorkerError: Kafka does not take them.
    """
    failed: list[str] = []
    connection = {**wiring.connection(settings), "enable.idempotence": True}
    producer = Producer({"client.id": "imgclust-models", **connection}, logger=client_log)
    topic = models_topic(settings)
    try:
        for role, assignment in assignments.items():
            producer.produce(
                topic,
                key=role.encode(),
                value=None if assignment is None else write_assignment(assignment),
                partition=0,
                on_delivery=lambda error, _: failed.append(error.str()) if error else None,
            )
        left = producer.flush(SEND_TIMEOUT)
    except KafkaException as error:
        raise WorkerError(f"{topic!r} did not accept the change: {error.args[0].str()}") from None
    if left or failed:
        reason = failed[0] if failed else f"no answer within {SEND_TIMEOUT:g} s"
        raise WorkerError(f"{topic!r} did not accept the change: {reason}")


def _watch(
    settings: Settings, named: ModelRef, wait: float, clock: Callable[[], float] = time.monotonic
) -> int:
    """Wait until all workers that report run a model, or one refuses it."""
    deadline = clock() + wait
    shown = ""
    while wait and clock() < deadline:
        workers = alive(read_state(settings), wall_ms())
        running = [name for name, r in workers.items() if r.version == named.version]
        line = f"{len(running)} of {len(workers)} workers run {named.version}"
        if line != shown:
            print(line)
            shown = line
        refused = {name: r.refused.get("live", "") for name, r in workers.items()}
        refusing = {name: text for name, text in refused.items() if text.startswith(named.version)}
        for name, reason in refusing.items():
            print(f"  {readable(name)} refuses: {readable(reason)}", file=sys.stderr)
        if refusing:
            return 1
        if len(running) == len(workers):
            return 0
        time.sleep(POLL)
    if wait:
        print(f"not all after {wait:g} s; `imgclust-worker models` shows the progress", file=sys.stderr)
    return 1 if wait else 0
