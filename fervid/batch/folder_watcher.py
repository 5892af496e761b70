"""Watch a folder for new clips, and yield each once it is complete.

The folder is polled. Change notifications of the kernel miss what another machine writes to a network drive, and drop
events when there are many. A clip also counts as complete only once it has not changed for some seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Iterator

from fervid.core.errors import UsageError
from fervid.media.inputs import find_videos

FileStamp = tuple[int, int]
"""Size in bytes, and modification time in nanoseconds."""

MAX_TOMBSTONES = 100_000
"""Number of deleted clips to remember, because a drive that was disconnected brings back clips that are done."""
_POLL_S = 0.2  # between two checks of whether a result is ready
_MAX_LISTING_SHARE = 0.05  # maximum share of the time that is spent on listing the folder


class FolderWatcher:
    """A poller for the new clips of a folder. It remembers the clips in the folder, so memory does not grow with time.

    A clip is identified by its name, size and modification time. A clip that is replaced or changed is new.

    Attributes:
        fingerprints: Size and modification time of each clip that existed at the start, or was yielded since.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        recursive: bool = False,
        settle_s: float = 5.0,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        """List the folder for the first time.

        Args:
            path: The folder.
            recursive: Whether to search its subfolders too.
            settle_s: Seconds for which the size and modification time of a clip must stay the same.
            on_message: Called with a message when the folder cannot be read, and when it can be read again.

        Raises:
            UsageError: The folder does not exist or cannot be read.
        """
        self._path, self._recursive, self._settle_s, self._on_message = os.fspath(path), recursive, settle_s, on_message
        self._changing: dict[str, tuple[FileStamp, float]] = {}
        self._in_progress: set[str] = set()
        self._done: set[str] = set()
        self._unreachable, self._listing_s = False, 0.0
        try:
            self.fingerprints: dict[str, FileStamp] = self._list()
        except OSError as error:
            raise UsageError(
                f"the folder {self._path} cannot be read ({error.strerror}); create it, or check its permissions"
            ) from error

    def iter_stable_files(self, finished: Iterable[str] = ()) -> Iterator[str | None]:
        """Yield the complete clips, those that exist already first; without end.

        A clip is not yielded again before `mark_done` was called for it. None is yielded while there is nothing to do.

        Args:
            finished: Clips in `fingerprints` that need not be yielded.
        """
        self._done |= self.fingerprints.keys() & set(finished)
        pause = min(1.0, self._settle_s / 2)
        while True:
            yield from self._stable_files()
            next_listing = time.monotonic() + max(pause, self._listing_s / _MAX_LISTING_SHARE)
            while (remaining := next_listing - time.monotonic()) > 0:
                yield None
                time.sleep(min(_POLL_S, remaining))

    def mark_done(self, path: str) -> None:
        """Record that a clip was classified in the state in which it was yielded."""
        self._in_progress.discard(path)
        self._done.add(path)

    def _stable_files(self) -> Iterator[str]:
        """Yield the clips that have not changed for `settle_s`, and are neither done nor in progress."""
        try:
            current = self._list()
        except OSError as error:
            if not self._unreachable:
                self._on_message(f"{self._path} cannot be read ({error.strerror}); waiting until it can")
            self._unreachable = True
            return
        if self._unreachable:
            self._on_message(f"{self._path} can be read again")
        self._unreachable = False
        now, previous, self._changing = time.monotonic(), self._changing, {}
        for path, stamp in current.items():
            if path in self._in_progress or (path in self._done and self.fingerprints[path] == stamp):
                continue
            previous_stamp, since = previous.get(path, (stamp, now))
            since = since if previous_stamp == stamp else now
            if now - since < self._settle_s:
                self._changing[path] = stamp, since
            else:
                self.fingerprints.pop(path, None)  # reinsert at the end, because the oldest entries are pruned first
                self.fingerprints[path] = stamp
                self._in_progress.add(path)
                yield path
        self._prune(current.keys())

    def _prune(self, current: Container[str]) -> None:
        """Forget the oldest deleted clips beyond `MAX_TOMBSTONES`."""
        deleted = [path for path in self.fingerprints if path not in current and path not in self._in_progress]
        for path in deleted[: max(0, len(deleted) - MAX_TOMBSTONES)]:
            del self.fingerprints[path]
            self._done.discard(path)

    def _list(self) -> dict[str, FileStamp]:
        started = time.monotonic()
        with os.scandir(self._path):  # raises errors that `find_videos` ignores
            pass
        stamps = {}
        for path in sorted(find_videos(self._path, recursive=self._recursive)):
            try:
                status = os.stat(path)
            except OSError:  # deleted meanwhile, or a broken link
                continue
            stamps[path] = status.st_size, status.st_mtime_ns
        self._listing_s = time.monotonic() - started
        return stamps
