"""What held a measured side back; and a loud end when nothing did, though there was more to do.

A worker once tagged 900 uploads/s with a processor that was idle for 96 % of the time and a broker that had
thousands more: the figure was a pause in the client, and no row said so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

BUSY = 0.6  # share of the time for which what is called a limit must have been at work
OWN_WAITS = "its own waits"
failures: list[str] = []  # of runs of this process that are no result
_ENCODER = re.compile(r'^imgclust_stage_busy_seconds_total\{stage="encode"\} (\S+)$', re.MULTILINE)


class Idle(Exception):
    """Uploads waited, and nothing was busy with them."""


def limit(shares: Mapping[str, float], waiting: int) -> str:
    """Which part was the limit.

    Args:
        shares: part → share of the time for which it was at work, or wanted to be.
        waiting: uploads that waited for the side when the measurement ended, or had until then.

    Raises:
        Idle: none was busy enough to be one, and uploads waited.
    """
    name = max(shares, key=lambda part: shares[part])
    if shares[name] < BUSY and waiting:
        parts = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items())
        raise Idle(
            f"{waiting} uploads waited and nothing was busy ({parts} of the time): the rate is that of a "
            "pause, not of the machine, the encoder or the broker; find it before this figure is used"
        )
    return name


def held_back(run: str, shares: Mapping[str, float], waiting: int, *, ours: bool = True) -> str:
    """What the limit of a run was; where there was none, this process will fail, see `end`.

    Args:
        ours: False: of a side that waits for one thing after the other, as it is written, none is expected.
    """
    try:
        return limit(shares, waiting)
    except Idle as idle:
        if not ours:
            return OWN_WAITS
        failures.append(f"{run}: {idle}")
        print(json.dumps({"idle": run, "how": str(idle)}), flush=True)
        return "none found"


def end() -> None:
    """End this process with exit code 1 where a run was no result."""
    if failures:
        sys.exit("\n".join(("these runs are no result:", *failures)))


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """Seconds so far, where all that takes part runs on this machine: by the clock, at work on all its cores,
    whoever had them (Linux), and of the encoders, all together."""

    wall: float
    busy: float
    encoder: float

    @classmethod
    def now(cls, encoder: float = 0.0) -> Moment:
        return cls(time.monotonic(), busy_seconds(Path("/proc/stat").read_text()), encoder)

    def shares(self, later: Moment, encoders: int = 1) -> dict[str, float]:
        """Of the time between two moments, for which processors and encoders were at work."""
        wall = later.wall - self.wall
        return {
            "processor": (later.busy - self.busy) / (wall * (os.cpu_count() or 1)),
            "encoder": (later.encoder - self.encoder) / (wall * encoders),
        }


def busy_seconds(stat: str) -> float:
    """Processor seconds of all cores that were not idle, from the text of /proc/stat."""
    user, nice, system, _idle, _wait, *rest = (int(ticks) for ticks in stat.splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def run_queue_seconds(pid: int, without: str = "") -> float:
    """Seconds for which a process's threads wanted a processor that others had (Linux).

    Args:
        without: the name of threads that are left out.
    """
    seconds = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it ended just now
            if not without or (task / "comm").read_text().strip() != without:
                seconds += int((task / "schedstat").read_text().split()[1]) / 1e9
    return seconds


def encoder_seconds(pid: int) -> float | None:
    """Seconds for which a worker's encoder has been busy, from its metrics; None: it is no worker."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    address = next((v.partition(b"=")[2] for v in variables if v.startswith(b"WORKER_HTTP=")), None)
    if address is None:
        return None
    with urllib.request.urlopen(f"http://{address.decode()}/metrics", timeout=10) as answer:
        return busy_encoding(answer.read().decode())


def busy_encoding(metrics: str) -> float:
    """The encoder's busy seconds, from a worker's metrics as text; 0 while it has not begun."""
    found = _ENCODER.search(metrics)
    return float(found[1]) if found else 0.0
