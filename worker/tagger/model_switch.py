"""Models that change while the worker runs: the models topic is followed, and what it names is used.

A model is loaded and warmed in the thread that follows the topic, beside the one at work; the change itself
is one step between two batches (`worker.tagger.inference.Inference.use`). Whatever goes wrong leaves the old
model at work: it is said in metrics, in the log, at `/readyz` and in this worker's report, and tried again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.types import EncoderIdentity
from worker.messages.models import Assignment, ModelRef, ModelRole, WorkerReport
from worker.tagger.inference import Inference
from worker.tagger.model_loading import load_named, warm
from worker.telemetry import log as logs
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

log = logs.get(__name__)

TRY_AGAIN = 30.0  # seconds after a model could not be used: its folder may be on its way


@dataclasses.dataclass(slots=True)
class _Have:
    """What is used in a role, and what was refused last."""

    version: str | None
    refused: str | None = None  # version
    reason: str = ""
    again: float = 0.0


class ModelChanger:
    """What is wanted against what is used; knows nothing of Kafka.

    Args:
        folder: of models.
        encoder: what the worker encodes with.
        first: the model at work.
        inference: takes models into use.
        load: makes a model of what the topic names, see `load_named`.
        clock: monotonic seconds.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        encoder: EncoderIdentity,
        first: ClusterModel,
        inference: Inference,
        *,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int],
        load: Callable[[Path, ModelRef, EncoderIdentity | None], ClusterModel] = load_named,
    ) -> None:
        self._folder = folder
        self._encoder = encoder
        self._inference = inference
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._wall_ms = wall_ms
        self._load = load
        self._have: dict[ModelRole, _Have] = {"live": _Have(first.version), "shadow": _Have(None)}
        self._since = wall_ms()

    def settle(self, assignments: Mapping[ModelRole, Assignment]) -> bool:
        """Take into use what is wanted and is not used; returns whether anything has changed."""
        changed = self._settle("live", assignments.get("live"))
        shadow = assignments.get("shadow")
        if shadow is not None and shadow.model.version == self._have["live"].version:
            shadow = None  # it would agree with itself
        return self._settle("shadow", shadow) or changed

    def _settle(self, role: ModelRole, assignment: Assignment | None) -> bool:
        have = self._have[role]
        version = None if assignment is None else assignment.model.version
        if version == have.version or (assignment is None and role == "live"):
            # what was refused is not wanted any more
            return self._refused(role, None, "")
        if version == have.refused and self._clock() < have.again:
            return False
        if assignment is None:
            self._inference.use_shadow(None)
            have.version = None
            log.info("no shadow model any more")
            self._refused(role, None, "")
            return True
        started = self._clock()
        try:
            model = self._load(self._folder, assignment.model, self._encoder)
            warm(model)
        except Exception as error:  # whatever is in the folder, the old model goes on
            have.again = self._clock() + TRY_AGAIN
            return self._refused(role, assignment.model, str(error) or type(error).__name__)
        self._take(role, model)
        have.version = model.version
        self._refused(role, None, "")
        self._metrics.model_changes["changed"].inc()
        log.info(
            "another model is at work" if role == "live" else "another shadow model",
            model=model.version, taxonomy=model.taxonomy, clusters=len(model.clusters),
            folder=assignment.model.folder, seconds=round(self._clock() - started, 2),
        )  # fmt: skip
        return True

    def _take(self, role: ModelRole, model: ClusterModel) -> None:
        if role == "shadow":
            self._inference.use_shadow(model)
            return
        self._inference.use(model)
        self._since = self._wall_ms()
        self._metrics.set_model(
            model.version, model.taxonomy, self._encoder.name, {c.id: c.stability for c in model.clusters}
        )

    def _refused(self, role: ModelRole, model: ModelRef | None, reason: str) -> bool:
        """Say that a model cannot be used, or that there is none like that any more; whether that is new."""
        have = self._have[role]
        version = None if model is None else model.version
        new = (version, reason) != (have.refused, have.reason)
        have.refused, have.reason = version, reason
        if new and model is not None:
            self._metrics.model_changes["refused"].inc()
            log.error(
                f"the {role} model that is named cannot be used; nothing has changed",
                model=str(model), error=reason, again_in=TRY_AGAIN,
            )  # fmt: skip
        self._metrics.model_refused[role].set(model is not None)
        if new and role == "live":
            self._health.set("model", True, "" if model is None else f"{model} is wanted: {reason}")
        return new

    def report(self) -> WorkerReport:
        """What this worker runs now."""
        maker = self._inference.maker
        return WorkerReport(
            version=maker.version,
            taxonomy=maker.taxonomy,
            since=self._since,
            shadow=self._inference.shadow.report(),
            refused={role: f"{h.refused}: {h.reason}" for role, h in self._have.items() if h.refused},
            at=self._wall_ms(),
        )
