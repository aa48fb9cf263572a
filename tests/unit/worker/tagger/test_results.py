"""What results say on the wire beside their values."""

from __future__ import annotations

import orjson

from tests.support.world import World
from worker.messages.headers import CloudEvents


def test_tags_and_deletions_are_cloudevents_on_request() -> None:
    """With a source both have the attributes, each with the place of its upload as the id; without one
    nothing is added."""
    events = [orjson.dumps({"id": "a", "url": "https://x/"}), orjson.dumps({"id": "b", "deleted": True})]
    for cloud in (CloudEvents("/uploads"), None):
        world = World({0: events}, cloud=cloud)
        world.settle()
        found = {result.key: dict(result.headers) for result in world.delivery.results}
        if cloud is None:
            assert found == {b"a": {}, b"b": {}}
            continue
        assert (found[b"a"]["ce_id"], found[b"a"]["ce_type"]) == (b"0:0", b"imgclust.tag")
        assert (found[b"b"]["ce_id"], found[b"b"]["ce_type"]) == (b"0:1", b"imgclust.deletion")
