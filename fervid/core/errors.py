"""One tree of errors; each carries the stable `code` that records and scripts can rely on.

::

    FervidError
    ├── InputError            the clip: costs one record, never the batch
    │   ├── InputNotFound         not_found
    │   ├── InputUnreadable       unreadable
    │   ├── EmptyInput            empty_file
    │   ├── NotAVideo             not_a_video
    │   ├── NoVideoStream         no_video_stream
    │   ├── Undecodable           undecodable
    │   ├── Truncated             truncated
    │   ├── Damaged               damaged
    │   ├── Discontinuity         discontinuity
    │   ├── SeveralStreams        several_streams
    │   ├── NothingSampled        nothing_sampled
    │   ├── FramesDropped         dropped
    │   ├── TooLarge              too_large
    │   ├── TooLong               too_long
    │   ├── Crashed               crashed
    │   ├── TimedOut              timeout
    │   ├── OutOfMemory           memory
    │   └── NoFaces               no_face
    ├── UsageError            usage: options that do not fit together
    │   └── DatasetError          dataset: labelled clips that cannot be meant so
    ├── NothingMatched        nothing_matched: no input to work on
    ├── OutputError           output: the answer cannot be written
    └── ModelError            the models: nothing can be answered
        ├── ModelNotFound         model_not_found
        ├── ModelUnverified       model_unverified
        ├── DownloadFailed        download_failed
        └── ModelIncompatible     model_incompatible

A message says what is wrong, with which file, and what to try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class FervidError(Exception):
    """Anything that fervid reports on purpose."""

    code: ClassVar[str] = "error"

    @property
    def message(self) -> str:
        """What is wrong and what to try, in one line."""
        return str(self)


class InputError(FervidError):
    """One clip cannot be answered; the others can."""

    code = "input"
    nothing_missing: ClassVar[bool] = False
    """Whether all of the clip was read nevertheless, so that only something is worth knowing."""


class InputNotFound(InputError):
    """There is no such file."""

    code = "not_found"


class InputUnreadable(InputError):
    """The file is there and the operating system refuses to let us read it."""

    code = "unreadable"


class EmptyInput(InputError):
    """The file has no bytes."""

    code = "empty_file"


class UnsupportedFormat(InputError):
    """The content is no video or image format that the decoder knows, whatever the file's name says."""

    code = "not_a_video"


class NoVideoStream(InputError):
    """A media file that carries no pictures, such as sound alone."""

    code = "no_video_stream"


class Undecodable(InputError):
    """A video whose pictures cannot be decoded, not even one."""

    code = "undecodable"


class TruncatedVideo(InputError):
    """The file breaks off: what came before was given, what is missing is not known."""

    code = "truncated"


class CorruptVideo(InputError):
    """Some packets inside the file could not be decoded; the frames around them were given."""

    code = "damaged"


class Discontinuity(InputError):
    """The timestamps of the clip start again: it was read whole, and time was taken to go on there."""

    code = "discontinuity"
    nothing_missing = True


class SeveralStreams(InputError):
    """The clip has several video streams, and one of them was looked at."""

    code = "several_streams"
    nothing_missing = True


class NoFramesInRange(InputError):
    """The clip was read and none of its frames lies in the time that was asked for."""

    code = "nothing_sampled"


class FramesDropped(InputError):
    """Frames of a stream came faster than they could be looked at; the others were."""

    code = "dropped"


class FrameTooLarge(InputError):
    """The pictures have more pixels than are decoded."""

    code = "too_large"


class ClipTooLong(InputError):
    """The clip goes on for longer than is looked at; what came before was given."""

    code = "too_long"


class WorkerCrashed(InputError):
    """The process that worked on the file died of it."""

    code = "crashed"


class TimedOut(InputError):
    """The file took longer than it may."""

    code = "timeout"


class OutOfMemory(InputError):
    """The file took more memory than it may, or than there is."""

    code = "memory"


class NoFaceError(InputError):
    """The clip was read and no face was found in it: there is nothing to classify."""

    code = "no_face"


class UsageError(FervidError):
    """Options or settings that are wrong or do not fit together."""

    code = "usage"


class DatasetError(UsageError):
    """Labelled clips that are missing, unknown, or contradict each other."""

    code = "dataset"


class NoInputsFound(FervidError):
    """No input file is left to work on."""

    code = "nothing_matched"


class OutputError(FervidError):
    """The output cannot be written, or would overwrite something."""

    code = "output"


class ModelError(FervidError):
    """A model cannot be used."""

    code = "model"


class ModelNotFound(ModelError):
    """No model of that name, or no file at that path."""

    code = "model_not_found"


class ChecksumMismatch(ModelError):
    """The file is not the one that the manifest names: its SHA-256 differs."""

    code = "model_unverified"


class DownloadFailed(ModelError):
    """A model cannot be fetched, or not be written; what has arrived is kept."""

    code = "download_failed"


class ModelIncompatible(ModelError):
    """The file is no model of the kind that is needed, or it was fitted on another network."""

    code = "model_incompatible"


@contextmanager
def usage() -> Iterator[None]:
    """What a record says of a wrong value is a usage error of who gave it."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
