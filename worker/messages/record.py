"""A record as the worker sees it, free of Kafka's types."""

from __future__ import annotations

import dataclasses

from worker.messages.headers import ReplayHeaders


@dataclasses.dataclass(slots=True)  # not frozen, which would make it four times as slow to make
class Record:
    """One record of the uploads topic.

    Attributes:
        epoch: of the assignment under which it was read.
        timestamp: milliseconds since the epoch; when it was read if the broker gave none. That of a replay is
            its dead letter's source's.
        handed_over: it is in the retry topic, and its offset is done since then; the offset may be one of a
            topic that is no more.
        traceparent: the W3C trace header, where there is one.
        replay: of an upload that `dlq replay` sent again.
    """

    partition: int
    epoch: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    traceparent: bytes | None = None
    replay: ReplayHeaders | None = None
    handed_over: bool = False

    @property
    def known_id(self) -> str | None:
        """The id that the key is, where the event may say it in another way."""
        if self.replay is None or not self.replay.key_is_id or not self.key:
            return None
        return self.key.decode(errors="replace")
