"""What the demo measures while it streams."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Samples:
    """What /metrics showed at one moment."""

    def __init__(self, text: str = "") -> None:
        families = text_string_to_metric_families(text)
        self._values = {
            (s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 if it is not there."""
        return float(self._values.get((name, frozenset(labels.items())), 0))
