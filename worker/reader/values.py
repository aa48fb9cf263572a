"""What a feed returns."""

from __future__ import annotations

import dataclasses

from worker.messages.tag import Tag


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Some tags, newest first.

    Attributes:
        cursor: asks for those that follow; None when there are none.
        newest: where the page begins: as `until`, it later asks for what is newer than this page. None for
            an empty page that nothing was newer than.
        unknown: clusters that were asked for by number and that no upload was ever in, in this taxonomy. A
            cluster that is merely empty now is not among them.
    """

    tags: tuple[Tag, ...]
    cursor: str | None
    newest: str | None = None
    unknown: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster is called, by which model, and the group that it is in (None: in none)."""

    id: int
    name: str | None
    model: str
    group: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Latest:
    """What a cluster holds now.

    Attributes:
        count: uploads in it; the view keeps the newest 10,000.
        recent: of these, uploaded since the moment that was asked for.
        tags: the newest, newest first.
    """

    cluster: Cluster
    count: int
    recent: int
    tags: tuple[Tag, ...]
