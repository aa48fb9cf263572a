"""Environment and TOML file → Settings. The only module that reads the environment.

A wrong value is reported with its name, the value and what is allowed, all wrong ones at once.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import SettingsError
from worker.messages.mapping_syntax import MapError
from worker.messages.text import printable
from worker.settings.settings import Settings
from worker.settings.table import KAFKA_PREFIX, PREFIX, SETTINGS, Setting

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


def _kafka(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    properties: dict[str, str] = {}
    for name, value in environment.items():
        if not name.startswith(KAFKA_PREFIX):
            continue
        text = value
        bare = name.removeprefix(KAFKA_PREFIX)
        if bare.endswith(_INDIRECT):
            bare = bare.removesuffix(_INDIRECT)
            try:
                text = _read_file(name, value)
            except SettingsError as error:
                problems.append(str(error))
                continue
        key = bare.lower().replace("_", ".")
        if key in KAFKA_REFUSED:
            problems.append(f"{name} cannot be set: {KAFKA_REFUSED[key]}")
        else:
            properties[key] = text
    return properties


def _from_toml(path: Path) -> dict[str, str]:
    """A TOML file's `[worker]` table (or the file itself), as if it were environment variables."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"the configuration file {str(path)!r} cannot be read: {error.strerror}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration file {str(path)!r} is not TOML: {error}") from None
    table = document.get("worker", document)
    values: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):  # [worker.kafka]
            values.update(
                {f"{PREFIX}{key}_{k}".upper().replace(".", "_"): _plain(v) for k, v in value.items()}
            )
        else:
            values[f"{PREFIX}{key}".upper()] = _plain(value)
    return values


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    return str(value)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_ENV, 1)
    return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")


def _parse(setting: Setting, environment: Mapping[str, str]) -> Any:
    text, source = environment.get(setting.env) or None, setting.env  # set to nothing is as good as not set
    indirect = setting.env + _INDIRECT
    if setting.secret and indirect in environment:
        text, source = _read_file(indirect, environment[indirect]), indirect
    if text is None:
        text = setting.default
    if text is None:
        return None
    try:
        return setting.kind.parse(text)
    except (ValueError, KeyError, OverflowError) as error:
        shown = "the value given" if setting.secret else printable(text)
        why = f" ({error})" if isinstance(error, MapError) else ""
        raise SettingsError(f"{source} must be {setting.allowed}; got {shown}{why}") from None


def load(environment: Mapping[str, str] | None = None, config: Path | None = None) -> Settings:
    """Read and check every setting.

    Args:
        environment: variables to read, `os.environ` by default; they win over the file.
        config: a TOML file with the same names, without prefix, in lower case.

    Raises:
        SettingsError: one line for every setting that is wrong or unknown.
    """
    given = {**(_from_toml(config) if config else {}), **(os.environ if environment is None else environment)}
    given = {k: v for k, v in given.items() if k.startswith(PREFIX)}
    problems: list[str] = []
    values: dict[str, Any] = {"kafka": _kafka(given, problems)}
    known = set(_BY_ENV) | {s.env + _INDIRECT for s in SETTINGS if s.secret}
    problems += [_unknown(n) for n in sorted(given) if n not in known and not n.startswith(KAFKA_PREFIX)]
    for setting in SETTINGS:
        try:
            values[setting.name] = _parse(setting, given)
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
        found.append("WORKER_SCHEMA_REGISTRY_URL must be set for these formats; the schemas are there")
    if values["uploads_protobuf"] is not None and values["uploads_format"] != "protobuf":
        found.append("WORKER_UPLOADS_PROTOBUF says nothing unless WORKER_UPLOADS_FORMAT is protobuf")
    if values["models_topic"] is not None and values["models_folder"] is None:
        found.append(
            "WORKER_MODELS_TOPIC needs WORKER_MODELS_FOLDER: the folder with the models that it names"
        )
    roles = ("uploads", "tags", "retry", "dlq", "embeddings", "models")
    topics = [topic for role in roles if (topic := values[f"{role}_topic"]) is not None]
    if len(set(topics)) < len(topics):
        found.append(f"the topics must have different names; got {', '.join(topics)}")
    return found
