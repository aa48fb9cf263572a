"""Writes what is made from the code: tables of README.md, docs/install.md and docs/redis.md, the index of the
decisions, the schemas. `make docs` calls it.

A test fails when one of them is stale.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

from worker.messages import asyncapi
from worker.serving import app as serving
from worker.settings.settings import Settings
from worker.settings.table import settings_table
from worker.telemetry.metrics_table import metrics_table
from worker.view.access import access_table
from worker.wall import api


def default(name: str) -> str:
    """What a setting is when nobody sets it."""
    (field,) = [field for field in dataclasses.fields(Settings) if field.name == name]
    return str(field.metadata["default"])


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DECISIONS = ROOT / "docs" / "decisions"
INDEX = DECISIONS / "README.md"
REDIS = ROOT / "docs" / "redis.md"
INSTALL = ROOT / "docs" / "install.md"
EXTRAS = {
    "demo": "the encoder `mini`, and a Redis server for the demo",
    "explore": "maps of more than 20,000 pictures: `imgclust explore`",
    "gpu": "`fit --engine cuml` on an NVIDIA GPU with CUDA 12",
    "heif": "HEIC and HEIF pictures",
    "notebook": "`to_pandas()` and `plot_map()`",
    "otlp": "metrics and traces over OTLP",
    "ray": "`--engine ray`: `embed` and `predict` on many machines",
    "s3": "pictures at `s3://bucket/key`",
    "schema-registry": "events and tags in Avro, Protobuf or JSON Schema with a registry",
    "sql": "`--where` with SQL over attributes",
    "tune": "`imgclust tune`",
}
FOR_DEVELOPERS = {"dev", "fuzz"}


def extras_table() -> str:
    """The optional parts, as pyproject.toml has them.

    Raises:
        SystemExit: EXTRAS does not describe exactly those.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = set(project["optional-dependencies"]) - FOR_DEVELOPERS
    if optional != set(EXTRAS):
        raise SystemExit(f"EXTRAS in docs/generate.py and pyproject.toml differ: {optional ^ set(EXTRAS)}")
    rows = [f"| `{name}` | {meaning} |" for name, meaning in sorted(EXTRAS.items())]
    return "\n".join(["| extra | for |", "|---|---|", *rows])


TABLES: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"settings": settings_table, "metrics": metrics_table},
    INSTALL: {"extras": extras_table},
    REDIS: {"access": access_table},
}
TOPICS = {
    **{name: default(f"{name}_topic") for name in ("uploads", "tags", "retry", "dlq")},
    "embeddings": "embeddings",  # none by default
    "models": "models",
}
SCHEMAS = ROOT / "docs" / "schemas"
SUBJECTS = {
    "000": "The worker as a whole",
    "001": "Pictures and encoders",
    "002": "Training",
    "003": "Prediction",
    "004": "Fetching",
    "005": "Redis, metrics, logs",
    "006": "What people look at",
    "007": "The demo",
    "008": "Other engines and services",
    "009": "Watching",
    "010": "Deployment",
    "011": "Training, further",
}


def render(page: Path) -> str:
    """The page with each of its tables between `<!-- name -->` and `<!-- /name -->` made anew."""
    text = page.read_text()
    for name, table in TABLES[page].items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda m, t=table: m[1] + t().strip() + "\n" + m[2], text, flags=re.S)
        if count != 1:
            raise SystemExit(f"{page.name} must have one place for the table {name!r}, has {count}")
    return text


def decisions() -> str:
    """The index of the decisions, by subject.

    Raises:
        SystemExit: one of them does not begin with its number and a title.
    """
    lines = [
        "# Decisions",
        "",
        "Why things are as they are: what was chosen, what else was considered, and what was measured. "
        "A decision that was replaced names its successor.",
    ]
    subject = ""
    for page in sorted(DECISIONS.glob("[0-9]*.md")):
        number = page.name[:4]
        title = re.match(rf"# {number}\. (.+)\n", page.read_text())
        if title is None:
            raise SystemExit(f"{page.name} must begin with the line «# {number}. Title»")
        if number[:3] not in SUBJECTS:
            raise SystemExit(f"{page.name}: SUBJECTS in docs/generate.py has no {number[:3]!r}")
        if number[:3] != subject:
            subject = number[:3]
            lines += ["", f"## {SUBJECTS[subject]}", ""]
        lines.append(f"- [{number}]({page.name}) {title[1]}")
    return "\n".join(lines) + "\n"


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def schemas() -> dict[str, str]:
    """The files of docs/schemas, by name."""
    shipped = ROOT / "worker" / "messages" / "schemas"
    return {
        **{file.name: file.read_text() for file in sorted(shipped.glob("*.schema.json"))},
        "asyncapi.json": _json(asyncapi.document(TOPICS)),
        "openapi.json": _json(api.openapi()),
        "openapi-serve.json": _json(serving.openapi()),
    }


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(render(page))
    INDEX.write_text(decisions())
    SCHEMAS.mkdir(exist_ok=True)
    for name, text in schemas().items():
        (SCHEMAS / name).write_text(text)
