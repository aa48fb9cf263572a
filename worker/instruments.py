"""Counters, gauges and histograms that cost the worker little; `worker.metrics` says which there are.

An update is a lock and an addition (about 0.2 µs) and takes a count, so that a batch costs what one image
costs. Why these are not prometheus_client's own classes: docs/decisions/0050.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """A label and the values that it may have; `values` is None where Kafka or the model bounds them."""

    name: str
    values: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One metric: its name, what it counts and what it means."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, without +Inf


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._lock = threading.Lock()

    def inc(self, n: float = 1) -> None:
        with self._lock:
            self._value += n

    @property
    def value(self) -> float:
        return self._value


class Gauge:
    """A number that goes up and down, or that a function tells when it is asked for."""

    __slots__ = ("_function", "_lock", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._lock = threading.Lock()
        self._function: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self._value = value

    def inc(self, n: float = 1) -> None:
        with self._lock:
            self._value += n

    def dec(self, n: float = 1) -> None:
        self.inc(-n)

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask `function`, from the thread that serves `/metrics`, instead of keeping a value."""
        self._function = function

    @property
    def value(self) -> float:
        return self._value if self._function is None else self._function()


class Histogram:
    """How values are spread over fixed buckets."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = list(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float, n: int = 1) -> None:
        """Count `n` items of this value."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += n
            self._sum += value * n

    def observe_all(self, values: Iterable[float]) -> None:
        """Count many items, each of its own value, under one lock."""
        bounds, counts, find = self._bounds, self._counts, bisect.bisect_left
        with self._lock:
            for value in values:
                counts[find(bounds, value)] += 1
                self._sum += value

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """The cumulative buckets as Prometheus wants them, and the sum."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        running, buckets = 0, []
        for bound, count in zip(bounds, counts, strict=True):
            running += count
            buckets.append((bound, float(running)))
        return buckets, total

    @property
    def count(self) -> int:
        return sum(self._counts)


Cell = Counter | Gauge | Histogram


class Family:
    """All cells of one row, by their label values."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.cells: dict[tuple[str, ...], Cell] = {}
        self._lock = threading.Lock()

    def cell(self, labels: tuple[str, ...]) -> Cell:
        found = self.cells.get(labels)
        return found if found is not None else self._make(labels)

    def _make(self, labels: tuple[str, ...]) -> Cell:
        names = [label.name for label in self.row.labels]
        if len(labels) != len(names):
            raise ValueError(f"{self.row.name} has the labels {names}, got the values {labels!r}")
        for label, value in zip(self.row.labels, labels, strict=True):
            if label.values is not None and value not in label.values:
                raise ValueError(
                    f"{self.row.name}: the label {label.name} must be one of {label.values}, got {value!r}"
                )
        with self._lock:  # copied, so that a scrape may walk over the old one
            cells = dict(self.cells)
            result = cells.setdefault(labels, self._new())
            self.cells = cells
            return result

    def _new(self) -> Cell:
        match self.row.kind:
            case "counter":
                return Counter()
            case "gauge":
                return Gauge()
            case "histogram":
                return Histogram(self.row.buckets)

    def remove(self, labels: tuple[str, ...]) -> None:
        with self._lock:
            self.cells = {key: cell for key, cell in self.cells.items() if key != labels}

    def collect(self) -> Metric:
        row, names = self.row, [label.name for label in self.row.labels]
        if row.kind == "histogram":
            histogram = HistogramMetricFamily(row.name, row.help, labels=names)
            for labels, cell in self.cells.items():
                assert isinstance(cell, Histogram)
                buckets, total = cell.read()
                histogram.add_metric(labels, buckets=buckets, sum_value=total)
            return histogram
        family = (CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily)(
            row.name, row.help, labels=names
        )
        for labels, cell in self.cells.items():
            assert not isinstance(cell, Histogram)
            family.add_metric(labels, cell.value)
        return family


class Window:
    """Sums over the last seconds, in steps of a thirtieth of the window."""

    STEPS = 30

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._step = seconds / self.STEPS
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: collections.deque[list[int]] = collections.deque()  # [step number, part, whole]

    def add(self, part: int, whole: int) -> None:
        now = int(self._clock() // self._step)
        with self._lock:
            if not self._slots or self._slots[-1][0] != now:
                self._slots.append([now, 0, 0])
                self._forget(now)
            self._slots[-1][1] += part
            self._slots[-1][2] += whole

    def ratio(self) -> float:
        with self._lock:
            self._forget(int(self._clock() // self._step))
            whole = sum(slot[2] for slot in self._slots)
            return sum(slot[1] for slot in self._slots) / whole if whole else math.nan

    def _forget(self, now: int) -> None:
        while self._slots and self._slots[0][0] <= now - self.STEPS:
            self._slots.popleft()
