"""Moments at which a test makes this process die or freeze. Nothing happens unless a variable says so.

`IMGCLUST_FAILPOINT="<name>=<action>[@<nth hit>]"`, with the actions `kill` (SIGKILL to itself) and `stop`
(SIGSTOP to itself). It is not a setting of the worker: it exists for the tests that kill workers at the worst
moments, which a random kill hardly ever meets.
"""

from __future__ import annotations

import functools
import os
import signal
import threading

VARIABLE = "IMGCLUST_FAILPOINT"
NAMES = (
    "before-send-offsets",  # the transaction has its results and no offsets
    "after-send-offsets",
    "before-commit",
    "during-commit",  # the request is on its way, nobody knows what became of it
    "after-commit",  # the broker has it, this process has not written it down
    "in-revoke",
    "after-committed-read",  # between `committed()` and the first record of a partition
    "retry-restore",
)
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_DURING = 0.001  # seconds after a call began: its request has left and is not answered


class Failpoint:
    """One armed failpoint; it acts once.

    Raises:
        ValueError: the text names no failpoint or no action.
    """

    def __init__(self, text: str) -> None:
        self.name, _, rest = text.partition("=")
        action, _, nth = rest.partition("@")
        if self.name not in NAMES or action not in _ACTIONS or not (nth or "1").isdecimal():
            known = ", ".join(NAMES)
            raise ValueError(f"{VARIABLE}={text!a} must be <name>=kill|stop[@n], with a name of {known}")
        self._signal = _ACTIONS[action]
        self._left = int(nth or 1)

    def hit(self) -> bool:
        """Count a hit; whether it is the one to act at."""
        self._left -= 1
        return self._left == 0

    def act(self) -> None:
        os.kill(os.getpid(), self._signal)


@functools.cache
def _armed() -> Failpoint | None:
    """Read at the first failpoint and not with the module: a test's program may be a fork that had it."""
    text = os.environ.get(VARIABLE)
    return Failpoint(text) if text else None


def reach(name: str) -> None:
    """The process is at the failpoint `name`."""
    armed = _armed()
    if armed is not None and armed.name == name and armed.hit():
        armed.act()


def enter(name: str) -> None:
    """The process is about to make the call that the failpoint `name` interrupts."""
    armed = _armed()
    if armed is not None and armed.name == name and armed.hit():
        threading.Timer(_DURING, armed.act).start()
