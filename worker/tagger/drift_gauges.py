"""The drift metrics of a model: what it predicts against what it said of its held-out images."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial

from imgclust.model.drift import PARTS, Drift, Reference, SlidingTally
from imgclust.types import Prediction
from worker.telemetry import log as logs
from worker.telemetry.metric_row import MetricRow
from worker.telemetry.metrics import Metrics
from worker.telemetry.model_metrics import LIVE_DRIFT, DriftRows

log = logs.get(__name__)


class DriftWatch:
    """Counts predictions and answers scrapes; both may come from any thread.

    Args:
        metrics: whose drift gauges it sets. They are computed when they are asked for.
        clock: seconds, steady.
        rows: the gauges' names.
    """

    def __init__(
        self, metrics: Metrics, clock: Callable[[], float] = time.monotonic, rows: DriftRows = LIVE_DRIFT
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: SlidingTally | None = None
        self._show(lambda drift: drift.tally.images, rows.images)
        self._show(lambda drift: drift.tally.other, rows.other, "window")
        self._show(lambda drift: drift.reference.other, rows.other, "held-out")
        self._show(lambda drift: drift.tally.novelty, rows.novel, "window")
        self._show(lambda drift: drift.reference.novelty, rows.novel, "held-out")
        for part in PARTS:
            self._show(partial(_index, part), rows.psi, part)
            self._show(partial(_chance, part), rows.chance, part)

    def _show(self, value: Callable[[Drift], float], row: MetricRow, *labels: str) -> None:
        def now() -> float:
            drift = self.drift()
            return math.nan if drift is None else value(drift)

        self._metrics.gauge(row, *labels).set_function(now)

    def begin(self, model: object | None) -> None:
        """Another model is at work, or none; what was counted of the last one is forgotten."""
        reference = None if model is None else Reference.of_model(model)
        if model is not None and reference is None:
            log.info("the model keeps no held-out images, so drift is not measured")
        with self._lock:
            self._recent = None if reference is None else SlidingTally(reference, self._clock)

    def add(self, prediction: Prediction) -> None:
        """Count a batch of the model that was begun last."""
        with self._lock:
            if self._recent is not None:
                self._recent.add(self._recent.reference.count(prediction))

    def drift(self) -> Drift | None:
        with self._lock:
            return None if self._recent is None else self._recent.drift()


def _index(part: str, drift: Drift) -> float:
    return drift.index[part]


def _chance(part: str, drift: Drift) -> float:
    return drift.chance[part]
