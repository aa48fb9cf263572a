"""`file:` URL → bytes, from one folder and nothing beside it."""

from __future__ import annotations

import os
import stat

from imgclust.errors import NotFound, TooLarge, UrlForbidden
from imgclust.fetching.urls import FetchPolicy, file_path, shown


def read_file(url: str, policy: FetchPolicy) -> bytes:
    """Read a regular file below the allowed folder.

    Symlinks are resolved first, and the path that they lead to is then opened folder by folder, none of
    which may be a link any more, so that a link that changes in between leads nowhere else.

    Raises:
        UrlForbidden: `file:` is not allowed, the file is elsewhere, or it is not a regular file.
        NotFound: there is none.
        TooLarge: it has too many bytes.
    """
    if policy.allow_files is None:
        raise UrlForbidden(f"the URL {shown(url)} names a file, and WORKER_FETCH_ALLOW_FILES is not set")
    root = policy.allow_files.resolve()
    outside = UrlForbidden(f"the URL {shown(url)} is not below WORKER_FETCH_ALLOW_FILES")
    try:
        path = file_path(url)
        target = path.resolve()
        if not target.is_relative_to(root) or ".." in path.parts:
            raise outside
        if not target.exists():
            raise NotFound(f"there is no file {shown(url)}")
        file = _open_beneath(root, target.relative_to(root).parts)
    except (OSError, ValueError, RuntimeError):  # loops of links, names too long, no permission, not UTF-8
        raise outside from None
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            raise UrlForbidden(f"{shown(url)} is not a regular file")
        if info.st_size > policy.max_bytes:
            raise TooLarge(f"the file has {info.st_size} bytes, at most {policy.max_bytes} are taken")
        with open(file, "rb", closefd=False) as stream:
            return stream.read(policy.max_bytes)
    finally:
        os.close(file)


def _open_beneath(root: os.PathLike[str], parts: tuple[str, ...]) -> int:
    """Open a file for reading without following a single link."""
    # O_NONBLOCK: opening a FIFO that nobody writes to must not wait
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts[:-1]:
        try:
            below = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    try:
        return os.open(parts[-1] if parts else ".", flags, dir_fd=folder)
    finally:
        os.close(folder)
