"""Size and animation flag of an image from its header, before a decoder allocates memory for it."""

from __future__ import annotations

import re
import struct
from struct import unpack_from

_MARKER = re.compile(rb"\xff[^\0\xff]")  # start of a JPEG segment
_WEBP_ANIMATION = 0x02  # flag in the extended header of WebP
_MAX_HEADER = 2**24  # bytes of a JPEG that are searched for its frame header
_MAX_SEGMENTS = 1000  # before the frame header


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels of a JPEG, PNG, BMP, TIFF or WebP image; None if its header is damaged."""
    try:
        return next(parse(data) for magic, parse in _PARSERS.items() if data.startswith(magic))
    except (struct.error, ValueError, LookupError, StopIteration):
        return None


def is_animated(data: bytes) -> bool:
    """Whether a PNG or WebP image has several frames, judged by its first bytes."""
    if data.startswith(b"RIFF"):
        return data[12:16] == b"VP8X" and bool(data[20:21]) and bool(data[20] & _WEBP_ANIMATION)
    offset = 8
    while data.startswith(b"\x89PNG") and len(data) >= offset + 12:
        length, kind = unpack_from(">I4s", data, offset)
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL" and int.from_bytes(data[offset + 8 : offset + 12], "big") > 1
        offset += 12 + length
    return False


def _jpeg(data: bytes) -> tuple[int, int]:
    """Parse the first frame header (SOF), which follows any number of other segments."""
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        if (match := _MARKER.search(data, offset, _MAX_HEADER)) is None:
            break
        marker, offset = match[0][1], match.end()
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = unpack_from(">HH", data, offset + 3)
            return width, height
        if marker != 0x01 and not 0xD0 <= marker <= 0xD8:  # these markers have no segment
            offset += unpack_from(">H", data, offset)[0]
    raise ValueError("no frame header")


def _png(data: bytes) -> tuple[int, int]:
    width, height = unpack_from(">II", data, 16)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    """Parse the info header; a negative height means top-down rows, and the oldest version has 16-bit sizes."""
    (header_size,) = unpack_from("<I", data, 14)
    width, height = unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        width_bytes, height_bytes = unpack_from("3s3s", data, 24)
        return 1 + int.from_bytes(width_bytes, "little"), 1 + int.from_bytes(height_bytes, "little")
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    """Parse the tags ImageWidth (256) and ImageLength (257) of the first directory, each of 16 or 32 bits."""
    byte_order = "<" if data[:2] == b"II" else ">"
    (directory,) = unpack_from(f"{byte_order}I", data, 4)
    (count,) = unpack_from(f"{byte_order}H", data, directory)
    tags = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = unpack_from(f"{byte_order}HH", data, entry)
        (tags[tag],) = unpack_from(f"{byte_order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return tags[256], tags[257]


_PARSERS = {b"\xff\xd8\xff": _jpeg, b"\x89PNG": _png, b"BM": _bmp, b"RIFF": _webp, b"II": _tiff, b"MM": _tiff}
