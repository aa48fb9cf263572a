"""A TOML file with settings, and where each of them stands in it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker.errors import SettingsError
from worker.messages.text import printable, readable
from worker.settings.table import PREFIX

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?")
_KEY = re.compile(r"\s*([\w\-.\"' ]+?)\s*=")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A setting of a file: its value as an environment variable would have it.

    Attributes:
        key: as it was written.
        line: from 1 on; None where it is not found, as inside of `{…}`.
    """

    key: str
    value: str
    line: int | None


def read_toml(path: Path) -> dict[str, Entry]:
    """The settings of the table `[worker]`, or of the file itself, by the name in the environment.

    Raises:
        SettingsError: the file cannot be read, or is not TOML.
    """
    try:
        text = path.read_text()
        document = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(
            f"the configuration file {str(path)!r} cannot be read: {error.strerror}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration file {str(path)!r} is not TOML: {error}") from None
    table = document.get("worker", document)
    if not isinstance(table, dict):
        raise SettingsError(
            f"configuration file {str(path)!r}: worker must be a table, got {printable(table)}"
        )
    lines = dict(_lines(text))
    return {
        _variable(steps): Entry(readable(".".join(steps)), value, lines.get(_variable(steps)))
        for steps, value in _values(table)
    }


def _variable(steps: tuple[str, ...]) -> str:
    return PREFIX + "_".join(steps).upper().replace(".", "_")


def _values(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Also of tables below, like `[worker.kafka]`."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _values(value, (*above, key))
        else:
            yield (*above, key), _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Setting → line. Looks at keys alone; that the file is TOML is known."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.fullmatch(line):
            table = f"{header[1]}."
        elif key := _KEY.match(line):
            bare = re.sub(r"[\"' ]", "", table + key[1])
            yield _variable((bare.removeprefix("worker."),)), number
