"""Recognition of file formats by their first bytes, and errors for files that are not videos."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

from fervid.core.errors import InputError, TruncatedVideo, UnsupportedFormat
from fervid.media.image_header import is_animated

HEADER_BYTES = 4096
"""Bytes from which the format of a file is recognised."""
_IMAGE_HEADER_BYTES = 2**20  # in which the chunk that marks an animation lies
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_ENCRYPTED_FILE = re.compile(rb"Salted__|-----BEGIN PGP MESSAGE|age-encryption\.org/")
_ENCRYPTED_MP4 = re.compile(rb"(?:encv|drmi)\0{7}\x01")
_ENCRYPTED_ASF = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
_MAX_MOOV_BYTES = 1 << 24  # of the index of an mp4 to search for encryption
_MAX_BOXES = 1000  # of an mp4 to search for its index
_IMAGE_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL)


def read_header(file: BinaryIO) -> bytes:
    """Read the first bytes of a file and restore its position."""
    position = file.tell()
    file.seek(0)
    header = file.read(HEADER_BYTES)
    file.seek(position)
    return header


def is_image(file: BinaryIO) -> bool:
    """Whether a file is for OpenCV: a still image, or an animated WebP, which FFmpeg does not demux.

    Args:
        file: The file, at its beginning; its position stays.
    """
    header = file.read(_IMAGE_HEADER_BYTES)
    file.seek(0)
    is_webp = header.startswith(b"RIFF")
    return _IMAGE_MAGIC.match(header) is not None and (is_webp or not is_animated(header))


def is_mp4(header: bytes) -> bool:
    """Whether a header is that of an mp4 file."""
    return header[4:8] == b"ftyp"


def is_complete_avi(file: BinaryIO) -> bool:
    """Whether a file is an AVI with all of the bytes that its header declares; its position stays.

    Such a file may still have fewer frames than declared: frames that were dropped while recording have empty chunks,
    which the demuxer skips.
    """
    position, end = file.tell(), file.seek(0, os.SEEK_END)
    offset = 0
    while len(chunk := _read_at(file, offset, 12)) == 12 and chunk[:4] == b"RIFF" and chunk[8:] in (b"AVI ", b"AVIX"):
        size = int.from_bytes(chunk[4:8], "little")
        offset += 8 + size + size % 2
        if size < 4 or offset > end + size % 2:
            offset = 0
            break
    file.seek(position)
    return offset > 0


def is_encrypted(file: BinaryIO) -> bool:
    """Whether an mp4 or ASF file is encrypted; its position is the beginning before and after."""
    header, offset = read_header(file), 0
    if not is_mp4(header):
        return _ENCRYPTED_ASF in header
    end, encrypted = file.seek(0, os.SEEK_END), False
    for _ in range(_MAX_BOXES):
        if len(box := _read_at(file, offset, 16)) < 16:
            break
        size, kind, long_size = struct.unpack(">I4sQ", box)
        size = long_size if size == 1 else size
        if kind == b"moov":
            encrypted = _ENCRYPTED_MP4.search(_read_at(file, offset, min(size, _MAX_MOOV_BYTES))) is not None
            break
        offset += size
        if size < 8 or offset > end:
            break
    file.seek(0)
    return encrypted


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def unsupported_format_error(path: Path | str, header: bytes) -> InputError:
    """Explain, by the header of a file, why FFmpeg cannot read it."""
    if is_mp4(header):
        return TruncatedVideo(
            f"{path} breaks off before its index, so nothing can be decoded; copy or download it again"
        )
    if header.startswith(b"version https://git-lfs.github.com/"):
        return UnsupportedFormat(
            f"{path} is a Git LFS pointer, not the video itself; fetch the video with `git lfs pull`"
        )
    if _ENCRYPTED_FILE.match(header):
        return UnsupportedFormat(f"{path} is encrypted; decrypt it first")
    if _HTML.match(header):
        return UnsupportedFormat(
            f"{path} is an HTML page, which sites send if a video needs a login or was removed; open it in a"
            " browser, and download the video itself"
        )
    if not _BINARY.search(header):
        return UnsupportedFormat(
            f"{path} is text, not a video or image, and files that a playlist names are not opened; name"
            " the videos themselves"
        )
    return UnsupportedFormat(
        f"{path} is not a video or image that can be read; check it with a player, or convert it to mp4"
    )
