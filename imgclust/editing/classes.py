"""Classes that people defined: what lets an image in, before the clusters are asked. Pure values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from imgclust.editing.parsing import clean_name, count, line, number, text, vector, vector_text, within

MAX_VECTORS = 64  # of a class: more examples are summed up
MAX_PHRASE = 1_000  # characters
MAX_PICTURES = 24  # of a class, as many as a cluster has typical ones
LEAST_PRECISION = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """How a class's threshold did on images that it was not made of.

    Attributes:
        wanted: the precision that was asked for, 0.5..1.
        precision: of the images that the threshold lets in, the share that shows the class.
        recall: of the images that show the class, the share that the threshold lets in.
        positives, others: images that show the class, and that do not.
        labelled: people said which do; False: the positives are the examples, each judged by the others, and
            the others are presumed not to show it.
    """

    wanted: float
    precision: float
    recall: float
    positives: int
    others: int
    labelled: bool

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measured:
        """Raises ValueError, TypeError or KeyError for what `to_dict` did not write."""
        return cls(
            within(data["wanted"], LEAST_PRECISION, 1),
            within(data["precision"], 0, 1),
            within(data["recall"], 0, 1),
            count(data["positives"]),
            count(data["others"]),
            bool(data["labelled"]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRule:
    """An image belongs to the class if its cosine to one of the vectors is at least the threshold.

    Attributes:
        vectors: of length 1, float16, little-endian: examples, or a phrase.
        threshold: −1..1.
        phrase: what the vector was made of; None: of examples.
    """

    vectors: tuple[bytes, ...]
    threshold: float
    measured: Measured
    phrase: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AddClass:
    """A class with a number of its own.

    Attributes:
        pictures: ids under which the model keeps pictures of examples, the most typical first.
    """

    number: int
    name: str
    rule: ClassRule
    pictures: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        rule = self.rule
        record: dict[str, Any] = {
            "op": "class", "cluster": self.number, "name": self.name, "threshold": rule.threshold,
            "measured": rule.measured.to_dict(), "vectors": list(map(vector_text, rule.vectors)),
        }  # fmt: skip
        if self.pictures:
            record["pictures"] = list(self.pictures)
        return record if rule.phrase is None else {**record, "phrase": rule.phrase}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AddClass:
        """Raises ValueError, TypeError or KeyError for what `to_dict` did not write."""
        vectors = tuple(map(vector, data["vectors"]))
        if not 1 <= len(vectors) <= MAX_VECTORS or len({len(one) for one in vectors}) != 1:
            raise ValueError(f"a class has 1 to {MAX_VECTORS} vectors of one space")
        name = clean_name(text(data["name"]))
        if name is None:
            raise ValueError("a class has a name")
        rule = ClassRule(
            vectors,
            within(data["threshold"], -1, 1),
            Measured.from_dict(data["measured"]),
            line(data["phrase"], MAX_PHRASE) if "phrase" in data else None,
        )
        pictures = tuple(line(one) for one in data.get("pictures", ()))
        if len(pictures) > MAX_PICTURES:
            raise ValueError(f"a class has at most {MAX_PICTURES} pictures")
        return cls(number(data["cluster"]), name, rule, pictures)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveClass:
    """The class is retired; its images belong to the clusters again."""

    number: int

    def to_dict(self) -> dict[str, Any]:
        return {"op": "remove-class", "cluster": self.number}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RemoveClass:
        return cls(number(data["cluster"]))
