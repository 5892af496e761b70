"""Simulate a power failure: unsynced data may be present, partial, zeroed or missing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

State = Mapping[str, bytes]
"""Content by name after a failure."""


@dataclass(frozen=True)
class Moment:
    """State of a folder, and what of it is durable.

    Attributes:
        names: Versions of the directory, file by name, since its last sync.
        now: Current content of each file.
        synced: Content of each file at its last sync; empty without one.
        promised: Lines that must survive.
    """

    names: tuple[Mapping[str, int], ...]
    now: Mapping[int, bytes]
    synced: Mapping[int, bytes]
    promised: tuple[bytes, ...]

    def states(self, chance: random.Random) -> Iterator[State]:
        """Yield possible states: nothing lost, everything unsynced lost, and random mixtures by file and name."""
        kept: tuple[Callable[[int], bytes], ...] = (
            lambda file: self.now[file],
            lambda file: self.synced.get(file, b""),
            lambda file: self._tear(file, chance),
            lambda file: self._zero(file, chance),
            lambda file: chance.choice(kept[:4])(file),
        )
        for content in kept:
            for names in (self.names[0], self.names[-1], self._mix(chance), self._mix(chance)):
                yield {name: content(file) for name, file in names.items()}

    def _tear(self, file: int, chance: random.Random) -> bytes:
        now, synced = self.now[file], self.synced.get(file, b"")
        return now[: chance.randint(len(synced), len(now))] if now.startswith(synced) else b""

    def _zero(self, file: int, chance: random.Random) -> bytes:
        torn = self._tear(file, chance)
        return torn + bytes(len(self.now[file]) - len(torn))

    def _mix(self, chance: random.Random) -> Mapping[str, int]:
        fates = {name: chance.choice(self.names).get(name) for names in self.names for name in names}
        return {name: file for name, file in fates.items() if file is not None}


class Disk:
    """Watches a folder; `moments` are the states between durable changes.

    Lock files are left out, because they are empty and one that remains locks nothing.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Treat existing content as durable."""
        self._folder, self._held = folder, dict[int, int]()
        self._synced: dict[int, bytes] = {}
        self._names: list[Mapping[str, int]] = []
        self._now: dict[int, bytes] = {}
        self.promised: tuple[bytes, ...] = ()
        self.moments: list[Moment] = []
        self._record()
        self._synced.update(self._now)
        self.moments.clear()
        for name in ("fsync", "replace", "rename", "unlink", "remove"):
            patch.setattr(os, name, self._wrap(getattr(os, name)))

    def close(self) -> None:
        """Record the last state."""
        self._record()
        for descriptor in self._held.values():
            os.close(descriptor)

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> None:
            self._record()
            call(*arguments, **more)
            if call.__name__ == "fsync":
                self._sync(os.fstat(arguments[0]).st_ino)
            self._record()

        return watched

    def _sync(self, file: int) -> None:
        if file == self._folder.stat().st_ino:
            self._names = self._names[-1:]
        elif file in self._now:
            self._synced[file] = self._now[file]

    def _record(self) -> None:
        names = {entry.name: entry.inode() for entry in os.scandir(self._folder) if not entry.name.endswith(".lock")}
        for name, file in names.items():
            if file not in self._held:  # while it is open, no other file gets its inode number
                self._held[file] = os.open(self._folder / name, os.O_RDONLY)
        self._now = {file: os.pread(held, os.fstat(held).st_size, 0) for file, held in self._held.items()}
        if not self._names or names != self._names[-1]:
            self._names.append(names)
        self.moments.append(Moment(tuple(self._names), self._now, dict(self._synced), self.promised))


def losses(disk: Disk, draws: int = 6) -> Iterator[tuple[State, tuple[bytes, ...]]]:
    """Yield distinct states that a power failure could leave, and the lines that must be in each."""
    chance, seen = random.Random(0), set()
    for moment in disk.moments * draws:
        for state in moment.states(chance):
            key = (frozenset(state.items()), moment.promised)
            if key not in seen:
                seen.add(key)
                yield state, moment.promised


def lay(folder: Path, state: State) -> Path:
    """Write a state into a new folder."""
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
