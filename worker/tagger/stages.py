"""What the stages that run elsewhere took: their metrics, and the spans of uploads that are traced."""

from __future__ import annotations

from collections.abc import Sequence

from worker.fetching.protocol import Decoded, FetchOutcome
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing


class StageMetrics:
    """Of fetching and decoding, which the fetchers report by the many."""

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._fetch, self._decode = metrics.stages["fetch"], metrics.stages["decode"]
        self._tracing = tracing

    def fetched(self, outcomes: Sequence[FetchOutcome]) -> None:
        """What has been fetched and decoded, or failed in one of the two."""
        traced = self._tracing.active
        decoded = failed_fetches = 0
        for outcome in outcomes:
            if isinstance(outcome, Decoded):
                decoded += 1
                self._fetch.seconds.observe(outcome.fetch_seconds)
                self._decode.seconds.observe(outcome.decode_seconds)
                if traced:
                    self._tracing.decoded(outcome.token, outcome.fetch_seconds, outcome.decode_seconds)
            else:
                failed_fetches += outcome.stage == "fetch"
                if traced:
                    self._tracing.failed(outcome.token, outcome.stage, outcome.code)
        fetched = len(outcomes) - failed_fetches
        self._fetch.leave(fetched)
        self._fetch.leave(failed_fetches, "dead")
        self._decode.enter(fetched)
        self._decode.leave(decoded)
        self._decode.leave(fetched - decoded, "dead")
