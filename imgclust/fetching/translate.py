"""What the errors of aiohttp, ssl and the system mean to whoever wanted an image: the one border for them."""

from __future__ import annotations

import ssl

import aiohttp

from imgclust.errors import FetchError, FetchFailed, FetchTimeout, UrlForbidden
from imgclust.fetching.object_store import translate as translate_of_store
from imgclust.fetching.urls import shown

# The first row whose class fits decides. Every exception class of aiohttp is found here before its last row
# (a test sees to that); the texts of foreign errors are not passed on, as they quote the URL and the server.
TRANSLATIONS: tuple[tuple[type[BaseException], type[FetchError], str], ...] = (
    (aiohttp.InvalidURL, UrlForbidden, "the URL is malformed"),
    (aiohttp.NonHttpUrlClientError, UrlForbidden, "the URL is neither http nor https"),
    (aiohttp.RedirectClientError, UrlForbidden, "the redirect leads to a malformed URL"),
    (aiohttp.ConnectionTimeoutError, FetchTimeout, "no connection within the time limit"),
    (aiohttp.SocketTimeoutError, FetchTimeout, "the server was silent for too long"),
    (TimeoutError, FetchTimeout, "not finished within the time limit"),
    (aiohttp.ClientConnectorCertificateError, FetchFailed, "the server's TLS certificate is not valid"),
    (aiohttp.ServerFingerprintMismatch, FetchFailed, "the server's TLS certificate is not the expected one"),
    (aiohttp.ClientSSLError, FetchFailed, "TLS failed"),
    (aiohttp.ClientConnectorDNSError, FetchFailed, "the host was not found"),
    (aiohttp.ClientProxyConnectionError, FetchFailed, "the proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, FetchFailed, "the proxy refuses to connect"),
    (aiohttp.ClientConnectorError, FetchFailed, "the host refuses the connection, or cannot be reached"),
    (aiohttp.ClientPayloadError, FetchFailed, "the body is incomplete or damaged"),
    (aiohttp.ClientResponseError, FetchFailed, "the response is not valid HTTP"),
    (aiohttp.ServerDisconnectedError, FetchFailed, "the server closed the connection"),
    (aiohttp.ClientConnectionError, FetchFailed, "the connection broke"),
    (aiohttp.UploadAbortedError, FetchFailed, "the request was not sent completely"),
    (aiohttp.WSMessageTypeError, FetchFailed, "the server speaks another protocol"),
    (aiohttp.ClientError, FetchFailed, "the HTTP client failed"),
    (ssl.SSLError, FetchFailed, "TLS failed"),
    (OSError, FetchFailed, "the connection broke"),
    (Exception, FetchFailed, "the fetch failed"),
)


def translate(error: Exception, url: str) -> FetchError:
    """What an exception means to whoever wanted the URL; ours pass unchanged."""
    if isinstance(error, FetchError):
        return error
    if of_store := translate_of_store(error, url):
        return of_store
    for kind, meaning, text in TRANSLATIONS:
        if isinstance(error, kind):
            reason = getattr(getattr(error, "os_error", error), "strerror", None)
            detail = f"{type(error).__name__}, {reason}" if isinstance(reason, str) else type(error).__name__
            return meaning(f"{text}: {shown(url)} ({ascii(detail)[1:-1][:120]})")
    raise AssertionError("the last row takes every exception")
