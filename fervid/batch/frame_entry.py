"""What an output of frames records of each clip beside its rows: in the ledger, or in the metadata of a part."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fervid.batch.resume import ResumeEntry
from fervid.batch.writers import to_json_line
from fervid.core.errors import OutputError
from fervid.core.records import ClipFeatures


@dataclass(frozen=True, slots=True)
class FrameEntry:
    """A clip whose rows are complete.

    Attributes:
        resume: What its rows depend on.
        people: What each person is recognised by in other clips; empty unless the rows have an identity.
    """

    resume: ResumeEntry
    people: tuple[ClipFeatures, ...] = ()

    def encode(self) -> bytes:
        """Encode the entry as one line of JSON."""
        return to_json_line(asdict(self.resume) | {"people": [features.as_dict() for features in self.people]})

    @classmethod
    def decode(cls, line: bytes) -> FrameEntry:
        """Restore an entry from `encode`.

        Raises:
            ValueError: It is not one.
        """
        try:
            fields = json.loads(line)
            people = tuple(map(ClipFeatures.from_dict, fields.pop("people")))
            return cls(ResumeEntry(**fields), people)
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"not an entry of a clip: {error!r}") from error


def check_same_run(entries: Iterable[FrameEntry], run: str, output: Path) -> None:
    """Check that the people of clips that are kept can be compared with those of a run.

    Args:
        entries: The clips.
        run: Fingerprint of the run.
        output: The output that has them.

    Raises:
        OutputError: People were recorded with other models or options.
    """
    if other := next((entry.resume.path for entry in entries if entry.people and entry.resume.run != run), None):
        raise OutputError(
            f"{output} has the people of {other} from another face model or other options, which cannot be compared;"
            " choose another name, or replace it with --force"
        )
