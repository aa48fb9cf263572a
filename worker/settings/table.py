"""The table of settings, made from the fields of Settings: for the parser, the README and the terminal."""

from __future__ import annotations

import dataclasses
from typing import Any

from worker.settings.parsers import Kind
from worker.settings.settings import Settings

PREFIX = "WORKER_"
KAFKA_PREFIX = "WORKER_KAFKA_"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One row: a field of Settings, see `worker.settings.settings.setting`."""

    name: str
    default: str | None
    kind: Kind[Any]
    meaning: str
    secret: bool

    @property
    def env(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def allowed(self) -> str:
        return self.kind.allowed


SETTINGS = tuple(
    Setting(name=field.name, **field.metadata) for field in dataclasses.fields(Settings) if field.metadata
)


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    lines = ["| name | default | allowed | meaning |", "|---|---|---|---|"]
    for s in SETTINGS:
        default = {"fetchers": "cores", "slots": "4 × batch"}.get(s.name, s.default)
        shown = "–" if default in (None, "") else f"`{default}`"
        lines.append(f"| `{s.env}` | {shown} | {s.allowed} | {s.meaning} |")
    lines.append(
        "| `WORKER_KAFKA_<PROPERTY>` | – | any librdkafka property, `_` for `.` | "
        "for example `WORKER_KAFKA_SASL_USERNAME=…`; a name that ends in `_FILE` reads the value from a "
        "file; properties that delivery depends on are refused |"
    )
    return "\n".join(lines)


def settings_text() -> str:
    """The same for a terminal."""
    blocks = []
    for s in SETTINGS:
        default = f" (default: {s.default})" if s.default not in (None, "") else ""
        blocks.append(f"{s.env}{default}\n    {s.meaning}; {s.allowed}")
    blocks.append(
        f"{KAFKA_PREFIX}<PROPERTY>\n    any librdkafka property, _ for . ; _FILE at the end reads a file"
    )
    return "\n".join(blocks)
