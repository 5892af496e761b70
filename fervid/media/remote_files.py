"""Files that a URL names, on any file system that fsspec opens: file://, s3://, gs://, https:// and the like."""

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

MISSING = (-1, -1)
_MTIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_stat_cache: dict[str, tuple[int, int]] = {}


def is_url(name: str) -> bool:
    """Whether a name begins with a scheme."""
    return _SCHEME.match(name) is not None


def is_glob_url(url: str) -> bool:
    """Whether a URL is a glob; in a URL a question mark is none, it begins the query."""
    return "*" in url or "[" in url


def suffix(url: str) -> str:
    """The suffix of the file, in small letters."""
    return PurePosixPath(urlsplit(url).path).suffix.lower()


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL or of a local path, and the path on it.

    Raises:
        UsageError: There is no such kind of file system, or its package is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(f"{url} needs fsspec, which is not installed; pip install 'fervid[parquet]'") from None
    with wrap_fs_errors(url, UsageError):
        files, path = url_to_fs(url)
        return files, path


def is_local(files: Any) -> bool:
    """Whether a file system that was opened is that of this machine."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(files, LocalFileSystem)


def list_urls(url: str, *, recursive: bool = False) -> list[str]:
    """The files that a glob matches or a folder holds, as URLs in order; of a file its own.

    Args:
        url: A file, a folder or a glob.
        recursive: Whether to search the folders within a folder.

    Raises:
        UsageError: The file system cannot be reached, or refuses.
    """
    files, path = open_filesystem(url)
    with wrap_fs_errors(url, UsageError):
        if is_glob_url(url):
            listed = files.glob(path, detail=True)
        elif files.isdir(path):
            listed = files.find(path, maxdepth=None if recursive else 1, detail=True)
        else:
            return [url]
        listed = {files.unstrip_protocol(name): info for name, info in listed.items() if info["type"] != "directory"}
        _stat_cache.update({name: _stamp(info) for name, info in listed.items()})
    return sorted(listed)


def file_stamp(url: str) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change or 0 where nobody keeps them; `MISSING` if that cannot be known.

    What `list_urls` has listed is not asked for again.
    """
    if known := _stat_cache.pop(url, None):
        return known
    try:
        files, path = open_filesystem(url)
        with wrap_fs_errors(url, UsageError):
            return _stamp(files.info(path))
    except (UsageError, FileNotFoundError):
        return MISSING


def _stamp(info: Mapping[str, Any]) -> tuple[int, int]:
    """Each file system has its own name for the time of the last change."""
    changed = next((info[key] for key in _MTIME_KEYS if info.get(key)), 0)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    return int(info["size"] or 0), int(1e9 * (changed.timestamp() if isinstance(changed, datetime) else changed))


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A local copy for as long as it is needed: a decoder reads a file back and forth.

    Raises:
        InputNotFound: There is no such file.
        InputUnreadable: It cannot be fetched.
    """
    with TemporaryDirectory(prefix="fervid-") as folder:
        copy = Path(folder, PurePosixPath(urlsplit(url).path).name or "clip")
        try:
            files, path = open_filesystem(url)
            with wrap_fs_errors(url, InputUnreadable):
                files.get_file(path, str(copy))
        except FileNotFoundError as error:
            raise InputNotFound(f"{url} does not exist; check the spelling") from error
        except UsageError as error:
            raise InputUnreadable(error.message) from error
        yield copy


@contextmanager
def wrap_fs_errors(url: str, kind: type[FervidError]) -> Iterator[None]:
    """Tell whatever a file system has against a URL as an error of ours.

    Args:
        url: What is asked for.
        kind: Of what kind the error is. That a file is not there stays a `FileNotFoundError`.
    """
    try:
        yield
    except (FervidError, FileNotFoundError):
        raise
    except Exception as error:  # every file system has errors of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise kind(f"{url} cannot be used ({reason}); check the spelling, the permissions and the network") from error
