"""Which pictures a browser may load for the wall, and from where. Pure.

A tag's URL was chosen by whoever uploaded; a browser that loads it shows that server where the reader is,
and follows its redirects. So a URL has to pass twice: it is one that the worker itself may fetch, and it is
from one of the sources that the operator names, which the page's Content-Security-Policy names too: that is
what holds in the browser, for redirects as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from imgclust.errors import UrlForbidden
from imgclust.fetching.urls import FetchPolicy, check_url
from worker.settings.values import ImageSource


def picture_url(url: object, sources: Sequence[ImageSource], policy: FetchPolicy) -> str | None:
    """The URL that a browser may load a tag's picture from, in the form in which the worker would ask for it;
    None where there is none."""
    if not isinstance(url, str) or not sources:
        return None
    try:
        checked = check_url(url, policy)
    except UrlForbidden:
        return None
    return str(checked) if any(source.covers(checked) for source in sources) else None


def image_policy(sources: Sequence[ImageSource]) -> str:
    """The value of `img-src`."""
    return " ".join(["'self'", *map(str, sources)])
