"""Image sizes from headers, compared with those of a decoder."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from fervid.media.image_header import image_size, is_animated


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("shape", [(1, 1), (70, 1025)])
def test_size_matches_decoder(suffix: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert image_size(data) == (width, height) == shape[::-1]


PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s17x", 13, b"IHDR")
PROFILE = struct.pack(">I4s3000x4x", 3000, b"iCCP")


@pytest.mark.parametrize(
    ("data", "moves"),
    [
        (PNG + struct.pack(">I4sII4x", 8, b"acTL", 2, 0), True),
        (PNG + PROFILE + struct.pack(">I4sII4x", 8, b"acTL", 9, 0), True),
        (PNG + struct.pack(">I4sII4x", 8, b"acTL", 1, 0), False),
        (PNG + struct.pack(">I4s8x4x", 8, b"IDAT") + struct.pack(">I4sII4x", 8, b"acTL", 2, 0), False),
        (PNG + b"\0\0", False),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02", True),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x10", False),
        (b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\x02", False),
        (b"RIFF\0\0\0\0WEBPVP8X", False),
        (b"\xff\xd8\xff\xe0", False),
        (b"", False),
    ],
)
def test_is_animated(data: bytes, moves: bool) -> None:
    assert is_animated(data) is moves


SETTINGS = {
    "progressive jpeg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "lossy webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 30]),
}


@pytest.mark.parametrize(("suffix", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_size_of_format_variants(suffix: str, settings: list[int]) -> None:
    data = cv2.imencode(suffix, np.full((48, 65, 3), 99, np.uint8), settings)[1].tobytes()
    assert image_size(data) == (65, 48)


HEADERS = {
    "bmp": struct.pack("<2sI4x4I", b"BM", 54, 54, 40, 70_000, 50_000),
    "bmp from the top": struct.pack("<2sI4xIIii", b"BM", 54, 54, 40, 70_000, -50_000),
    "bmp of the oldest kind": struct.pack("<2sI4xIIHH", b"BM", 54, 26, 12, 50_000, 60_000),
    "png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 70_000, 50_000),
    "jpeg": b"\xff\xd8\xff\xe0\0\4ab" + struct.pack(">HHBHH", 0xFFC2, 11, 8, 50_000, 60_000),
    "jpeg with filling": b"\xff\xd8\xff\xff\xe0\0\2..\xff\xd0\xff" + struct.pack(">BHBHH", 0xC0, 11, 8, 50_000, 60_000),
    "webp with alpha": b"RIFF....WEBPVP8X" + struct.pack("<II", 10, 16) + bytes.fromhex("6f1101 4fc300"),
    "webp without loss": b"RIFF....WEBPVP8L" + struct.pack("<IBI", 10, 0x2F, 16_383 << 14 | 16_382),
    "tiff of 32 bits": struct.pack("<2sHIHHHIIHHII", b"II", 42, 8, 2, 256, 4, 1, 70_000, 257, 4, 1, 50_000),
    "tiff of 16 bits": struct.pack(">2sHIHHHIHxxHHIH", b"MM", 42, 8, 2, 256, 3, 1, 60_000, 257, 3, 1, 50_000),
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_whole_header_is_enough_and_needed(data: bytes) -> None:
    assert image_size(data) in [(70_000, 50_000), (60_000, 50_000), (50_000, 60_000), (16_383, 16_384)]
    assert {image_size(data[:kept]) for kept in range(len(data))} == {None}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"\xff\xd8\xff" * 999,
        b"\xff\xd8" + b"\xff" * 9_000_000,
        b"\xff\xd8\xff\xe0" + bytes(999),
        struct.pack("<2sHIH", b"II", 42, 8, 0),
    ],
    ids=["nothing", "another format", "many beginnings", "filling", "zeros", "no tags"],
)
def test_invalid_header_gives_none(data: bytes) -> None:
    assert image_size(data) is None
