"""The reads of a feed: which commands, in which round trips, and what their replies mean.

Each is a generator that yields the commands of a round trip and is sent their replies. `worker.feed` runs
them, blocking or with asyncio, so that both read the same.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import orjson

from worker.messages.compact import is_compact, unpack
from worker.messages.tag import TAXONOMY, Tag
from worker.messages.text import printable
from worker.reader.cursor import Cursor, Place, Selection
from worker.reader.merge import SPARE, Command, Stream, command, merged
from worker.reader.values import Cluster, Latest, Page
from worker.view.client import bytes_of
from worker.view.keys import Keys

MAX_LIMIT = 1000
CHUNK = 500  # commands per round trip
FIELDS = ["taxonomy", "cluster", "tag"]  # of a tag's hash

T = TypeVar("T")
Read = Generator[list[Command], list[Any], T]


def taxonomy(keys: Keys) -> Read[str | None]:
    (value,) = yield [command("get", keys.taxonomy)]
    return None if value is None else bytes_of(value).decode()


def _chosen(keys: Keys, named: str | None) -> Read[str | None]:
    """The taxonomy to read: the one named, else the one that feeds read; None where there is none."""
    found = named or (yield from taxonomy(keys))
    return found if found is not None and TAXONOMY.fullmatch(found) else None


def get(keys: Keys, ids: Iterable[str]) -> Read[dict[str, Tag]]:
    found: dict[str, Tag] = {}
    unique = iter(dict.fromkeys(ids))
    while chunk := list(islice(unique, CHUNK)):
        replies = yield [command("hmget", keys.tag(upload_id), FIELDS) for upload_id in chunk]
        tags = yield from _tags(keys, list(zip(chunk, replies, strict=True)))
        found.update((i, tag) for i, tag in zip(chunk, tags, strict=True) if tag is not None)
    return found


def _tags(keys: Keys, hashes: Sequence[tuple[str, Any]]) -> Read[list[Tag | None]]:
    """What the hashes hold of each id; None for what is no tag. Compact ones need the clusters' names: one
    more round trip."""
    values = [(upload_id, [None if v is None else bytes_of(v) for v in reply]) for upload_id, reply in hashes]
    packed = {its[0].decode() for _, its in values if its[0] and its[2] and is_compact(its[2])}
    taxonomies = sorted(name for name in packed if TAXONOMY.fullmatch(name))
    replies = (yield [command("hgetall", keys.clusters(name)) for name in taxonomies]) if taxonomies else []
    names = {
        name: {n: cluster.name for n, cluster in _clusters(raw).items()}
        for name, raw in zip(taxonomies, replies, strict=True)
    }
    return [_tag(upload_id, its, names) for upload_id, its in values]


def _tag(
    upload_id: str, its: Sequence[bytes | None], names: Mapping[str, Mapping[int, str | None]]
) -> Tag | None:
    its_taxonomy, its_cluster, value = its
    if value is None:
        return None
    try:
        if not is_compact(value):
            return Tag.from_json(value)
        if its_taxonomy is None or its_cluster is None:
            return None
        named = its_taxonomy.decode()
        return unpack(value, upload_id, named, int(its_cluster), names.get(named, {}))
    except ValueError:
        return None  # written by something else; a reader can do no more than leave it out


def _clusters(raw: Mapping[Any, Any]) -> dict[int, Cluster]:
    values = {int(bytes_of(key)): orjson.loads(bytes_of(value)) for key, value in raw.items()}
    return {
        n: Cluster(n, values[n].get("name"), values[n]["model"], values[n].get("group"))
        for n in sorted(values)
    }


def clusters(keys: Keys, named: str | None) -> Read[dict[int, Cluster]]:
    chosen = yield from _chosen(keys, named)
    if chosen is None:
        return {}
    (raw,) = yield [command("hgetall", keys.clusters(chosen))]
    return _clusters(raw)


def groups(keys: Keys, named: str | None) -> Read[dict[int, tuple[int, ...]]]:
    found: dict[int, tuple[int, ...]] = {}
    for cluster in (yield from clusters(keys, named)).values():
        if cluster.group is not None:
            found[cluster.group] = (*found.get(cluster.group, ()), cluster.id)
    return dict(sorted(found.items()))


def check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be 1 to {MAX_LIMIT}, got {limit}")


def latest(
    keys: Keys,
    selection: Selection,
    limit: int,
    cursor: str | None,
    until: str | None,
    named: str | None,
    seen: Container[str],
) -> Read[Page]:
    check_limit(limit)
    after, end = _cursor(cursor, selection, named), _cursor(until, selection, named)
    for known in (after, end):
        named = named or (None if known is None else known.taxonomy)
    chosen = yield from _chosen(keys, named)
    if chosen is None:
        return Page((), None, None, selection.clusters or ())
    numbers = yield from _numbers(keys, chosen, selection)
    start = None if after is None else after.place
    step = min(limit + 1, max(SPARE, 2 * (limit + 1) // max(1, len(numbers))))
    streams = [Stream(n, keys.cluster(chosen, n), start, step) for n in numbers]
    found = yield from _filled(keys, chosen, streams, limit + 1, None if end is None else end.place, seen)
    silent = [stream.cluster for stream in streams if stream.after is None]
    unknown = (yield from _unknown(keys, chosen, silent)) if selection.clusters else ()
    shown, more = found[:limit], len(found) > limit

    def encoded(place: Place) -> str:
        return Cursor(chosen, selection, place).encode()

    newest = encoded(shown[0][0]) if shown else until
    return Page(tuple(tag for _, tag in shown), encoded(shown[-1][0]) if more else None, newest, unknown)


def _cursor(text: str | None, selection: Selection, named: str | None) -> Cursor | None:
    if text is None:
        return None
    found = Cursor.decode(text)
    if found.selection != selection or named not in (None, found.taxonomy):
        raise ValueError(
            f"the cursor is of {found.selection} in taxonomy {found.taxonomy}, "
            f"not of {selection} in {printable(named)}"
        )
    return found


def _numbers(keys: Keys, chosen: str, selection: Selection) -> Read[list[int]]:
    """The clusters to read."""
    numbers: Sequence[int] | None = selection.clusters
    if numbers is None:
        (raw,) = yield [command("hkeys", keys.clusters(chosen))]
        numbers = sorted(int(bytes_of(key)) for key in raw)
    return [n for n in numbers if n not in selection.without]


def _unknown(keys: Keys, chosen: str, numbers: Sequence[int]) -> Read[tuple[int, ...]]:
    """Those that the taxonomy has no name of; nothing is asked where there are no numbers."""
    if not numbers:
        return ()
    (names,) = yield [command("hmget", keys.clusters(chosen), [str(n) for n in numbers])]
    return tuple(n for n, name in zip(numbers, names, strict=True) if name is None)


def _filled(
    keys: Keys,
    chosen: str,
    streams: Sequence[Stream],
    count: int,
    end: Place | None,
    seen: Container[str],
) -> Read[list[tuple[Place, Tag]]]:
    """The next `count` that belong where they are, are above `end` and were not seen; fewer at the end."""
    found: list[tuple[Place, Tag]] = []
    while len(found) < count and (places := (yield from merged(streams, count))):
        wanted = [
            (cluster, place)
            for cluster, place in places
            if (end is None or place > end) and place.member.decode() not in seen
        ]
        found += yield from belonging(keys, chosen, wanted)
        if end is not None and places[-1][1] <= end:
            break
    return found[:count]


def overview(keys: Keys, limit: int, since: int, named: str | None) -> Read[dict[int, Latest]]:
    check_limit(limit)
    chosen = yield from _chosen(keys, named)
    known = yield from clusters(keys, chosen)
    if not known or chosen is None:
        return {}
    commands = []
    for number in known:
        key = keys.cluster(chosen, number)
        commands.append(command("zcard", key))
        commands.append(command("zcount", key, since, "+inf"))
        commands.append(Stream(number, key, None, limit + SPARE).next_command())
    replies = yield commands
    counts, recent, raw = replies[0::3], replies[1::3], replies[2::3]
    asked = [
        (n, Place(int(score), bytes_of(member)))
        for n, members in zip(known, raw, strict=True)
        for member, score in members
    ]
    tags: dict[int, list[Tag]] = {n: [] for n in known}
    for _, tag in (yield from belonging(keys, chosen, asked)):
        tags[tag.cluster].append(tag)
    return {
        n: Latest(cluster, counts[i], recent[i], tuple(tags[n][:limit]))
        for i, (n, cluster) in enumerate(known.items())
    }


def belonging(keys: Keys, chosen: str, asked: Sequence[tuple[int, Place]]) -> Read[list[tuple[Place, Tag]]]:
    """Those whose hash names the cluster in whose set they are, with the tag. Others are there by mistake: a
    tag that moved, was deleted, or has expired."""
    if not asked:
        return []
    replies = yield [command("hmget", keys.tag(place.member.decode()), FIELDS) for _, place in asked]
    here = [
        (place, reply)
        for (cluster, place), reply in zip(asked, replies, strict=True)
        if _is(reply[0], chosen) and _is(reply[1], str(cluster))
    ]
    tags = yield from _tags(keys, [(place.member.decode(), reply) for place, reply in here])
    return [(place, tag) for (place, _), tag in zip(here, tags, strict=True) if tag is not None]


def _is(value: bytes | str | None, text: str) -> bool:
    return value is not None and bytes_of(value) == text.encode()
