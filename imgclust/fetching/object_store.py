"""`s3://bucket/key` → bytes, from the buckets that the policy names and no others.

The client is obstore (the extra `s3`). Endpoint, region and credentials are the operator's, from the usual
`AWS_…` variables; nothing of them comes from a URL.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from imgclust.errors import FetchError, FetchFailed, ImgclustError, NotFound, TooLarge, UrlForbidden
from imgclust.fetching.urls import MAX_URL_CHARS, FetchPolicy, shown

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
S3_HINT = "pip install 'imgclust[s3]'"
ALLOWED = "is allowed by WORKER_FETCH_ALLOW_BUCKETS (--allow-bucket)"
MAX_KEY_BYTES = 1024  # S3's own limit
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHUNK = 256 * 1024  # bytes

# what obstore's errors mean; their texts are not passed on, as they quote addresses and answers of the store
_MEANINGS: dict[str, tuple[type[FetchError], str]] = {
    "NotFoundError": (NotFound, "there is no such object"),
    "PermissionDeniedError": (FetchFailed, "the store refuses access"),
    "UnauthenticatedError": (FetchFailed, "the store does not accept the credentials"),
    "InvalidPathError": (UrlForbidden, "the key is not valid"),
}


def split(url: str, policy: FetchPolicy) -> tuple[str, str]:
    """Bucket and key of an `s3://` URL; the key is taken as it is written, without undoing `%20`.

    Raises:
        UrlForbidden: the bucket is not among `policy.allow_buckets`, or the key is none.
    """
    if not policy.allow_buckets:
        raise UrlForbidden(f"the URL {shown(url)} names a bucket, and no bucket {ALLOWED}")
    bucket, _, key = url[len(SCHEME) :].partition("/")
    if bucket not in policy.allow_buckets:
        raise UrlForbidden(f"the bucket of {shown(url)} is not one that {ALLOWED}")
    if len(url) > MAX_URL_CHARS or _CONTROL.search(key) or not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise UrlForbidden(f"the URL {shown(url)} must name a key of 1 to {MAX_KEY_BYTES} bytes")
    if any(part in ("", ".", "..") for part in key.split("/")):  # what some stores fold, and others do not
        raise UrlForbidden(f"the key of {shown(url)} has an empty part, or a part of dots")
    return bucket, key


class Buckets:
    """The allowed buckets, each opened when it is first asked for something.

    Raises:
        ImgclustError: the extra `s3` is not installed.
    """

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._stores: dict[str, S3Store] = {}
        try:
            import obstore
        except ImportError:
            raise ImgclustError(f"s3:// URLs need the package obstore: {S3_HINT}") from None
        self._obstore = obstore

    async def open(self, url: str) -> tuple[int, str, AsyncIterator[Any]]:
        """Ask for an object: its size in bytes, its `Content-Encoding`, and its content in pieces.

        Raises:
            FetchError: see `imgclust.fetching.fetcher`.
        """
        bucket, key = split(url, self._policy)
        store = self._stores.get(bucket) or self._open_bucket(bucket)
        try:
            answer = await self._obstore.get_async(store, key)
        except FileNotFoundError:  # its NotFoundError, mostly
            raise NotFound(f"there is no such object: {shown(url)}") from None
        size, limit = int(answer.meta["size"]), self._policy.max_bytes
        if size > limit:
            raise TooLarge(f"the object has {size} bytes, at most {limit} are taken")
        encoding = str(answer.attributes.get("Content-Encoding", ""))
        return size, encoding, aiter(answer.stream(min_chunk_size=_CHUNK))

    def _open_bucket(self, bucket: str) -> S3Store:
        from obstore.store import S3Store

        options: dict[str, Any] = {
            "connect_timeout": dt.timedelta(seconds=self._policy.connect_timeout),
            # the last resort: `imgclust.fetching.deadlines` ends a fetch before
            "timeout": dt.timedelta(seconds=self._policy.total_timeout + 1),
            "allow_http": True,  # of an endpoint that the operator set so; S3's own are https
        }
        if self._policy.proxy:
            options["proxy_url"] = self._policy.proxy
        store = self._stores[bucket] = S3Store(
            bucket,
            client_options=options,  # type: ignore[arg-type]
            # whoever wants the image decides about further tries
            retry_config={"max_retries": 0, "retry_timeout": dt.timedelta(seconds=1)},
        )
        return store


def translate(error: Exception, url: str) -> FetchError | None:
    """What an error of obstore means; None: it is not obstore's."""
    if not type(error).__module__.startswith("obstore"):
        return None
    meaning, text = _MEANINGS.get(type(error).__name__, (FetchFailed, "the store cannot be read"))
    return meaning(f"{text}: {shown(url)} ({type(error).__name__})")
