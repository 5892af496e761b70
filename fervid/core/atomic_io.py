"""Files that are never half there, written by one run at a time."""

from __future__ import annotations

import errno
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import platformdirs

from fervid.core.errors import OutputError, UsageError

_UNSUPPORTED_ERRNOS = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # file systems that lack it


@contextmanager
def atomic_write(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that appears whole or not at all: written as `NAME.partial` beside and renamed at the end.

    When the block is left early what was written stays under the partial name. A symbolic link is followed. No other
    run can write the same file meanwhile.

    Args:
        path: Where it shall appear.
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: The file exists, is written by another run, or cannot be written.
    """
    with as_output_error(path), _truncated_partial(path, force=force) as file:
        yield file
        if path.exists() and not force:
            raise OutputError(f"{path} has come into being meanwhile; what was to be written there is in {file.name}")
        commit(file, path)


class AtomicAppendFile(io.FileIO):
    """A file that takes what it is given whole or not at all: a full disk takes a part before it refuses the rest."""

    def write(self, data: Any) -> int:
        """Write all of it.

        Raises:
            OSError: It cannot be written, and the file is as it was.
        """
        end = os.fstat(self.fileno()).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except OSError:
            os.truncate(self.fileno(), end)
            raise
        return len(data)


@contextmanager
def append_write(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file that is there from the start and grows record by record, for what somebody reads meanwhile.

    Args:
        path: Where it shall be.
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: As `atomic_write`.
    """
    with as_output_error(path), _truncated_partial(path, force=force) as claim:
        commit(claim, path)
        with AtomicAppendFile(path, "ab") as file:
            yield cast(BinaryIO, file)


@contextmanager
def _truncated_partial(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """What is claimed, without what another run may have left there."""
    with lock_partial(path) as file:
        check_overwrite(path, force=force)
        if os.fstat(file.fileno()).st_size:
            check_overwrite(partial_path(path), force=force)
        file.truncate(0)
        yield file


@contextmanager
def lock_partial(path: Path) -> Iterator[BinaryIO]:
    """`NAME.partial`, opened as it is, by the one run that may write NAME; if it is empty at the end it goes.

    What is locked (flock) is the file itself: the kernel frees it when the process ends, however it ends, and by
    `commit` the lock passes on to NAME. It is advisory, so it stops fervid only; over NFS, Linux passes it on to the
    server; a file system without locks goes without.

    Raises:
        OutputError: Another run writes NAME, or one of both is no regular file.
    """
    unfinished = partial_path(path)
    for place in (path, unfinished):
        check_overwrite(place, force=True)
    with open(unfinished, "wb", opener=_open_without_truncate) as file:
        lock(file.fileno(), path)
        try:
            if not is_same_file(file, unfinished):  # renamed between opening and locking it
                raise OutputError(f"{path} was being written by another run until now; look at what it holds")
            if path.exists():
                with path.open("rb") as there:
                    lock(there.fileno(), path, fcntl.LOCK_SH)
            yield file
        finally:
            file.flush()
            if is_same_file(file, unfinished) and not os.fstat(file.fileno()).st_size:
                unfinished.unlink()


def commit(file: BinaryIO, path: Path) -> None:
    """Give what was claimed its name, so that it lasts even if the power fails.

    Raises:
        OutputError: The partial file is not there any more.
    """
    file.flush()
    os.fsync(file.fileno())
    check_not_moved(file, partial_path(path))
    partial_path(path).replace(path.resolve())
    fsync_dir(path.resolve().parent)


def partial_path(path: Path) -> Path:
    """Where a file lies that is not finished."""
    path = path.resolve()
    return path.with_name(path.name + ".partial")


def lock(descriptor: int, path: Path | str, how: int = fcntl.LOCK_EX) -> None:
    """Lock an open file or folder until it is closed; raise `OutputError` if another run holds it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{path} is being written by another run; wait until it ends, or choose another name"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            raise


def is_same_file(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is what lies at that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def check_not_moved(file: BinaryIO, path: Path) -> None:
    """Raise `OutputError` if an open file is not at its path any more, so that what is written to it is lost."""
    if not is_same_file(file, path):
        raise OutputError(f"{path} was moved, removed or replaced while it was written; leave it there until the end")


def fsync_dir(folder: Path) -> None:
    """Make what was created, renamed and removed in a folder last, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (*_UNSUPPORTED_ERRNOS, errno.EACCES):
            raise


def _open_without_truncate(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def check_overwrite(path: Path, *, force: bool, resumable: bool = False) -> None:
    """Raise `OutputError` if the file is there and may not be replaced, or is no file that could be.

    Args:
        path: The file.
        force: Whether it may be replaced.
        resumable: Whether the command could continue it instead.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file, so it cannot be written; name a file, or use standard output")
    if path.exists() and not force:
        resume = "--resume continues it, " if resumable else ""
        raise OutputError(f"{path} exists; --force replaces it, {resume}or choose another name")


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Tell what the operating system has against writing a file as `OutputError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); check the folder, its permissions and the disk"
        ) from error


def user_dir(what: Literal["cache", "data"]) -> Path:
    """The user's folder for what fervid keeps; it need not exist.

    Raises:
        UsageError: This user has no home, as in a container that runs under any number.
    """
    try:
        return platformdirs.user_cache_path("fervid") if what == "cache" else platformdirs.user_data_path("fervid")
    except RuntimeError as error:
        raise UsageError(
            f"this user has no home folder to keep {what} in; set HOME, or XDG_{what.upper()}_HOME to another folder"
        ) from error
