"""Everything that imgclust raises on purpose.

ImgclustError
├── ImageError            one image could not be had; carries the error code of the wire contract
│   ├── FetchError        bytes could not be had
│   │   ├── UrlForbidden      url-forbidden
│   │   ├── NotFound          not-found        (transient for a young upload)
│   │   ├── FetchFailed       fetch-failed     (transient)
│   │   ├── FetchTimeout      fetch-timeout    (transient)
│   │   └── TooLarge          too-large
│   └── DecodeError       pixels could not be had
│       ├── UnsupportedFormat unsupported-format
│       ├── TooManyPixels     too-many-pixels
│       └── DecodeFailed      decode-failed
├── EncoderError          an encoder could not be loaded, or is not the one that was asked for
├── EmbeddingsError       embeddings that cannot be used (also a ValueError)
├── FitError              there is nothing to fit, or it does not fit into memory
└── ModelError            a model folder is damaged, unknown or unsafe
"""

from typing import ClassVar


class ImgclustError(Exception):
    """Base of all errors that imgclust raises on purpose; the text is written for a user."""


class ImageError(ImgclustError):
    """One image could not be had; the others are not touched by it."""

    code: ClassVar[str]
    transient: ClassVar[bool] = False  # may the same URL succeed later?


class FetchError(ImageError):
    """The bytes behind a URL could not be had."""

    code = "fetch-failed"
    transient = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds that the server asked to wait


class UrlForbidden(FetchError):
    code = "url-forbidden"
    transient = False


class NotFound(FetchError):
    code = "not-found"


class FetchFailed(FetchError):
    code = "fetch-failed"


class FetchTimeout(FetchError):
    code = "fetch-timeout"


class TooLarge(FetchError):
    code = "too-large"
    transient = False


class DecodeError(ImageError):
    """The bytes are there, but no picture could be made of them."""

    code = "decode-failed"


class UnsupportedFormat(DecodeError):
    code = "unsupported-format"


class TooManyPixels(DecodeError):
    code = "too-many-pixels"


class DecodeFailed(DecodeError):
    code = "decode-failed"


class EncoderError(ImgclustError):
    """An encoder could not be loaded, or is not the one that was asked for."""


class EmbeddingsError(ImgclustError, ValueError):
    """Embeddings that cannot be used: unreadable, another encoder's, not finite, of a wrong shape."""


class FitError(ImgclustError):
    """There is nothing to fit, or it does not fit into memory."""


class ModelError(ImgclustError):
    """A model folder is damaged, of an unknown format, or not safe to load."""
