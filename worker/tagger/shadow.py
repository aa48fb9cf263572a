"""The shadow model: it predicts what the model at work predicts, and publishes nothing.

It has a thread of its own and takes what it can: live tags never wait for it, and an error of it is counted
and logged, never more. Its answers are compared in the metrics, before anybody switches.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from imgclust.model.drift import Sliding
from imgclust.types import OTHER, Floats, Ints, Prediction
from worker.tagger.drift_gauges import DriftWatch
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.model_metrics import SHADOW_DRIFT

log = logs.get(__name__)

Pairs = collections.Counter[tuple[int, int]]


def agreement(pairs: Mapping[tuple[int, int], int], *, one_taxonomy: bool) -> float:
    """The share of images on which two models agree.

    In one taxonomy they agree where they name the same cluster. The numbers of two taxonomies mean nothing
    to each other: there clusters are matched one to one so that most images agree (Kuhn, "The Hungarian
    method for the assignment problem", 1955); "other" is matched with "other".

    Args:
        pairs: (cluster of one, cluster of the other) → images; -1 is "other".

    Returns:
        0..1; NaN of no images.
    """
    total = sum(pairs.values())
    if not total:
        return math.nan
    if one_taxonomy:
        return sum(n for (a, b), n in pairs.items() if a == b) / total
    from scipy.optimize import linear_sum_assignment  # here: it costs a tenth of a second, and few need it

    inside = {pair: n for pair, n in pairs.items() if OTHER not in pair}
    rows = {a: i for i, a in enumerate(sorted({a for a, _ in inside}))}
    columns = {b: i for i, b in enumerate(sorted({b for _, b in inside}))}
    table = np.zeros((len(rows), len(columns)), np.int64)
    for (a, b), n in inside.items():
        table[rows[a], columns[b]] = n
    matched = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return (matched + pairs.get((OTHER, OTHER), 0)) / total


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """One shadow model beside one live model, and their answers for the latest images."""

    model: Any
    one_taxonomy: bool
    recent: Sliding[Pairs]


class Shadow:
    """Predicts beside the model at work. All but `report` and the gauges is for the predictor's thread.

    Args:
        metrics: whose shadow metrics it sets.
        clock: seconds, steady.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._drift = DriftWatch(metrics, clock, SHADOW_DRIFT)
        self._comparison: _Comparison | None = None
        self._lock = threading.Lock()  # of what is counted
        # a batch in hand and one that waits: what comes meanwhile is skipped
        self._offered: queue.Queue[tuple[_Comparison, Floats, Ints] | None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        metrics.shadow_agreement.set_function(self._agreement)

    def use(self, model: Any | None, live: Any) -> None:
        """Predict with `model` from now on, beside `live`; None: with none."""
        with self._lock:
            self._comparison = None if model is None else self._beside(model, live)
            self._drift.begin(model)
        self._metrics.set_shadow(None if model is None else (model.version, model.taxonomy))
        if model is not None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()

    def follow(self, live: Any) -> None:
        """Another model is at work; what was counted beside the last one is forgotten."""
        if self._comparison is not None:
            self.use(self._comparison.model, live)

    def _beside(self, model: Any, live: Any) -> _Comparison:
        return _Comparison(model, model.taxonomy == live.taxonomy, Sliding(Pairs(), self._clock))

    def offer(self, embeddings: Floats, prediction: Prediction) -> None:
        """What the model at work has just predicted; never waits."""
        comparison = self._comparison
        if comparison is None:
            return
        try:
            self._offered.put_nowait((comparison, embeddings, prediction.labels))
        except queue.Full:
            self._metrics.shadow_skipped.inc(len(embeddings))

    def stop(self) -> None:
        """End the thread after the batch in hand; from any thread."""
        if self._thread is None:
            return
        while self._thread.is_alive():
            try:
                self._offered.put(None, timeout=0.1)
            except queue.Full:
                continue
            self._thread.join(timeout=5)
            return

    def report(self) -> dict[str, Any] | None:
        """How it does, for people: version, images, agreement and share of "other"; None without one."""
        with self._lock:
            comparison = self._comparison
            if comparison is None:
                return None
            pairs = comparison.recent.total()
        images = sum(pairs.values())
        shares: dict[str, Any] = {}
        if images:
            others = sum(n for (_, b), n in pairs.items() if b == OTHER)
            agreed = agreement(pairs, one_taxonomy=comparison.one_taxonomy)
            shares = {"agreement": round(agreed, 4), "other": round(others / images, 4)}
        return {"version": comparison.model.version, "images": images, **shares}

    def _agreement(self) -> float:
        with self._lock:
            if self._comparison is None:
                return math.nan
            pairs, one = self._comparison.recent.total(), self._comparison.one_taxonomy
        return agreement(pairs, one_taxonomy=one)

    # ── its thread ───────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        failed_for: _Comparison | None = None
        while (item := self._offered.get()) is not None:
            comparison, embeddings, live = item
            try:
                prediction = comparison.model.predict(embeddings)
                pairs = Pairs(zip(live.tolist(), prediction.labels.tolist(), strict=True))
                with self._lock:
                    if comparison is self._comparison:
                        comparison.recent.add(pairs, len(embeddings))
                        self._drift.add(prediction)
            except Exception:
                self._metrics.shadow_skipped.inc(len(embeddings))
                if failed_for is not comparison:  # once for each: it may fail with every batch
                    log.exception("the shadow model fails; live tags do not depend on it")
                    failed_for = comparison
