"""A feed for one user: the clusters that this user likes, newest first, and nothing twice.

    python examples/affinity.py USER [redis://localhost:6379/0]

prints a page for the user and remembers that it was shown. It is an example of what an application builds on
`worker.feed`: the tags are the worker's, likes and what was seen are the application's own keys.
"""

import sys
import time

import redis

from worker.feed import Feed
from worker.messages.tag import Tag

HALF_LIFE = 7 * 86_400  # seconds after which a like counts half
KEEP_SEEN = 30 * 86_400  # seconds; longer than tags are kept in Redis
FAVOURITES = 5  # clusters that are the user's own
OWN_SHARE = 0.7  # of a page; the rest is of all other clusters, so that a user meets something new


class PersonalFeed:
    def __init__(self, client: redis.Redis, user: str, prefix: str = "app:") -> None:
        self._redis = client
        self._feed = Feed(client)
        self._likes = f"{prefix}likes:{user}"
        self._seen = f"{prefix}seen:{user}"

    def like(self, tag: Tag, now: float | None = None) -> None:
        """The user liked an upload. Instead of shrinking all old likes, a new one weighs more."""
        weight = 2 ** (((time.time() if now is None else now) - 1_700_000_000) / HALF_LIFE)
        self._redis.zincrby(self._likes, weight, f"{tag.taxonomy}:{tag.cluster}")

    def favourites(self) -> list[int]:
        """The clusters that the user likes most, of the taxonomy that feeds read now."""
        taxonomy = self._feed.taxonomy()
        liked = [member.decode().rpartition(":") for member in self._redis.zrevrange(self._likes, 0, 99)]
        return [int(cluster) for its, _, cluster in liked if its == taxonomy][:FAVOURITES]

    def page(self, limit: int = 20) -> list[Tag]:
        """Uploads that the user has not been shown, newest first; they count as shown from now on."""
        seen = {member.decode() for member in self._redis.smembers(self._seen)}
        favourites = self.favourites()
        own = self._feed.latest(favourites, max(1, round(OWN_SHARE * limit)), seen=seen).tags
        rest = limit - len(own)
        others = self._feed.latest(limit=rest, without=favourites, seen=seen).tags if rest else ()
        shown = sorted([*own, *others], key=lambda tag: tag.uploaded_at, reverse=True)
        if shown:
            self._redis.sadd(self._seen, *(tag.id for tag in shown))
            self._redis.expire(self._seen, KEEP_SEEN)
        return shown


if __name__ == "__main__":
    user, url = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "redis://localhost:6379/0"
    for shown in PersonalFeed(redis.Redis.from_url(url), user).page():
        print(shown.id, shown.cluster, shown.name, sep="\t")
