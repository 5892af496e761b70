"""A JSON Lines output that a run which was cut off can continue."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

from fervid import __version__
from fervid.errors import OutputError
from fervid.output import JsonLinesWriter, encode, refuse_existing, replacing, writing
from fervid.pipeline import Classifier
from fervid.records import SCHEMA_VERSION, ClipResult, Status

ANSWERED = ("ok", "no_face")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the ledger: which file, as it was, got the record that ends at byte `end` of the output."""

    path: str
    size: int
    mtime_ns: int
    run: str
    status: Status
    end: int


class Ledger:
    """A JSON Lines output that can be continued, with `NAME.ledger` beside it.

    A record is on disk before the ledger names it, and counts only if the ledger does. On resuming, what was torn is
    cut off, and records are dropped whose clip failed, has changed since, or was answered by other models or options;
    those clips are answered again. The records of a resumed run follow those of the run before.
    """

    def __init__(self, output: Path, classifier: Classifier, *, resume: bool, force: bool) -> None:
        """Open or create the output.

        Raises:
            OutputError: It exists and neither `resume` nor `force` is given, it has no ledger, or it cannot be written.
        """
        self._output, self._path = output, output.with_name(output.name + ".ledger")
        self._run = run_digest(classifier)
        kept: list[_Entry] = []
        with writing(output):
            if resume and output.exists():
                kept = self._keep(_valid(output, self._path))
            else:
                refuse_existing(output, force=force)
                self._rewrite([], [])
            self._records, self._entries = output.open("ab", buffering=0), self._path.open("ab", buffering=0)
        self.answered: dict[str, Status] = {entry.path: entry.status for entry in kept}

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self._records.close()
        self._entries.close()

    def write(self, result: ClipResult) -> None:
        """Append one record.

        Raises:
            OutputError: The disk is full or the file is gone.
        """
        with writing(self._output):
            JsonLinesWriter(self._records).write(result)
            os.fsync(self._records.fileno())
            size, mtime_ns = _stamp(result.path)
            end = self._records.tell()
            entry = _Entry(result.path, size, mtime_ns, self._run, result.status, end)
            self._entries.write(encode(asdict(entry)) + b"\n")

    def finish(self) -> None:
        """Every record is written already."""

    def _keep(self, found: list[tuple[_Entry, bytes]]) -> list[_Entry]:
        """Drop what must be answered again, from both files."""
        kept: dict[str, tuple[_Entry, bytes]] = {}
        for entry, record in found:
            stamp = (entry.size, entry.mtime_ns)
            if entry.status in ANSWERED and entry.run == self._run and stamp == _stamp(entry.path):
                kept[entry.path] = (entry, record)
        ends = accumulate(len(record) for _, record in kept.values())
        entries = [replace(entry, end=end) for (entry, _), end in zip(kept.values(), ends, strict=True)]
        self._rewrite(entries, [record for _, record in kept.values()])
        return entries

    def _rewrite(self, entries: list[_Entry], records: list[bytes]) -> None:
        lines = [encode(asdict(entry)) + b"\n" for entry in entries]
        for path, parts in ((self._output, records), (self._path, lines)):
            with replacing(path, force=True) as file:
                file.writelines(parts)


def run_digest(classifier: Classifier) -> str:
    """What an answer depends on beside the clip: version, models and options, in one short string."""
    models = {role: asdict(identity) for role, identity in classifier.models.items()}
    run = [__version__, SCHEMA_VERSION, models, asdict(classifier.options)]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def _valid(output: Path, ledger: Path) -> list[tuple[_Entry, bytes]]:
    """The entries of a ledger, up to the first that does not fit the output, each with its record."""
    if not ledger.exists():
        raise OutputError(f"{output} has no ledger beside it, so it cannot be resumed; --force writes it anew")
    found = []
    with output.open("rb") as records:
        for line in ledger.read_bytes().splitlines():
            try:
                entry = _Entry(**json.loads(line))
                record = records.read(entry.end - records.tell())
                if not record.endswith(b"\n") or json.loads(record)["path"] != entry.path:
                    break
            except (ValueError, TypeError, KeyError):
                break
            found.append((entry, record))
    return found


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
