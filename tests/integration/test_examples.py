"""The examples for readers of tags work, over a real Redis."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.promql import script
from tests.support.redis_server import running
from tests.support.tag_records import apply, record
from worker.messages.tag import Tag
from worker.view.store import TagsView

pytestmark = pytest.mark.redis


def tag(written: Any) -> Tag:
    assert written.tag is not None
    found: Tag = written.tag
    return found


def test_a_user_gets_what_they_like_and_nothing_twice() -> None:
    """Liked clusters fill most of a page, others the rest; old likes fade; what was shown is gone from the
    next page; another user has seen nothing."""
    affinity = script("examples/affinity.py")
    with running() as server:
        client = server.client()
        at = int(client.time()[0]) * 1000
        written = [record(f"id{n:02}", n, at - n * 1000, n % 4) for n in range(60)]
        apply(TagsView(client), *written)
        feed = affinity.PersonalFeed(client, "ann")
        assert feed.favourites() == []
        for _ in range(5):
            feed.like(tag(written[3]), now=1_795_000_000 - 90 * 86_400)
        feed.like(tag(written[2]), now=1_795_000_000)
        assert feed.favourites() == [2, 3]
        first, second = feed.page(10), feed.page(10)
        assert [t.cluster in (2, 3) for t in first].count(True) == 7
        assert first == sorted(first, key=lambda t: t.uploaded_at, reverse=True)
        shown = [t.id for t in [*first, *second]]
        while page := feed.page(10):
            shown += [t.id for t in page]
        assert sorted(shown) == sorted(r.id for r in written)
        assert len(affinity.PersonalFeed(client, "bob").page(10)) == 10
