"""Environment and TOML file → Settings. The only module that reads the environment.

A wrong value is reported with its name, the value and what is allowed, all wrong ones at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.errors import SettingsError
from worker.messages.mapping_syntax import MapError
from worker.messages.text import printable
from worker.settings.settings import Settings
from worker.settings.table import KAFKA_PREFIX, PREFIX, SETTINGS, Setting
from worker.settings.toml_file import read_toml

_BY_ENV = {setting.env: setting for setting in SETTINGS}
_INDIRECT = "_FILE"

# What delivery rests on (docs/delivery.md): an operator's value would break a promise in silence.
KAFKA_REFUSED = {
    "bootstrap.servers": "set WORKER_BOOTSTRAP_SERVERS instead",
    "group.id": "set WORKER_GROUP_ID instead",
    "group.protocol": "set WORKER_GROUP_PROTOCOL instead",
    "partition.assignment.strategy": "set WORKER_GROUP_PROTOCOL instead",
    "enable.auto.commit": "offsets are committed when results are acknowledged, never by a timer",
    "enable.auto.offset.store": "offsets are committed when results are acknowledged, never by a timer",
    "auto.offset.reset": "set WORKER_START instead",
    "enable.idempotence": "order within a partition needs it",
    "acks": "a result counts when all in-sync replicas have it",
    "transactional.id": "it is made for each process",
    "transaction.timeout.ms": "it bounds how long a killed worker's transaction hides tags",
    "delivery.report.only.error": "delivery counts acknowledgements",
    "enable.partition.eof": "delivery rests on where a topic ends",
    "isolation.level": "readers of results must not see aborted ones",
}


def _read_file(name: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"{name} names {printable(path)}, which cannot be read: {reason}") from None


def _kafka(
    environment: Mapping[str, str], label: Callable[[str], str], problems: list[str]
) -> dict[str, str]:
    properties: dict[str, str] = {}
    for name, value in environment.items():
        if not name.startswith(KAFKA_PREFIX):
            continue
        text = value
        bare = name.removeprefix(KAFKA_PREFIX)
        if bare.endswith(_INDIRECT):
            bare = bare.removesuffix(_INDIRECT)
            try:
                text = _read_file(label(name), value)
            except SettingsError as error:
                problems.append(str(error))
                continue
        key = bare.lower().replace("_", ".")
        if key in KAFKA_REFUSED:
            problems.append(f"{label(name)} cannot be set: {KAFKA_REFUSED[key]}")
        else:
            properties[key] = text
    return properties


def _unknown(name: str, label: str, in_file: bool) -> str:
    near = difflib.get_close_matches(name, _BY_ENV, 1)
    meant = [n.removeprefix(PREFIX).lower() for n in near] if in_file else near
    return f"{label} is not a setting" + (f"; did you mean {meant[0]}?" if meant else "")


def _parse(setting: Setting, environment: Mapping[str, str], label: Callable[[str], str]) -> Any:
    text, source = environment.get(setting.env) or None, setting.env  # set to nothing is as good as not set
    indirect = setting.env + _INDIRECT
    if setting.secret and indirect in environment:
        text, source = _read_file(label(indirect), environment[indirect]), indirect
    if text is None:
        text = setting.default
    if text is None:
        return None
    try:
        return setting.kind.parse(text)
    except (ValueError, KeyError, OverflowError) as error:
        shown = "the value given" if setting.secret else printable(text)
        why = f" ({error})" if isinstance(error, MapError) else ""
        raise SettingsError(f"{label(source)} must be {setting.allowed}; got {shown}{why}") from None


def load(environment: Mapping[str, str] | None = None, config: Path | None = None) -> Settings:
    """Read and check every setting.

    Args:
        environment: variables to read, `os.environ` by default; they win over the file.
        config: a TOML file with the same names, without prefix, in lower case.

    Raises:
        SettingsError: one line for every setting that is wrong or unknown.
    """
    variables = os.environ if environment is None else environment
    given = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
    entries = {} if config is None else {n: e for n, e in read_toml(config).items() if n not in given}
    given |= {name: entry.value for name, entry in entries.items()}

    def label(name: str) -> str:
        """Where the setting was written, and how."""
        if (entry := entries.get(name)) is None:
            return name
        line = "" if entry.line is None else f", line {entry.line}"
        return f"{config}{line}: {entry.key}"

    problems: list[str] = []
    values: dict[str, Any] = {"kafka": _kafka(given, label, problems)}
    known = set(_BY_ENV) | {s.env + _INDIRECT for s in SETTINGS if s.secret}
    for name in sorted(given):
        if name not in known and not name.startswith(KAFKA_PREFIX):
            problems.append(_unknown(name, label(name), name in entries))
    for setting in SETTINGS:
        try:
            values[setting.name] = _parse(setting, given, label)
        except SettingsError as error:
            problems.append(str(error))
    if not problems:
        values["slots"] = values["slots"] or 4 * values["max_batch"]
        problems += _contradictions(values)
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    found = []
    if values["slots"] < values["max_batch"]:
        found.append(
            f"WORKER_SLOTS must be at least WORKER_MAX_BATCH ({values['max_batch']}), "
            f"or no batch is ever full; got {values['slots']}"
        )
    if values["slots"] < values["fetchers"]:
        found.append(
            f"WORKER_SLOTS must be at least WORKER_FETCHERS ({values['fetchers']}), one for each; "
            f"got {values['slots']}"
        )
    if values["retry_max"] < values["retry_first"]:
        found.append(
            f"WORKER_RETRY_MAX must be at least WORKER_RETRY_FIRST ({values['retry_first']:g}); "
            f"got {values['retry_max']:g}"
        )
    registered = values["uploads_format"] == "avro" or values["tags_format"] != "json"
    if registered and values["schema_registry_url"] is None:
        found.append("WORKER_SCHEMA_REGISTRY_URL must be set for these formats; it has the schemas")
    if values["uploads_protobuf"] is not None and values["uploads_format"] != "protobuf":
        found.append("WORKER_UPLOADS_PROTOBUF has no effect unless WORKER_UPLOADS_FORMAT is protobuf")
    if values["models_topic"] is not None and values["models_folder"] is None:
        found.append(
            "WORKER_MODELS_TOPIC needs WORKER_MODELS_FOLDER: the folder with the models that it names"
        )
    roles = ("uploads", "tags", "retry", "dlq", "embeddings", "models")
    topics = [topic for role in roles if (topic := values[f"{role}_topic"]) is not None]
    if len(set(topics)) < len(topics):
        found.append(f"the topics must have different names; got {', '.join(topics)}")
    return found
