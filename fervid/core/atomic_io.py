"""Atomic writing of files, by one run at a time."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import platformdirs

from fervid.core.errors import OutputError, UsageError

# Of file systems without locks or fsync
_UNSUPPORTED_ERRNOS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_RESOURCES = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)  # whose cause is not the file


@contextmanager
def atomic_write(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Write a file as `NAME.partial`, and close and rename it at the end of the block.

    If the block raises, `NAME.partial` stays. A symbolic link is followed. The file is locked against other runs.

    Args:
        path: The file.
        force: Whether to replace an existing file.

    Raises:
        OutputError: The file exists, is being written by another run, or cannot be written.
    """
    with as_output_error(path), _truncated_partial(path, force=force) as file:
        yield file
        if path.exists() and not force:
            raise OutputError(f"{path} was created by another process; the output was kept as {file.name}")
        commit(file, path)


class AtomicAppendFile(io.FileIO):
    """A file whose writes are complete or have no effect, even on a full disk."""

    def write(self, data: Any) -> int:
        """Append all of the data.

        Raises:
            OSError: The data cannot be written; the file is unchanged.
        """
        end = os.fstat(self.fileno()).st_size
        remaining = memoryview(data)
        try:
            while remaining:
                remaining = remaining[super().write(remaining) or 0 :]
        except OSError:
            os.truncate(self.fileno(), end)
            raise
        return len(data)


@contextmanager
def append_write(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Create an empty file and append to it record by record, so that others can read it meanwhile.

    Args:
        path: The file.
        force: Whether to replace an existing file.

    Raises:
        OutputError: As `atomic_write`.
    """
    with as_output_error(path), _truncated_partial(path, force=force) as file:
        commit(file, path)
        with AtomicAppendFile(path, "ab") as file:
            yield cast(BinaryIO, file)


@contextmanager
def _truncated_partial(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Lock and empty `NAME.partial`; what another run left there is replaced only by force."""
    with lock_partial(path) as file:
        check_overwrite(path, force=force)
        if os.fstat(file.fileno()).st_size:
            check_overwrite(partial_path(path), force=force)
        file.truncate(0)
        yield file


@contextmanager
def lock_partial(path: Path) -> Iterator[BinaryIO]:
    """Lock NAME and open `NAME.partial` without truncating it; remove it at the end if it is empty.

    Raises:
        OutputError: Another run is writing NAME, or NAME or `NAME.partial` is not a regular file.
    """
    partial = partial_path(path)
    for target in (path, partial):
        check_overwrite(target, force=True)
    with hold_lock(partial.with_suffix(".lock"), path):
        try:
            with open(partial, "wb", opener=_open_without_truncate) as file:
                yield file
        finally:
            if partial.is_file() and not partial.stat().st_size:
                partial.unlink()


def commit(file: BinaryIO, path: Path) -> None:
    """Close `NAME.partial`, rename it to NAME and sync both file and folder to disk.

    Args:
        file: The open `NAME.partial`.
        path: NAME.

    Raises:
        OutputError: `NAME.partial` was moved or removed.
    """
    file.flush()
    os.fsync(file.fileno())
    check_not_moved(file, partial_path(path))
    file.close()  # Windows renames no open file
    partial_path(path).replace(path.resolve())
    fsync_dir(path.resolve().parent)


def partial_path(path: Path) -> Path:
    """Return the path of the unfinished file, `NAME.partial`."""
    path = path.resolve()
    return path.with_name(path.name + ".partial")


@contextmanager
def hold_lock(lock_file: Path, path: Path | str) -> Iterator[None]:
    """Keep other runs from writing a file or folder for the duration of the block.

    The system releases the lock when the process ends, even if the lock file remains. It is advisory, so it stops other
    runs of fervid only. On a file system without locks nothing is locked.

    Args:
        lock_file: The file that is locked, and removed at the end.
        path: What it stands for, in messages.

    Raises:
        OutputError: Another run holds the lock.
        OSError: The lock file cannot be created.
    """
    from filelock import FileLock, Timeout  # slow to import, and standard output needs no lock

    lock_file.parent.stat()  # raises if it does not exist, where filelock would create it
    lock = FileLock(lock_file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{path} is being written by another run; wait until it ends, or choose another name"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            raise
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows `release` removes it
            if not lock_file.stat().st_size:
                lock_file.unlink()
        lock.release()


def check_not_moved(file: BinaryIO, path: Path) -> None:
    """Raise `OutputError` if an open file is no longer at its path, so that its data would be lost."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    raise OutputError(
        f"{path} was moved, removed or replaced while it was written; leave it in place until the run ends"
    )


def fsync_dir(folder: Path) -> None:
    """Sync the entries of a folder to disk, if the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
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
    """Check that a file does not exist or may be replaced.

    Args:
        path: The file.
        force: Whether to replace an existing file.
        resumable: Whether the message mentions `--resume`.

    Raises:
        OutputError: The file exists and `force` is false, or it is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file; name another file, or use standard output")
    if path.exists() and not force:
        resume = "--resume continues it, " if resumable else ""
        raise OutputError(f"{path} exists; --force replaces it, {resume}or choose another name")


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Convert an `OSError` while writing a file to `OutputError`.

    That of a closed pipe stays, and so does a lack of memory, processes or file handles.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _NO_RESOURCES:
            raise
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); check the folder, its permissions and the disk"
        ) from error


def user_dir(kind: Literal["cache", "data"]) -> Path:
    """Return the folder of the user for cached or downloaded files, which need not exist.

    Raises:
        UsageError: The user has no home folder, as in a container that runs under an arbitrary user id.
    """
    try:
        return platformdirs.user_cache_path("fervid") if kind == "cache" else platformdirs.user_data_path("fervid")
    except RuntimeError as error:
        raise UsageError(
            f"this user has no home folder for {kind} files; set HOME, or XDG_{kind.upper()}_HOME to another folder"
        ) from error
