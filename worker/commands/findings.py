"""What was found about the surroundings, and how it is printed: `imgclust-worker check` and `topics`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from rich.console import Console

EXIT_OK, EXIT_MISSING = 0, 3


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: whether it works; what does not must be fixed before a start.
        warning: it works, and contradicts a promise all the same.
        remedy: what to do about it.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""
    warning: bool = False


def report(findings: Iterable[Finding], console: Console | None = None, *, ready: str) -> int:
    """Print findings as they come, and what follows from them.

    Args:
        ready: the last line when nothing is wrong.

    Returns:
        The exit code: 0 when all works, else 3.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    wrong = warned = 0
    for finding in findings:
        wrong += not finding.ok
        warned += finding.ok and finding.warning
        mark = "[red]no[/]" if not finding.ok else "[yellow]!![/]" if finding.warning else "[green]ok[/]"
        console.print(f"{mark}  {finding.what}: ", end="")
        console.print(finding.found, markup=False)
        if finding.remedy:
            console.print(f"      → {finding.remedy}", markup=False)
    warnings = f"; {warned} warning(s), marked !!" if warned else ""
    console.print((f"{wrong} of these must be fixed first" if wrong else ready) + warnings, markup=False)
    return EXIT_MISSING if wrong else EXIT_OK
