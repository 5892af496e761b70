"""A folder into which clips are put -> the name of each, once it is whole.

The folder is listed again and again. Kernels tell of changes too, but not of those that another machine makes on a
network drive, and not of all when there are many; and a clip has to be left alone for some seconds in any case, before
anybody can know that it is whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable, Iterator

from fervid.core.errors import UsageError
from fervid.media.inputs import find_videos

FileStamp = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds."""

MAX_TOMBSTONES = 100_000  # clips that are gone: a drive that was away for a while brings back what is answered already
_GLANCE = 0.2  # seconds from one look whether an answer is ready to the next
_SHARE = 0.05  # of the time that listing the folder may take


class FolderWatcher:
    """Says what is new in a folder. It remembers what is there, so its memory does not grow with time.

    A clip is known by its name, size and time of change. One that is replaced or written on is new.

    Attributes:
        stamps: Of each clip that was there at the start, or was given since.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        recursive: bool = False,
        quiet: float = 5.0,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Look for the first time.

        Args:
            path: The folder.
            recursive: Whether to search the folders within it, too.
            quiet: Seconds for which size and time of change of a clip must stay the same.
            tell: Is told when the folder cannot be read, and when it can be again.

        Raises:
            UsageError: There is no such folder, or it cannot be read.
        """
        self._path, self._recursive, self._quiet, self._tell = os.fspath(path), recursive, quiet, tell
        self._waiting: dict[str, tuple[FileStamp, float]] = {}
        self._given: set[str] = set()
        self._settled: set[str] = set()
        self._away, self._took = False, 0.0
        try:
            self.stamps: dict[str, FileStamp] = self._list()
        except OSError as error:
            raise UsageError(
                f"the folder {self._path} cannot be read ({error.strerror}); create it, or check its permissions"
            ) from error

    def clips(self, answered: Iterable[str] = ()) -> Iterator[str | None]:
        """The clips that are whole, those first that are there already; without end.

        A clip is not given again before `settle` was called for it. None in between says that there is time to spare.

        Args:
            answered: Those of `stamps` that need not be given.
        """
        self._settled |= self.stamps.keys() & set(answered)
        pause = min(1.0, self._quiet / 2)
        while True:
            yield from self._whole()
            until = time.monotonic() + max(pause, self._took / _SHARE)
            while (left := until - time.monotonic()) > 0:
                yield None
                time.sleep(min(_GLANCE, left))

    def settle(self, path: str) -> None:
        """Take note that a clip was answered as it was given."""
        self._given.discard(path)
        self._settled.add(path)

    def _whole(self) -> Iterator[str]:
        try:
            found = self._list()
        except OSError as error:
            if not self._away:
                self._tell(f"{self._path} cannot be read ({error.strerror}); waiting until it can")
            self._away = True
            return
        if self._away:
            self._tell(f"{self._path} is here again")
        self._away = False
        now, before, self._waiting = time.monotonic(), self._waiting, {}
        for path, stamp in found.items():
            if path in self._given or (path in self._settled and self.stamps[path] == stamp):
                continue
            known, since = before.get(path, (stamp, now))
            since = since if known == stamp else now
            if now - since < self._quiet:
                self._waiting[path] = stamp, since
            else:
                self.stamps.pop(path, None)  # so that what was given last is forgotten last
                self.stamps[path] = stamp
                self._given.add(path)
                yield path
        self._forget(found.keys())

    def _forget(self, found: Container[str]) -> None:
        gone = [path for path in self.stamps if path not in found and path not in self._given]
        for path in gone[: max(0, len(gone) - MAX_TOMBSTONES)]:
            del self.stamps[path]
            self._settled.discard(path)

    def _list(self) -> dict[str, FileStamp]:
        began = time.monotonic()
        with os.scandir(self._path):  # raises what `find_videos` would pass over
            pass
        found = {}
        for path in sorted(find_videos(self._path, recursive=self._recursive)):
            try:
                status = os.stat(path)
            except OSError:  # gone by now, or a link to nowhere
                continue
            found[path] = status.st_size, status.st_mtime_ns
        self._took = time.monotonic() - began
        return found
