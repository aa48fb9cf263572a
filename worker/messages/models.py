"""What the models topic says: which model is live, which is its shadow, and what each worker runs. Pure.

The topic has one partition and is compacted. The keys `live` and `shadow` hold what operators want, the keys
`worker/<name>` what the workers report. Values are JSON; a null takes a key back.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

import orjson

from worker.messages.tag import TAXONOMY

ModelRole = Literal["live", "shadow"]
ROLES: tuple[ModelRole, ...] = ("live", "shadow")
SCHEMA = 1
REPORT = "worker/"

VERSION = re.compile(r"[0-9a-f]{12}", re.ASCII)
FOLDER = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,100}", re.ASCII)
"""Name of a folder in the folder of models: no path, so that a record of the topic reaches nothing else."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that the topic names: the version that it must have, its taxonomy, and the folder it is in."""

    version: str
    taxonomy: str
    folder: str

    @classmethod
    def read(cls, data: Any) -> Self:
        """
        Raises:
            ValueError: it has not the form.
        """
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        fields = []
        for name, form in (("version", VERSION), ("taxonomy", TAXONOMY), ("folder", FOLDER)):
            value = data.get(name)
            if not isinstance(value, str) or not form.fullmatch(value):
                raise ValueError(f"the {name} has not the form of one")
            fields.append(value)
        return cls(*fields)

    def __str__(self) -> str:
        return f"{self.version} ({self.folder})"


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What operators want for a role: a model, and the one before it, to go back to.

    Attributes:
        at: milliseconds since the epoch.
    """

    model: ModelRef
    at: int
    before: ModelRef | None = None


def write_assignment(assignment: Assignment) -> bytes:
    """A value of the key `live` or `shadow`."""
    before = None if assignment.before is None else dataclasses.asdict(assignment.before)
    return orjson.dumps(
        {"schema": SCHEMA, **dataclasses.asdict(assignment.model), "set_at": assignment.at, "before": before}
    )


def read_assignment(value: bytes) -> Assignment:
    """
    Raises:
        ValueError: it is none, or of a schema that this worker does not know.
    """
    data = orjson.loads(value)
    named = ModelRef.read(data)
    if data.get("schema") != SCHEMA or type(data.get("set_at")) is not int:
        raise ValueError(f"its schema must be {SCHEMA}, with set_at in ms")
    before = data.get("before")
    return Assignment(named, data["set_at"], None if before is None else ModelRef.read(before))


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one worker runs.

    Attributes:
        since: when its live model was taken into use, in ms since the epoch.
        shadow: how the shadow model does, see `worker.tagger.shadow.Shadow.report`; None without one.
        refused: role → why the model that is named for it is not used.
        at: when it was reported, in ms since the epoch.
    """

    version: str
    taxonomy: str
    since: int
    shadow: Mapping[str, Any] | None
    refused: Mapping[str, str]
    at: int


def write_report(report: WorkerReport) -> bytes:
    """A value of a key `worker/<name>`."""
    return orjson.dumps({"schema": SCHEMA, **dataclasses.asdict(report)})


def read_report(value: bytes) -> WorkerReport:
    """
    Raises:
        ValueError: it is none, or of a schema that is not known here.
    """
    data = orjson.loads(value)
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise ValueError(f"no report of schema {SCHEMA}")
    try:
        report = WorkerReport(**data)
    except TypeError:
        raise ValueError("a report has other fields") from None
    if not isinstance(report.refused, dict):
        raise ValueError("a report has fields of other types")
    texts = (report.version, report.taxonomy, *report.refused, *report.refused.values())
    numbers = (report.since, report.at)
    shadow = report.shadow
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int for number in numbers)
        and (shadow is None or (isinstance(shadow, dict) and isinstance(shadow.get("version"), str)))
    ):
        raise ValueError("a report has fields of other types")
    return report


@dataclasses.dataclass(slots=True)
class ModelsState:
    """The topic, record by record: the newest of each key.

    Attributes:
        assignments: role → what is wanted.
        reports: worker → what it runs.
        strange: offsets of records that are none of these; they are left alone.
    """

    assignments: dict[ModelRole, Assignment] = dataclasses.field(default_factory=dict)
    reports: dict[str, WorkerReport] = dataclasses.field(default_factory=dict)
    strange: list[int] = dataclasses.field(default_factory=list)

    def take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """The next record. What cannot be read changes nothing: the last assignment holds."""
        try:
            name = (key or b"").decode("ascii")
            if name in ROLES:
                role: ModelRole = "live" if name == "live" else "shadow"
                if value is None:
                    self.assignments.pop(role, None)
                else:
                    self.assignments[role] = read_assignment(value)
            elif name.startswith(REPORT):
                if value is None:
                    self.reports.pop(name.removeprefix(REPORT), None)
                else:
                    self.reports[name.removeprefix(REPORT)] = read_report(value)
            else:
                raise ValueError("an unknown key")
        except ValueError:
            self.strange.append(offset)
