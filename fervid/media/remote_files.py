"""Files named by a URL, on any file system of fsspec: file://, s3://, gs://, https:// and others.

`list_urls` stores size and modification time of what it lists in a cache of this module, which `file_stamp` reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from fervid.core.errors import FervidError, InputNotFound, InputUnreadable, UsageError
from fervid.core.packages import missing_extra

MISSING = (-1, -1)
"""The stamp of a file that cannot be read."""
_MTIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")  # differ between file systems
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_stat_cache: dict[str, tuple[int, int]] = {}


def is_url(name: str) -> bool:
    """Whether a name starts with a URL scheme."""
    return _SCHEME.match(name) is not None


def is_glob_url(url: str) -> bool:
    """Whether a URL is a glob; a question mark is not a wildcard, but starts the query."""
    return "*" in url or "[" in url


def suffix(url: str) -> str:
    """Return the suffix of the file in lower case."""
    return PurePosixPath(urlsplit(url).path).suffix.lower()


def open_filesystem(url: str) -> tuple[Any, str]:
    """Open the file system of a URL or local path; return it and the path on it.

    Raises:
        UsageError: The scheme is unknown, or its package is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing_extra(url, "parquet") from None
    with wrap_fs_errors(url, UsageError):
        filesystem, path = url_to_fs(url)
        return filesystem, path


def is_local(filesystem: Any) -> bool:
    """Whether an open file system is the local one."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


def list_urls(url: str, *, recursive: bool = False) -> list[str]:
    """List the files that a glob matches or a folder contains, as sorted URLs; a file gives its own URL.

    Raises:
        UsageError: The file system cannot be reached, or denies access.
    """
    filesystem, path = open_filesystem(url)
    with wrap_fs_errors(url, UsageError):
        if is_glob_url(url):
            entries = filesystem.glob(path, detail=True)
        elif filesystem.isdir(path):
            entries = filesystem.find(path, maxdepth=None if recursive else 1, detail=True)
        else:
            return [url]
        files = {
            filesystem.unstrip_protocol(name): info for name, info in entries.items() if info["type"] != "directory"
        }
        _stat_cache.update({file: _stamp(info) for file, info in files.items()})
    return sorted(files)


def file_stamp(url: str) -> tuple[int, int]:
    """Return size in bytes and modification time in nanoseconds, 0 if unknown; `MISSING` if the file cannot be read.

    The stamp of a file that `list_urls` listed is taken from the cache, once.
    """
    if cached := _stat_cache.pop(url, None):
        return cached
    try:
        filesystem, path = open_filesystem(url)
        with wrap_fs_errors(url, UsageError):
            return _stamp(filesystem.info(path))
    except (UsageError, FileNotFoundError):
        return MISSING


def _stamp(info: Mapping[str, Any]) -> tuple[int, int]:
    mtime = next((info[key] for key in _MTIME_KEYS if info.get(key)), 0)
    if isinstance(mtime, str):
        mtime = datetime.fromisoformat(mtime)
    return int(info["size"] or 0), int(1e9 * (mtime.timestamp() if isinstance(mtime, datetime) else mtime))


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Copy a remote file to a temporary local one, because decoders seek.

    Raises:
        InputNotFound: The file does not exist.
        InputUnreadable: It cannot be read.
    """
    with TemporaryDirectory(prefix="fervid-") as folder:
        copy = Path(folder, PurePosixPath(urlsplit(url).path).name or "clip")
        try:
            filesystem, path = open_filesystem(url)
            with wrap_fs_errors(url, InputUnreadable):
                filesystem.get_file(path, str(copy))
        except FileNotFoundError as error:
            raise InputNotFound(f"{url} does not exist; check the spelling") from error
        except UsageError as error:
            raise InputUnreadable(error.message) from error
        yield copy


@contextmanager
def wrap_fs_errors(url: str, kind: type[FervidError]) -> Iterator[None]:
    """Convert any error of a file system, except `FileNotFoundError`, to an error of that class about the URL."""
    try:
        yield
    except (FervidError, FileNotFoundError):
        raise
    except Exception as error:  # file systems raise errors of many classes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise kind(f"{url} cannot be used ({reason}); check the spelling, the permissions and the network") from error
