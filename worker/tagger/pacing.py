"""How much may be on its way at once, and when reading rests. Pure but for the clock that is passed in.

Enough for every stage to have work at all times, and no more: what HORIZON seconds bring, measured, at least
what fills the stages, and never more than `most` uploads or MAX_BYTES of their records.

While there is no room nothing is read: what the client has fetched stays where it is. Reading is paused only
when that lasts, because a pause throws the fetched records away, and after it the client fetches again at its
next beat of a second: measured, a worker that paused at every fullness did 826 to 1,001 uploads/s, whatever
its encoder could do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from worker.kafka.consumer import UploadsConsumer
from worker.messages.record import Record

HORIZON = 0.5  # seconds of work on its way; an upload takes a tenth of one from end to end
LEAST = 1024
IDLE_WAIT = 0.1  # seconds in one poll with nothing in flight
# with work in flight a result waits at most so long for its publication
BUSY_WAIT = 0.005
FULL_WAIT = 0.1  # without room the group is looked at so often
MEASURE = 0.25  # seconds between two looks at the rate
PATIENCE = 2.0  # seconds without room, after which reading is paused
# Uploads are at most 64 KiB each; what is no upload may be as large as the topic allows, and is held until
# its dead letter is written.
MAX_BYTES = 64 * 1024 * 1024


class Pacing:
    """
    Args:
        most: uploads that are fetched, encoded or not yet published at once.
        least: what fills the fetchers' connections and the encoder's batches.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        most: int,
        clock: Callable[[], float],
        least: int = LEAST,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._most = most
        self._clock = clock
        self._least = self.limit = min(max(LEAST, least), most)
        self._load = self._nbytes = 0
        self._full = False
        self._taken = self._ended = 0
        self._sleep = sleep
        self._measured_at = self._room_at = self._look_at = clock()

    def took(self, n: int) -> None:
        """So many more uploads are on their way."""
        self._taken += n

    def look(self, load: int, nbytes: int, *, full: bool = False) -> None:
        """What is on its way now: uploads and results that wait, and the bytes of their records.

        Args:
            full: no more retries can be remembered: nothing new is taken in.
        """
        self._load, self._nbytes, self._full = load, nbytes, full
        now = self._clock()
        if self.room() and not full:
            self._room_at = now
        if now - self._measured_at >= MEASURE:
            ended = self._taken - load
            rate = (ended - self._ended) / (now - self._measured_at)
            self._ended, self._measured_at = ended, now
            self.limit = self._towards(int(rate * HORIZON))

    def _towards(self, wanted: int) -> int:
        """Up at once, down slowly: a moment without work is no reason to begin anew."""
        wanted = max(wanted, self.limit * 9 // 10)
        return min(max(wanted, self._least), self._most)

    def room(self) -> int:
        """For uploads that are to be fetched, new ones and retries alike."""
        return 0 if self._nbytes >= MAX_BYTES else max(0, self.limit - self._load)

    def room_for_new(self, due: int) -> int:
        """What is due for another try gets half of the room: neither waits for the other to run dry."""
        room = 0 if self._full else self.room()
        return room - min(due, room // 2)

    def read(self, consumer: UploadsConsumer, due: int, *, busy: bool) -> Sequence[Record]:
        """New records, as many as there is room for beside `due` retries.

        Without room the group is still looked at, and one record at most comes with that.
        """
        self._pace(consumer)
        room = self.room_for_new(due)
        if room:
            return consumer.poll(room, BUSY_WAIT if busy else IDLE_WAIT)
        if self._clock() < self._look_at:
            self._sleep(BUSY_WAIT)
            return ()
        self._look_at = self._clock() + FULL_WAIT
        return consumer.poll(1, 0)

    def _pace(self, consumer: UploadsConsumer) -> None:
        """Pause what stays full, resume at half."""
        if not consumer.paused:
            if self._clock() - self._room_at >= PATIENCE:
                consumer.pause()
        elif not self._full and self._load <= self.limit // 2 and self._nbytes <= MAX_BYTES // 2:
            consumer.resume()
