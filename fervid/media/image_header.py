"""What the header of an image says: how large it is, before a decoder makes room for it, and whether it moves."""

from __future__ import annotations

import re
import struct
from struct import unpack_from

_MARKER = re.compile(rb"\xff[^\0\xff]")  # of JPEG
_ANIMATION = 0x02  # flag of the extended header of WebP
_MAX_HEADER = 2**24  # bytes in which the frame of a JPEG begins


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a JPEG, PNG, BMP, TIFF or WebP image; None if its header does not tell."""
    try:
        return next(read(data) for magic, read in _PARSERS.items() if data.startswith(magic))
    except (struct.error, ValueError, LookupError, StopIteration):
        return None


def is_animated(data: bytes) -> bool:
    """Whether a PNG or WebP image has several frames, as far as the part of it that is given tells."""
    if data.startswith(b"RIFF"):
        return data[12:16] == b"VP8X" and bool(data[20:21]) and bool(data[20] & _ANIMATION)
    at = 8
    while data.startswith(b"\x89PNG") and len(data) >= at + 12:
        length, kind = unpack_from(">I4s", data, at)
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL" and int.from_bytes(data[at + 8 : at + 12], "big") > 1
        at += 12 + length
    return False


def _jpeg(data: bytes) -> tuple[int, int]:
    """From the first start of a frame, which may come after any other segments, a thousand at most."""
    at = 2
    for _ in range(1000):
        if (found := _MARKER.search(data, at, _MAX_HEADER)) is None:
            break
        marker, at = found[0][1], found.end()
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = unpack_from(">HH", data, at + 3)
            return width, height
        if marker != 0x01 and not 0xD0 <= marker <= 0xD8:  # those have no segment
            at += unpack_from(">H", data, at)[0]
    raise ValueError("no frame begins")


def _png(data: bytes) -> tuple[int, int]:
    width, height = unpack_from(">II", data, 16)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    """A height below zero says that the rows come from the top; the oldest kind has 16 bits for each."""
    (header,) = unpack_from("<I", data, 14)
    width, height = unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        wide, high = unpack_from("3s3s", data, 24)
        return 1 + int.from_bytes(wide, "little"), 1 + int.from_bytes(high, "little")
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    """From the tags 256 and 257 of the first directory, of 16 or 32 bits each."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = unpack_from(f"{order}I", data, 4)
    (count,) = unpack_from(f"{order}H", data, at)
    found = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = unpack_from(f"{order}HH", data, entry)
        (found[tag],) = unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return found[256], found[257]


_PARSERS = {b"\xff\xd8\xff": _jpeg, b"\x89PNG": _png, b"BM": _bmp, b"RIFF": _webp, b"II": _tiff, b"MM": _tiff}
