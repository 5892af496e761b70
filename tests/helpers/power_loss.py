"""Simulate a power failure: unsynced data may be present, in part, as zeros, or absent."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

State = Mapping[str, bytes]
"""What lies in the folder when the power is back: content by name."""


@dataclass(frozen=True)
class Moment:
    """What the folder is, and what of it is sure to last.

    Attributes:
        names: The files by name, as they were in turn since the folder was synced last.
        now: What each file holds.
        synced: What it held when it was synced last; nothing if it never was.
        promised: Lines that must be there, whatever is lost.
    """

    names: tuple[Mapping[str, int], ...]
    now: Mapping[int, bytes]
    synced: Mapping[int, bytes]
    promised: tuple[bytes, ...]

    def states(self, chance: random.Random) -> Iterator[State]:
        """Nothing lost, all lost that may be, and what lies between: each file and each name has its own fate."""
        kept: tuple[Callable[[int], bytes], ...] = (
            lambda file: self.now[file],
            lambda file: self.synced.get(file, b""),
            lambda file: self._torn(file, chance),
            lambda file: self._zeroed(file, chance),
            lambda file: chance.choice(kept[:4])(file),
        )
        for content in kept:
            for names in (self.names[0], self.names[-1], self._mixed(chance), self._mixed(chance)):
                yield {name: content(file) for name, file in names.items()}

    def _torn(self, file: int, chance: random.Random) -> bytes:
        now, synced = self.now[file], self.synced.get(file, b"")
        return now[: chance.randint(len(synced), len(now))] if now.startswith(synced) else b""

    def _zeroed(self, file: int, chance: random.Random) -> bytes:
        torn = self._torn(file, chance)
        return torn + bytes(len(self.now[file]) - len(torn))

    def _mixed(self, chance: random.Random) -> Mapping[str, int]:
        fates = {name: chance.choice(self.names).get(name) for names in self.names for name in names}
        return {name: file for name, file in fates.items() if file is not None}


class Disk:
    """Watches a folder from here on; `moments` are all those between which something lasting happened.

    Lock files are left out, because they are empty and one that remains locks nothing.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """What is there already lasts."""
        self._folder, self._held = folder, dict[int, int]()
        self._synced: dict[int, bytes] = {}
        self._names: list[Mapping[str, int]] = []
        self._now: dict[int, bytes] = {}
        self.promised: tuple[bytes, ...] = ()
        self.moments: list[Moment] = []
        self._look()
        self._synced.update(self._now)
        self.moments.clear()
        for name in ("fsync", "replace", "rename", "unlink", "remove"):
            patch.setattr(os, name, self._watched(getattr(os, name)))

    def close(self) -> None:
        """Look for the last time."""
        self._look()
        for descriptor in self._held.values():
            os.close(descriptor)

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **more: Any) -> None:
            self._look()
            call(*arguments, **more)
            if call.__name__ == "fsync":
                self._sync(os.fstat(arguments[0]).st_ino)
            self._look()

        return watched

    def _sync(self, file: int) -> None:
        if file == self._folder.stat().st_ino:
            self._names = self._names[-1:]
        elif file in self._now:
            self._synced[file] = self._now[file]

    def _look(self) -> None:
        names = {entry.name: entry.inode() for entry in os.scandir(self._folder) if not entry.name.endswith(".lock")}
        for name, file in names.items():
            if file not in self._held:  # as long as it is open no other file gets its number
                self._held[file] = os.open(self._folder / name, os.O_RDONLY)
        self._now = {file: os.pread(held, os.fstat(held).st_size, 0) for file, held in self._held.items()}
        if not self._names or names != self._names[-1]:
            self._names.append(names)
        self.moments.append(Moment(tuple(self._names), self._now, dict(self._synced), self.promised))


def losses(disk: Disk, draws: int = 6) -> Iterator[tuple[State, tuple[bytes, ...]]]:
    """Different states that a power failure could leave, and the lines that must be in each."""
    chance, seen = random.Random(0), set()
    for moment in disk.moments * draws:
        for state in moment.states(chance):
            key = (frozenset(state.items()), moment.promised)
            if key not in seen:
                seen.add(key)
                yield state, moment.promised


def lay(folder: Path, state: State) -> Path:
    """Make a folder in which that state lies."""
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
