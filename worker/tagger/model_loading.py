"""Which model a worker starts with, and its encoder; loading and warming those that the models topic
names."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import ImgclustError
from imgclust.types import EncoderIdentity
from worker import wiring
from worker.errors import StartError, WorkerError
from worker.kafka.scanner import Scanner
from worker.messages.models import ModelRef, ModelsState
from worker.settings.settings import Settings
from worker.telemetry import log as logs

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.types import Encoder

log = logs.get(__name__)


def load(settings: Settings) -> tuple[ClusterModel, Encoder]:
    """The model to start with, and the encoder that its manifest names.

    Raises:
        StartError: no model is named, or the encoder that loads is not the one the model was fitted with.
        ImgclustError: the folder or the weights cannot be loaded.
    """
    from imgclust.embedding.encoder import load_encoder

    started = time.monotonic()
    model = first_model(settings)
    wanted = model.encoder
    if wanted is None:
        raise StartError(
            f"model {model.version} does not name its encoder; "
            "freeze it with ClusterModel.from_fitted(…, encoder=…)"
        )
    encoder = load_encoder(
        wanted.name,
        device=settings.device,
        precision=settings.precision or wanted.precision,
        weights=settings.encoder_weights,
        max_batch=settings.max_batch,
    )
    encoder.identity.check_same(
        wanted,
        f"model {model.version} was fitted with",
        "set WORKER_ENCODER_WEIGHTS and WORKER_PRECISION to match",
        here="what loaded is",
        error=StartError,
    )
    log.info(
        "model loaded",
        model=model.version, taxonomy=model.taxonomy, clusters=len(model.clusters), encoder=wanted.name,
        seconds=round(time.monotonic() - started, 2),
    )  # fmt: skip
    return model, encoder


def load_folder(path: Path) -> ClusterModel:
    """As `ClusterModel.load`. What predicts nothing, like the view, loads neither it nor torch with it."""
    from imgclust.model.model import ClusterModel

    return ClusterModel.load(path)


WARM_SIZES = (1, 2, 64, 256)


def load_named(
    folder: Path, named: ModelRef, encoder: EncoderIdentity | None, device: str = "cpu"
) -> ClusterModel:
    """A model that the topic names, loaded and checked.

    Args:
        folder: of models.
        encoder: whose embeddings it must take; None: any.
        device: where it predicts.

    Raises:
        ModelError, StartError: the folder is not there, is damaged, holds another model, or one of another
            encoder; the device gives other bits than the processor.
    """
    path = folder / named.folder
    if not path.is_dir():
        raise StartError(f"there is no folder {named.folder!r} in WORKER_MODELS_FOLDER ({str(folder)!r})")
    model = load_folder(path)
    if model.version != named.version:
        raise StartError(
            f"the folder {named.folder!r} holds model {model.version}, the models topic names {named.version}"
        )
    check_encoder(model, named, encoder)
    return model.predicting_on(device)


def check_encoder(model: ClusterModel, named: ModelRef, encoder: EncoderIdentity | None) -> None:
    """Refuse a model that does not take an encoder's embeddings, or does not say whose it takes.

    Raises:
        StartError: naming both encoders.
    """
    if model.encoder is None:
        raise StartError(f"the model in {named.folder!r} does not name its encoder")
    if encoder is not None:
        encoder.check_same(
            model.encoder,
            f"the model in {named.folder!r} was fitted with",
            "a new encoder needs new workers",
            here="this worker encodes with",
            error=StartError,
        )


def warm(model: ClusterModel) -> None:
    """Predict some of the model's own training images, so that the first upload waits for nothing."""
    own = model.arrays["embeddings"]
    for size in WARM_SIZES:
        model.predict(own[np.arange(size) % len(own)].astype(np.float32))


def read_state(settings: Settings) -> ModelsState:
    """All that the models topic says now.

    Raises:
        StartError: it is not there, or has more than one partition.
        WorkerError: Kafka is away.
    """
    topic = models_topic(settings)
    state = ModelsState()
    with Scanner(wiring.connection(settings)) as scanner:
        if scanner.partitions(topic) != [0]:
            raise StartError(f"{topic!r} must have one partition, so that its records have one order")
        for entry in scanner.read(topic, {0: 0}):
            state.take(entry.key, entry.value, entry.offset)
    return state


def models_topic(settings: Settings) -> str:
    """
    Raises:
        StartError: there is none.
    """
    if settings.models_topic is None:
        raise StartError("WORKER_MODELS_TOPIC is not set: it names the topic that says which model is live")
    return settings.models_topic


def models_folder(settings: Settings) -> Path:
    """
    Raises:
        StartError: there is none.
    """
    if settings.models_folder is None:
        raise StartError("WORKER_MODELS_FOLDER is not set: it is the folder that the model folders are in")
    return settings.models_folder


def first_model(settings: Settings) -> ClusterModel:
    """The model to start with: the live one of the topic, else the one before it, else WORKER_MODEL; without
    a topic, WORKER_MODEL.

    Raises:
        StartError: none of them can be used; the text has the reason of each.
        ModelError: without a topic, WORKER_MODEL cannot be loaded, or not predict on WORKER_PREDICT_DEVICE.
    """
    if settings.models_topic is None:
        if settings.model is None:
            raise StartError("WORKER_MODEL is not set; set it to a model folder (made by `imgclust fit`)")
        return load_folder(settings.model).predicting_on(settings.predict_device)
    folder = models_folder(settings)
    assignment = read_state(settings).assignments.get("live")
    tries: list[tuple[str, Callable[[], ClusterModel]]] = []
    for what, named in (("live", assignment.model), ("before", assignment.before)) if assignment else ():
        if named is not None:
            tries.append((f"{what} {named}", partial(load_named, folder, named, None)))
    if settings.model is not None:
        tries.append((f"WORKER_MODEL {str(settings.model)!r}", partial(load_folder, settings.model)))
    refused = []
    for what, load in tries:
        try:
            return load().predicting_on(settings.predict_device)
        except (ImgclustError, WorkerError) as error:
            refused.append(f"{what}: {error}")
            log.error("a model cannot be used; the next one is tried", model=what, error=str(error))
    if not tries:
        raise StartError(
            f"{models_topic(settings)!r} names no model, and WORKER_MODEL is not set: name one with "
            "`imgclust-worker models set FOLDER`"
        )
    raise StartError("\n".join(("no model can be used:", *refused)))
