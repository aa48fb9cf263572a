"""All settings as a file to begin with: each with its default, what is allowed, and what it means."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from worker.settings.table import KAFKA_PREFIX, SETTINGS, Setting

WIDTH = 100


def template(form: str) -> str:
    """What `settings --format` prints. In TOML and as environment variables every line is a comment until its
    `# ` is taken away: the defaults hold without it.

    Args:
        form: "toml", "env" or "json".
    """
    if form == "json":
        return json.dumps([_fields(setting) for setting in SETTINGS], indent=2, ensure_ascii=False)
    head = ["[worker]"] if form == "toml" else []
    kafka = ["# [worker.kafka]", '# "sasl.username" = ""']
    if form == "env":
        kafka = [f"# {KAFKA_PREFIX}SASL_USERNAME="]
    blocks = [line for setting in SETTINGS for line in ("", *_lines(setting, form))]
    return "\n".join([*head, *blocks, "", "## any librdkafka property", *kafka]).lstrip("\n")


def _lines(setting: Setting, form: str) -> Iterator[str]:
    for line in textwrap.wrap(f"{setting.meaning}; {setting.allowed}", WIDTH):
        yield f"## {line}"
    default = setting.default or ""
    if form == "env":
        yield f"# {setting.env}={default}"
    else:
        yield f"# {setting.name} = {_toml(default)}"


def _toml(default: str) -> str:
    """A number or a truth value as TOML has them, else a string."""
    if default in ("true", "false"):
        return default
    try:
        float(default)
    except ValueError:
        return json.dumps(default, ensure_ascii=False)
    return default


def _fields(setting: Setting) -> dict[str, object]:
    return {
        "name": setting.name,
        "variable": setting.env,
        "default": setting.default,
        "allowed": setting.allowed,
        "meaning": setting.meaning,
        "secret": setting.secret,
    }
