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

    def pace(self, consumer: UploadsConsumer, load: int, nbytes: int) -> None:
        """Pause at full, resume at half: pausing throws away what was prefetched, so not at every record.

        Args:
            load: uploads on their way, and results that wait for their publication.
            nbytes: of results that wait for their publication.
        """
        if not consumer.paused:
            if load >= self._limit or nbytes >= MAX_RESULT_BYTES:
                consumer.pause()
        elif load <= self._limit // 2 and nbytes <= MAX_RESULT_BYTES // 2:
            consumer.resume()

    def room(self, load: int) -> int:
        """For uploads that are to be fetched, new ones and retries alike."""
        return max(0, self._limit - load)

    def room_for_new(self, load: int, due: int) -> int:
        """What is due for another try gets half of the room: neither waits for the other to run dry."""
        room = self.room(load)
        return max(1, room - min(due, room // 2))
