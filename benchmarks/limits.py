"""What held a measured side back; and a loud end when nothing did, though there was more to do.

A worker once tagged 900 uploads/s with a processor that was idle for 96 % of the time and a broker that had
thousands more: the figure was a pause in the client, and no row said so.
"""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path

BUSY = 0.6  # share of the time for which what is called a limit must have been at work
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
