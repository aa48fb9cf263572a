"""The tag: what is published of an upload."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import orjson

from worker.errors import Rejected
from worker.messages.text import format_time, parse_time, printable
from worker.messages.upload import SCHEMA, Attribute


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    cluster: int
    name: str | None
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Tag:
    """What the worker says of one upload; the README shows one."""

    id: str
    cluster: int
    name: str | None
    probability: float
    candidates: tuple[Candidate, ...]
    novel: bool
    model: str
    taxonomy: str
    url: str | None
    uploaded_at: int
    tagged_at: int
    attributes: Mapping[str, Attribute]
    assigned: bool = False  # put into its cluster from between clusters
    group: int | None = None  # of the cluster, where the model has two levels
    from_class: bool = False  # its cluster is a class that people defined, decided before the clusters

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "schema": SCHEMA,
                "id": self.id,
                "cluster": self.cluster,
                "name": self.name,
                **({} if self.group is None else {"group": self.group}),
                "probability": self.probability,
                "candidates": [
                    {"cluster": c.cluster, "name": c.name, "score": c.score} for c in self.candidates
                ],
                "novel": self.novel,
                **({"assigned": True} if self.assigned else {}),
                **({"from_class": True} if self.from_class else {}),
                "model": self.model,
                "taxonomy": self.taxonomy,
                "url": self.url,
                "uploaded_at": format_time(self.uploaded_at),
                "tagged_at": format_time(self.tagged_at),
                "attributes": self.attributes,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Tag:
        """Read a tag; unknown fields are ignored.

        Raises:
            ValueError: what is there is not a tag of this schema.
        """
        try:
            raw: dict[str, Any] = orjson.loads(data)
            return cls(
                id=raw["id"],
                cluster=raw["cluster"],
                name=raw.get("name"),
                probability=raw["probability"],
                candidates=tuple(
                    Candidate(c["cluster"], c.get("name"), c["score"]) for c in raw.get("candidates", ())
                ),
                novel=raw.get("novel", False),
                model=raw["model"],
                taxonomy=raw["taxonomy"],
                url=raw.get("url"),
                uploaded_at=parse_time(raw["uploaded_at"]),
                tagged_at=parse_time(raw["tagged_at"]),
                attributes=raw.get("attributes", {}),
                assigned=raw.get("assigned", False),
                group=raw.get("group"),
                from_class=raw.get("from_class", False),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, Rejected) as error:
            raise ValueError(f"not a tag: {printable(data)} ({type(error).__name__}: {error})") from None


TAXONOMY = re.compile(r"(?!(?:tag|view)\Z)[A-Za-z0-9._-]{1,64}")
