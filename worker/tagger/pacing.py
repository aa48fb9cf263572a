"""How much may be on its way at once, and when reading rests."""

from __future__ import annotations

from worker.kafka.consumer import UploadsConsumer

# Uploads are at most 64 KiB each; what is no upload may be as large as the topic allows, and is held until
# its dead letter is written.
MAX_RESULT_BYTES = 64 * 1024 * 1024


class Pacing:
    """
    Args:
        limit: uploads that are fetched, encoded or not yet published at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def pace(self, consumer: UploadsConsumer, in_flight: int, nbytes: int) -> None:
        """Pause at full, resume at half: pausing throws away what was prefetched, so not at every record.

        Args:
            nbytes: of results that wait for their publication.
        """
        if not consumer.paused:
            if in_flight >= self._limit or nbytes >= MAX_RESULT_BYTES:
                consumer.pause()
        elif in_flight <= self._limit // 2 and nbytes <= MAX_RESULT_BYTES // 2:
            consumer.resume()

    def room(self, under_way: int) -> int:
        """For uploads that are to be fetched, beside those that are under way."""
        return max(0, self._limit - under_way)

    def room_for_new(self, under_way: int, due: int) -> int:
        """What is due for another try gets half of the room: neither waits for the other to run dry."""
        room = self.room(under_way)
        return max(1, room - min(due, room // 2))
