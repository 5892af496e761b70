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

    def __init_subclass__(cls, *, code: str = "") -> None:
        """Set the code of the subclass; without one it keeps that of its base class."""
        cls.code = code or cls.code

    @property
    def message(self) -> str:
        """The error and what to try, in one line."""
        return str(self)


class InputError(FervidError, code="input"):
    """One clip cannot be classified, or not completely; other clips are not affected."""

    is_notice: ClassVar[bool] = False
    """Whether the clip was read completely, so that the error is only a notice."""


class InputNotFound(InputError, code="not_found"):
    """The file does not exist."""


class InputUnreadable(InputError, code="unreadable"):
    """The operating system denies reading the file."""


class EmptyInput(InputError, code="empty_file"):
    """The file is empty."""


class UnsupportedFormat(InputError, code="not_a_video"):
    """The content is not a supported video or image format, whatever the suffix of the file."""


class NoVideoStream(InputError, code="no_video_stream"):
    """The media file has no video stream, such as a file with sound only."""


class Undecodable(InputError, code="undecodable"):
    """The file has a video stream, but no frame can be decoded."""


class TruncatedVideo(InputError, code="truncated"):
    """The file ends early; the frames before that were used."""


class CorruptVideo(InputError, code="damaged"):
    """Some packets cannot be decoded; the other frames were used."""


class Discontinuity(InputError, code="discontinuity"):
    """The timestamps of the clip start again; it was read completely, with continuous times."""

    is_notice = True


class SeveralStreams(InputError, code="several_streams"):
    """The clip has several video streams, and one of them was used."""

    is_notice = True


class NoFramesInRange(InputError, code="nothing_sampled"):
    """The clip has no frame in the requested time range."""


class FramesDropped(InputError, code="dropped"):
    """A live source was faster than the analysis, so that some of its frames were dropped."""


class FrameTooLarge(InputError, code="too_large"):
    """The frames exceed the pixel limit."""


class ClipTooLong(InputError, code="too_long"):
    """The clip exceeds the duration limit; the frames before that were used."""


class WorkerCrashed(InputError, code="crashed"):
    """The worker process crashed on the file."""


class TimedOut(InputError, code="timeout"):
    """The file exceeded the time limit."""


class OutOfMemory(InputError, code="memory"):
    """The file exceeded the memory limit, or the memory of the machine."""


class NoFaceError(InputError, code="no_face"):
    """The clip was read, but shows no face to classify."""


class UsageError(FervidError, code="usage"):
    """Options or settings are wrong or do not fit together."""


class DatasetError(UsageError, code="dataset"):
    """Labelled clips are missing, unknown or contradictory."""


class NoInputsFound(FervidError, code="nothing_matched"):
    """There is no input file to work on."""


class OutputError(FervidError, code="output"):
    """The output cannot be written, or would overwrite a file."""


class ModelError(FervidError, code="model"):
    """A model cannot be used."""


class ModelNotFound(ModelError, code="model_not_found"):
    """There is no model of that name, or no file at that path."""


class ChecksumMismatch(ModelError, code="model_unverified"):
    """The SHA-256 of a model file differs from the one in the manifest."""


class DownloadFailed(ModelError, code="download_failed"):
    """A model cannot be downloaded."""


class ModelIncompatible(ModelError, code="model_incompatible"):
    """The file is not a model of the required kind, or was fitted on another face model."""


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Convert a `ValueError`, which records and options raise for invalid values, to `UsageError`."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
