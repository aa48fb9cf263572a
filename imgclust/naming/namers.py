"""What can name clusters: four ways of ours, and those that other packages bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgclust.editing.log import Rename, effective
from imgclust.editing.parsing import clean_name
from imgclust.errors import ImgclustError, ModelError
from imgclust.model.editor import of_clusters_alone
from imgclust.naming.clusters import found_clusters

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.naming.phrases import Vocabulary

GROUP = "imgclust.namers"  # of entry points: name → a function of `NamingOptions` that returns a `Namer`
WHO = "names --by"  # how the log of edits calls a namer, so that its names are not taken for a person's


class Namer(Protocol):
    """Names clusters. No name is better than a wrong one: leave out what you do not know."""

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Number → name, of those clusters of the model that have one.

        Names that are longer than a line are dropped, whoever gave them.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class NamingOptions:
    """What namers may need; each takes its part.

    Attributes:
        vocabulary: an encoder's identity → phrases, and their vectors in its space.
        weights: the encoder's weights, where no hub is reached.
        images: the embeddings folder that the model was fitted on.
        attribute: of the images.
        endpoint: the address of an OpenAI-compatible API, such as http://localhost:8000/v1.
        endpoint_model: the model to ask there.
        max_requests: to the endpoint, at most.
    """

    vocabulary: Vocabulary | None = None
    weights: Path | None = None
    images: Path | None = None
    attribute: str | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    max_requests: int = 100


def _phrases(options: NamingOptions) -> Namer:
    from imgclust.naming.phrases import PhraseNamer

    if options.vocabulary is None:
        raise ImgclustError("naming by phrases needs a vocabulary")
    return PhraseNamer(options.vocabulary)


def _hierarchy(options: NamingOptions) -> Namer:
    from imgclust.naming.hierarchy import HierarchyNamer

    return HierarchyNamer(options.weights)


def _folders(options: NamingOptions) -> Namer:
    from imgclust.naming.given import FolderNamer

    return FolderNamer()


def _attribute(options: NamingOptions) -> Namer:
    from imgclust.naming.given import AttributeNamer

    if options.images is None or options.attribute is None:
        raise ImgclustError("naming by an attribute needs --attribute NAME and --images EMBEDDINGS")
    return AttributeNamer(options.images, options.attribute)


def _endpoint(options: NamingOptions) -> Namer:
    from imgclust.naming.endpoint import EndpointNamer

    if options.endpoint is None or options.endpoint_model is None:
        raise ImgclustError("naming by an endpoint needs --endpoint URL and --endpoint-model NAME")
    return EndpointNamer.of(options.endpoint, options.endpoint_model, max_requests=options.max_requests)


OURS: dict[str, Callable[[NamingOptions], Namer]] = {
    "phrases": _phrases,
    "hierarchy": _hierarchy,
    "folders": _folders,
    "attribute": _attribute,
    "endpoint": _endpoint,
}


def load_namer(name: str, options: NamingOptions) -> Namer:
    """A namer by its name: ours, or an entry point of another package.

    Raises:
        ImgclustError: there is none of that name, or it needs options that are missing.
    """
    if name in OURS:
        return OURS[name](options)
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in others:
        known = ", ".join([*OURS, *sorted(others)])
        raise ImgclustError(f"nothing names clusters by {name!a:.100}; known are {known}")
    made: Namer = others[name].load()(options)
    return made


def proposed(model: ClusterModel, namers: Sequence[Namer]) -> dict[int, str | None]:
    """What the namers make of all clusters that no person named or defined: the first that has a name.

    A name that is not one line of at most 200 characters is none.
    """
    by_people = {number for number, name in names_by_people(model).items() if name is not None}
    model = of_clusters_alone(model)  # people name classes
    names: dict[int, str | None] = {c.id: None for c in found_clusters(model) if c.id not in by_people}
    for namer in namers:
        if None not in names.values():
            break
        found = namer.names(model)
        names = {number: name or _line(found.get(number)) for number, name in names.items()}
    return names


def _line(name: str | None) -> str | None:
    try:
        return clean_name(name)
    except ModelError:
        return None


def names_by_people(model: ClusterModel) -> dict[int, str | None]:
    """Number → name, of clusters that a person named last, as the log of edits has it; None: took it away."""
    given: dict[int, str | None] = {}
    for edit in effective(model.edits):
        if isinstance(edit.change, Rename):
            by_namer = edit.who.startswith(WHO)
            for number, name in edit.change.names.items():
                given.pop(number, None)
                if not by_namer:
                    given[number] = name
    return given
