"""The errors of fervid, each with a stable `code` for records and scripts.

ARCHITECTURE.md draws the tree. A message says what is wrong, with which file or option, and what to try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class FervidError(Exception):
    """Base class of all errors that fervid raises on purpose."""

    code: ClassVar[str] = "error"

    @property
    def message(self) -> str:
        """The error and what to try, in one line."""
        return str(self)


class InputError(FervidError):
    """One clip cannot be classified, or not completely; other clips are not affected."""

    code = "input"
    is_notice: ClassVar[bool] = False
    """Whether the clip was read completely, so that the error is only a notice."""


class InputNotFound(InputError):
    """The file does not exist."""

    code = "not_found"


class InputUnreadable(InputError):
    """The operating system denies reading the file."""

    code = "unreadable"


class EmptyInput(InputError):
    """The file is empty."""

    code = "empty_file"


class UnsupportedFormat(InputError):
    """The content is not a supported video or image format, whatever the suffix of the file."""

    code = "not_a_video"


class NoVideoStream(InputError):
    """The media file has no video stream, such as a file with sound only."""

    code = "no_video_stream"


class Undecodable(InputError):
    """The file has a video stream, but no frame can be decoded."""

    code = "undecodable"


class TruncatedVideo(InputError):
    """The file ends early; the frames before that were used."""

    code = "truncated"


class CorruptVideo(InputError):
    """Some packets cannot be decoded; the other frames were used."""

    code = "damaged"


class Discontinuity(InputError):
    """The timestamps of the clip start again; it was read completely, with continuous times."""

    code = "discontinuity"
    is_notice = True


class SeveralStreams(InputError):
    """The clip has several video streams, and one of them was used."""

    code = "several_streams"
    is_notice = True


class NoFramesInRange(InputError):
    """The clip has no frame in the requested time range."""

    code = "nothing_sampled"


class FramesDropped(InputError):
    """A live source was faster than the analysis, so that some of its frames were dropped."""

    code = "dropped"


class FrameTooLarge(InputError):
    """The frames exceed the pixel limit."""

    code = "too_large"


class ClipTooLong(InputError):
    """The clip exceeds the duration limit; the frames before that were used."""

    code = "too_long"


class WorkerCrashed(InputError):
    """The worker process crashed on the file."""

    code = "crashed"


class TimedOut(InputError):
    """The file exceeded the time limit."""

    code = "timeout"


class OutOfMemory(InputError):
    """The file exceeded the memory limit, or the memory of the machine."""

    code = "memory"


class NoFaceError(InputError):
    """The clip was read, but shows no face to classify."""

    code = "no_face"


class UsageError(FervidError):
    """Options or settings are wrong or do not fit together."""

    code = "usage"


class DatasetError(UsageError):
    """Labelled clips are missing, unknown or contradictory."""

    code = "dataset"


class NoInputsFound(FervidError):
    """There is no input file to work on."""

    code = "nothing_matched"


class OutputError(FervidError):
    """The output cannot be written, or would overwrite a file."""

    code = "output"


class ModelError(FervidError):
    """A model cannot be used."""

    code = "model"


class ModelNotFound(ModelError):
    """There is no model of that name, or no file at that path."""

    code = "model_not_found"


class ChecksumMismatch(ModelError):
    """The SHA-256 of a model file differs from the one in the manifest."""

    code = "model_unverified"


class DownloadFailed(ModelError):
    """A model cannot be downloaded."""

    code = "download_failed"


class ModelIncompatible(ModelError):
    """The file is not a model of the required kind, or was fitted on another face model."""

    code = "model_incompatible"


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Convert a `ValueError`, which records and options raise for invalid values, to `UsageError`."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
