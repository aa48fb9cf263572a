"""What a metric is: its name, what it counts, its labels and what they may say."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True)
class Label:
    """A label and the values that it may have; `values` is None where Kafka or the model bounds them."""

    name: str
    values: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: its name, what it counts and what it means."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds, without +Inf

    def check(self, values: tuple[str, ...]) -> None:
        """Labels are few and bounded: anything else is a mistake in the program."""
        if len(values) != len(self.labels):
            names = [label.name for label in self.labels]
            raise ValueError(f"{self.name} has the labels {names}, got the values {values!r}")
        for label, value in zip(self.labels, values, strict=True):
            if label.values is not None and value not in label.values:
                raise ValueError(
                    f"{self.name}: the label {label.name} must be one of {label.values}, got {value!r}"
                )
