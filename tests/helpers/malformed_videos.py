"""Make damaged and malicious videos and images; each can be recreated from its name.

    SEED/DAMAGE/NUMBER     mp4-h264/flip_bits/3: a small valid clip with random damage, seeded by the name
    built/NAME             a crafted file, or a valid clip with a special name

To write one: PYTHONPATH=tests/helpers python tests/helpers/malformed_videos.py mp4-h264/flip_bits/3 FOLDER
"""

from __future__ import annotations

import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import count, islice
from pathlib import Path

import av
import cv2
import numpy as np

import clips

Damage = Callable[[bytes, np.random.Generator], bytes]

WIDTH, HEIGHT, FRAMES = 112, 80, 12
"""Every seed has different width and height, and half a second at 25 frames per second."""

# Allowed results of a file: `ok` or `no_face` with one of these codes, or an error with one of them

SOUND = frozenset({None})
WORN = frozenset({None, "truncated", "damaged", "discontinuity", "several_streams", "too_long"})
REFUSED = frozenset({"not_a_video", "no_video_stream", "undecodable", "truncated", "damaged", "empty_file"})
REFUSED |= {"too_large", "too_long"}


@dataclass(frozen=True, slots=True)
class Allowed:
    """The allowed content of a record.

    Attributes:
        answered: Codes allowed with the status `ok` or `no_face`, None for no error; empty if neither is allowed.
        refused: Codes allowed with the status `error`; empty if it is not allowed.
    """

    answered: frozenset[str | None] = WORN
    refused: frozenset[str] = REFUSED

    def permits(self, status: str, code: str | None) -> bool:
        """Check whether a record with a status and code is allowed."""
        return code in (self.refused if status == "error" else self.answered) and status != "skipped"


ANY = Allowed()
READABLE = Allowed(refused=frozenset())
WHOLE = Allowed(SOUND, frozenset())
SEVERAL = Allowed(frozenset({None, "several_streams"}), frozenset())
NEVER = Allowed(frozenset())


def refused(*codes: str) -> Allowed:
    """Allow only an error with one of these codes."""
    return Allowed(frozenset(), frozenset(codes))


@dataclass(frozen=True, slots=True)
class Case:
    """A file to classify.

    Attributes:
        name: Name from which it can be recreated.
        suffix: Suffix of the file, or its whole name if the case tests names.
        make: Returns its bytes.
        allowed: Allowed content of its record.
    """

    name: str
    suffix: str
    make: Callable[[], bytes]
    allowed: Allowed

    @property
    def group(self) -> str:
        """Container, for the table of results."""
        return "built" if self.name.startswith("built/") else self.name.partition("/")[0].partition("-")[0]

    def write(self, folder: Path) -> Path:
        """Write the file into a folder, with a unique name."""
        if self.suffix.startswith("."):
            path = folder / (self.name.replace("/", "_") + self.suffix)
        else:
            place = folder / f"{zlib.crc32(self.name.encode()):08x}"
            place.mkdir(exist_ok=True)
            path = place / self.suffix
        path.write_bytes(self.make())
        return path


# Seeds


# For reproducible files: no random numbers, no dates, one thread
_SAME = {"fflags": "+bitexact"}


def _options(codec: str) -> dict[str, str]:
    return {"threads": "1"} | ({"qp": "28"} if codec == "libx264" else {})


def _encode_seed(
    suffix: str, codec: str, options: Mapping[str, str] | None = None, muxer: Mapping[str, str] | None = None
) -> bytes:
    frames = clips.smiling(FRAMES, WIDTH, HEIGHT, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"seed{suffix}"
        return clips.write(
            path, frames, codec=codec, options=_options(codec) | dict(options or {}), muxer=_SAME | dict(muxer or {})
        ).read_bytes()


def _picture(suffix: str) -> bytes:
    found, data = cv2.imencode(suffix, clips.portrait(WIDTH, HEIGHT, 0.5)[..., ::-1])
    assert found
    return data.tobytes()


_GROUPS = {"g": "5"}  # frames between keyframes
SEEDS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "mp4-h264": (".mp4", partial(_encode_seed, ".mp4", "libx264", options=_GROUPS)),
    "mkv-h264": (".mkv", partial(_encode_seed, ".mkv", "libx264", options=_GROUPS)),
    "webm-vp8": (".webm", partial(_encode_seed, ".webm", "libvpx", options=_GROUPS)),
    "avi-mpeg4": (".avi", partial(_encode_seed, ".avi", "mpeg4", options=_GROUPS)),
    "gif": (".gif", partial(_encode_seed, ".gif", "gif")),
    "mpg-mpeg1": (".mpg", partial(_encode_seed, ".mpg", "mpeg1video", options=_GROUPS)),
    "mp4-parts": (
        ".mp4",
        partial(_encode_seed, ".mp4", "libx264", options=_GROUPS, muxer={"movflags": "frag_keyframe+empty_moov"}),
    ),
    "mp4-hevc": (".mp4", partial(_encode_seed, ".mp4", "libx265", options={"x265-params": "log-level=none:keyint=5"})),
    "mov-mjpeg": (".mov", partial(_encode_seed, ".mov", "mjpeg")),
    "mkv-ffv1": (".mkv", partial(_encode_seed, ".mkv", "ffv1")),
    "webm-vp9": (".webm", partial(_encode_seed, ".webm", "libvpx-vp9", options=_GROUPS)),
    "avi-mjpeg": (".avi", partial(_encode_seed, ".avi", "mjpeg")),
    "mpg-mpeg2": (".mpg", partial(_encode_seed, ".mpg", "mpeg2video", options=_GROUPS)),
    "ts-h264": (".ts", partial(_encode_seed, ".ts", "libx264", options=_GROUPS)),
    "flv": (".flv", partial(_encode_seed, ".flv", "flv", options=_GROUPS)),
    "jpg": (".jpg", partial(_picture, ".jpg")),
    "png": (".png", partial(_picture, ".png")),
    "webp": (".webp", partial(_picture, ".webp")),
    "bmp": (".bmp", partial(_picture, ".bmp")),
    "tiff": (".tiff", partial(_picture, ".tiff")),
}


@cache
def seed(name: str) -> bytes:
    """Make a small valid clip or image with a face."""
    return SEEDS[name][1]()


# Parts of files


@dataclass(frozen=True, slots=True)
class Part:
    """A box, element, chunk or packet: its bytes are data[start:stop], its size field is data[size].

    Attributes:
        kind: Its type as stored in the file.
        start: Offset of its first byte.
        body: Offset of the first byte after its header.
        stop: Offset of the first byte after it.
        size: Range of its size field; empty without one.
    """

    kind: bytes
    start: int
    body: int
    stop: int
    size: slice


_BOXES = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"})
_ELEMENTS = frozenset(
    map(bytes.fromhex, ("18538067", "1654ae6b", "ae", "e0", "1549a966", "1f43b675", "1c53bb6b", "bb", "a0", "114d9b74"))
)
_INDEX = frozenset({b"moov", b"idx1", b"\x1c\x53\xbb\x6b", b"stss", b"stco", b"stsz", b"stts", b"stsc"})
_JOINTS = {
    b"\xff\xd8": rb"\xff[\xc0-\xfe]",
    b"GIF8": rb"\x21\xf9|\x21\xff|\x00\x2c",
    b"\0\0\1\xba": rb"\x00\x00\x01",
    b"G@": rb"G[\0\x01\x40\x41]",
    b"FLV": rb"\x09|\x12",
}


def parts(data: bytes) -> list[Part]:
    """List the parts of a container by their sizes, or else the ranges between markers."""
    found: list[Part] = []
    if data[4:8] == b"ftyp":
        found = list(_boxes(data, 0, len(data)))
    if data[:4] == b"\x1a\x45\xdf\xa3":
        found = list(_elements(data, 0, len(data)))
    if data[:4] == b"RIFF":
        found = list(_chunks(data, 0, len(data)))
    if data[:4] == b"\x89PNG":
        found = list(_png(data))
    return found or list(_between(data))


def _between(data: bytes) -> Iterator[Part]:
    joint = next((joint for head, joint in _JOINTS.items() if data.startswith(head)), rb"\0\0")
    starts = [0, *(found.start() for found in re.finditer(joint, data, re.DOTALL) if found.start())]
    ends = [*starts[1:], len(data)]
    for start, end in zip(starts, ends, strict=True):
        yield Part(b"", start, min(start + 2, end), end, slice(0, 0))


def _boxes(data: bytes, at: int, end: int) -> Iterator[Part]:
    while at + 8 <= end:
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = min(end, at + max(8, size))
        yield Part(kind, at, at + 8, stop, slice(at, at + 4))
        if kind in _BOXES:
            yield from _boxes(data, at + 8, stop)
        at = stop


def _elements(data: bytes, at: int, end: int) -> Iterator[Part]:
    while at + 2 <= end:
        body = at + max(1, 9 - data[at].bit_length())
        if body >= end:
            return
        kind, length = data[at:body], max(1, 9 - data[body].bit_length())
        size = int.from_bytes(data[body : body + length]) & ~(-1 << 7 * length)
        start, stop = min(end, body + length), min(end, body + length + size)
        yield Part(kind, at, start, stop, slice(body, start))
        if kind in _ELEMENTS:
            yield from _elements(data, start, stop)
        at = stop


def _chunks(data: bytes, at: int, end: int) -> Iterator[Part]:
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        stop = min(end, at + 8 + size + size % 2)
        yield Part(kind, at, at + 8, stop, slice(at + 4, at + 8))
        if kind in (b"RIFF", b"LIST"):
            yield from _chunks(data, at + 12, stop)
        at = stop


def _png(data: bytes) -> Iterator[Part]:
    at = 8
    while at + 8 <= len(data):
        stop = min(len(data), at + 12 + int.from_bytes(data[at : at + 4]))
        yield Part(data[at + 4 : at + 8], at, at + 8, stop, slice(at, at + 4))
        at = stop


def _one(data: bytes, rng: np.random.Generator) -> Part:
    found = parts(data)
    return found[rng.integers(len(found))]


def _put(data: bytes, at: int, new: bytes, old: int | None = None) -> bytes:
    return data[:at] + new + data[at + (len(new) if old is None else old) :]


def _span(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Choose a random range of up to a fifth of the file."""
    length = int(rng.integers(1, max(2, int(len(data) ** rng.uniform(0.2, 1) / 5))))
    start = int(rng.integers(0, max(1, len(data) - length)))
    return start, length


# Damages


def flip_bit(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip one bit."""
    at = int(rng.integers(len(data)))
    return _put(data, at, bytes([data[at] ^ 1 << int(rng.integers(8))]))


def flip_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip a few bits of the first 256 bytes."""
    found = bytearray(data)
    for at in rng.integers(min(256, len(data)), size=rng.integers(1, 6)):
        found[at] ^= 1 << int(rng.integers(8))
    return bytes(found)


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip one bit in ten thousand to one in fifty."""
    bits = np.frombuffer(data, np.uint8).copy()
    hit = rng.random((len(bits), 8)) < 10 ** rng.uniform(-4, -1.7)
    return (bits ^ np.packbits(hit, axis=1)[:, 0]).tobytes()


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    """Set a range of bytes to 0, as in an incomplete download."""
    start, length = _span(data, rng)
    return _put(data, start, bytes(length))


def ones(data: bytes, rng: np.random.Generator) -> bytes:
    """Set a range of bytes to 0xFF."""
    start, length = _span(data, rng)
    return _put(data, start, b"\xff" * length)


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    """Set a range of bytes to random values."""
    start, length = _span(data, rng)
    return _put(data, start, rng.bytes(length))


def cut_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate within the first 64 bytes."""
    return data[: int(rng.integers(0, 64))]


def cut_joint(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate between two parts."""
    return data[: _one(data, rng).start]


def cut_part(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate within a part: a header, an index, a packet."""
    part = _one(data, rng)
    return data[: int(rng.integers(part.start, part.stop + 1))]


def cut_anywhere(data: bytes, rng: np.random.Generator) -> bytes:
    """Truncate anywhere."""
    return data[: int(rng.integers(len(data)))]


def cut_last(data: bytes, rng: np.random.Generator) -> bytes:
    """Remove the last byte, or the last few."""
    return data[: -int(rng.integers(1, 4))]


def cut_start(data: bytes, rng: np.random.Generator) -> bytes:
    """Remove the beginning."""
    return data[_span(data, rng)[1] :]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    """Swap two parts."""
    one, other = sorted((_one(data, rng), _one(data, rng)), key=lambda part: part.start)
    if other.start < one.stop:  # nested
        return data[: one.start] + data[one.stop :]
    pieces = (data[other.start : other.stop], data[one.stop : other.start], data[one.start : one.stop])
    return data[: one.start] + b"".join(pieces) + data[other.stop :]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """Repeat a part once, or a hundred times."""
    part = _one(data, rng)
    times = min(int(rng.choice([1, 2, 100])), 1 + 2_000_000 // max(1, part.stop - part.start))
    return data[: part.stop] + data[part.start : part.stop] * times + data[part.stop :]


def remove(data: bytes, rng: np.random.Generator) -> bytes:
    """Remove a part."""
    part = _one(data, rng)
    return data[: part.start] + data[part.stop :]


def head_twice(data: bytes, rng: np.random.Generator) -> bytes:
    """Put a copy of the first parts in front."""
    first = parts(data)[:5]
    return data[: first[int(rng.integers(len(first)))].stop] + data


def append(data: bytes, rng: np.random.Generator) -> bytes:
    """Append other data."""
    return data + [rng.bytes(int(rng.integers(1, 5000))), bytes(4096), b"<html>404</html>"][int(rng.integers(3))]


def join(data: bytes, rng: np.random.Generator) -> bytes:
    """Concatenate two files of the same kind or of two kinds."""
    return data + seed(str(rng.choice(list(SEEDS))))


def size(data: bytes, rng: np.random.Generator) -> bytes:
    """Set the size of a part to zero, billions, or a negative number."""
    told = [part for part in parts(data) if part.size.stop > part.size.start]
    if not told:
        return absurd(data, rng)
    place = told[int(rng.integers(len(told)))].size
    length = place.stop - place.start
    heads = [bytes(length), b"\xff" * length, b"\x7f" + b"\xff" * (length - 1), bytes(length - 1) + b"\1"]
    if data[:4] == b"\x1a\x45\xdf\xa3":  # the first set bit gives the length of the number
        first = max(1, 0x80 >> (length - 1))
        heads = [bytes([first]) + bytes(length - 1), bytes([2 * first - 1]) + b"\xff" * (length - 1)]
        heads += [bytes([first]) + b"\xff" * (length - 1), b"\0" * length]
    return _put(data, place.start, heads[int(rng.integers(len(heads)))])


_ABSURD = (0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x10000, 0x7FFF, 1_000_000_007)


def absurd(data: bytes, rng: np.random.Generator) -> bytes:
    """Set a header field to an extreme value: a count of frames, a time scale, a duration, a time, an offset."""
    heads = [part for part in parts(data) if 1 <= part.stop - part.body <= 2000]
    if not heads:
        heads = [Part(b"", 0, 0, min(200, len(data)), slice(0, 0))]
    part = heads[int(rng.integers(len(heads)))]
    width = int(rng.choice([1, 2, 4, 4, 4, 8]))
    number = _ABSURD[int(rng.integers(len(_ABSURD)))]
    if width == 8:
        number *= 0x1_0000_0001
    order = "big" if rng.random() < 0.7 else "little"
    at = part.body + int(rng.integers(max(1, (part.stop - part.body - width) // 4 + 1))) * 4
    return _put(data, at, (number % (1 << 8 * width)).to_bytes(width, order))[: len(data)]


def several(data: bytes, rng: np.random.Generator) -> bytes:
    """Set several fields to extreme values."""
    for _ in range(int(rng.integers(2, 6))):
        data = absurd(data, rng)
    return data


def sides(data: bytes, rng: np.random.Generator) -> bytes:
    """Set every width or height to 0, 1 or 65,535."""
    new = int(rng.choice([0, 1, 2, 17, 4096, 16384, 65535]))
    for value in rng.permutation([WIDTH, HEIGHT])[: int(rng.integers(1, 3))]:
        for form in (">I", "<I", ">H", "<H"):
            data = data.replace(struct.pack(form, value), struct.pack(form, new), int(rng.integers(1, 4)))
    return _put(data, data.index(b"\xb0\x81"), b"\xb0\x81\0") if b"\xb0\x81" in data and not new else data


def no_index(data: bytes, rng: np.random.Generator) -> bytes:
    """Remove the index, or a table of it."""
    found = [part for part in parts(data) if part.kind in _INDEX]
    if not found:
        return remove(data, rng)
    part = found[int(rng.integers(len(found)))]
    return data[: part.start] + data[part.stop :]


def twice(data: bytes, rng: np.random.Generator) -> bytes:
    """Apply two damages."""
    names = [name for name in DAMAGES if name != "twice"]
    for name in rng.choice(names, 2):
        data = DAMAGES[name][0](data, rng) or b"\0"
    return data


DAMAGES: Mapping[str, tuple[Damage, Allowed]] = {
    damage.__name__: (damage, ANY)
    for damage in (
        *(flip_bit, flip_head, flip_bits, zeros, ones, noise, cut_head, cut_joint, cut_part, cut_anywhere, cut_last),
        *(cut_start, swap, repeat, remove, head_twice, append, join, size, absurd, several, sides, no_index, twice),
    )
} | {"append": (append, READABLE)}


# Crafted files


def _mux(
    suffix: str,
    packets: Callable[[av.container.OutputContainer, Fraction], Iterator[av.Packet]],
    rate: Fraction = Fraction(25),
    **muxer: str,
) -> bytes:
    """Mux packets into a container."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"made{suffix}"
        with av.open(str(path), "w", options=_SAME | muxer) as container:
            for packet in packets(container, rate):
                container.mux(packet)
        return path.read_bytes()


def _pixels(image: np.ndarray, form: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame if form == "rgb24" else frame.reformat(format=form)


def _encode(
    container: av.container.OutputContainer,
    rate: Fraction,
    *,
    codec: str = "libx264",
    form: str = "yuv420p",
    frames: int = FRAMES,
    shape: tuple[int, int] = (WIDTH, HEIGHT),
    options: Mapping[str, str] | None = None,
) -> Iterator[av.Packet]:
    """Encode the packets of a video stream."""
    stream = container.add_stream(codec, rate=rate, options=_options(codec) | dict(options or {}))
    (stream.width, stream.height), stream.pix_fmt = shape, form
    for image in clips.smiling(frames, *shape, 0.5):
        yield from stream.encode(_pixels(image, form))
    yield from stream.encode()


def _video(
    suffix: str, *, rate: Fraction | int = 25, muxer: Mapping[str, str] | None = None, **coded: object
) -> Callable[[], bytes]:
    """Make a clip with one video stream."""
    return partial(_mux, suffix, partial(_encode, **coded), Fraction(rate), **(muxer or {}))


def _change_size(container: av.container.OutputContainer, rate: Fraction, codec: str, form: str) -> Iterator[av.Packet]:
    """Make frames that change their size twice, from independent encoders."""
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, form
    number = count()
    for shape in ((WIDTH, HEIGHT), (2 * WIDTH, 2 * HEIGHT), (HEIGHT, WIDTH)):
        context = av.CodecContext.create(codec, "w")
        (context.width, context.height), context.pix_fmt, context.framerate = shape, form, rate
        context.time_base = 1 / rate
        images = clips.smiling(FRAMES, *shape, 0.5)
        for packet in [p for image in images for p in context.encode(_pixels(image, form))] + context.encode():
            packet.stream, packet.time_base = stream, 1 / rate
            packet.pts = packet.dts = next(number)
            yield packet


def _two_streams(container: av.container.OutputContainer, rate: Fraction) -> Iterator[av.Packet]:
    """Make two video streams, one without a face."""
    streams = [container.add_stream("mpeg4", rate=rate) for _ in range(2)]
    for stream in streams:
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for pair in zip(clips.smiling(FRAMES, WIDTH, HEIGHT, 0.5), clips.scenery(FRAMES, WIDTH, HEIGHT), strict=True):
        for stream, image in zip(streams, pair, strict=True):
            yield from stream.encode(_pixels(image, "yuv420p"))
    for stream in streams:
        yield from stream.encode()


def _silence(container: av.container.OutputContainer, rate: Fraction, codec: str = "aac") -> Iterator[av.Packet]:
    """Make half a second of sound."""
    stream = container.add_stream(codec, rate=16000, layout="mono")
    for start in range(0, 8192, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        yield from stream.encode(frame)
    yield from stream.encode()


def _sound_with_cover(container: av.container.OutputContainer, rate: Fraction) -> Iterator[av.Packet]:
    """Make sound with a cover image of a face."""
    cover = container.add_stream("mjpeg", rate=rate)
    cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
    cover.disposition = av.stream.Disposition.attached_pic
    sound = list(_silence(container, rate))
    picture = av.Packet(seed("jpg"))
    picture.stream, picture.pts, picture.dts, picture.time_base = cover, 0, 0, 1 / rate
    yield picture
    yield from sound


def _no_packets(container: av.container.OutputContainer, rate: Fraction, codec: str, form: str) -> Iterator[av.Packet]:
    """Make a video stream without a packet."""
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, form
    container.start_encoding()
    return iter(())


def _patch(name: str, kinds: Sequence[bytes], change: Callable[[int, bytes], bytes]) -> bytes:
    """Replace the bodies of all parts of some kinds in a seed, given their number."""
    data, number = seed(name), count()
    for part in parts(data):
        if part.kind in kinds:
            data = _put(data, part.body, change(next(number), data[part.body : part.stop]), part.stop - part.body)
    return data


_CLUSTER, _BLOCK, _SCALE, _STEP, _LASTS = b"\xe7", b"\xa3", b"\x2a\xd7\xb1", b"\x23\xe3\x83", b"\x44\x89"


def _block(times: Callable[[int], int]) -> Callable[[int, bytes], bytes]:
    """Return the time of a block in milliseconds since its cluster began."""
    return lambda number, body: _put(body, 1, struct.pack(">h", times(number)))


def _fill(byte: int) -> Callable[[int, bytes], bytes]:
    return lambda _, body: bytes([byte]) * len(body)


def _fields(at: int, form: str, *values: int) -> Callable[[int, bytes], bytes]:
    return lambda _, body: _put(body, at, struct.pack(form, *values))


_PLAYLISTS = {
    "m3u8": (".m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n"),
    "m3u8_as_mp4": (".mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"),
    "concat": (".txt", b"ffconcat version 1.0\nfile 'other.mp4'\n"),
    "concat_as_mkv": (".mkv", b"ffconcat version 1.0\nfile '/etc/hostname'\n"),
    "dash": (
        ".mpd",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>\
<Representation id="1" bandwidth="1"><BaseURL>other.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
    ),
    "sdp": (".sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    "html": (".mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "script": (".mp4", b"#!/bin/sh\ntouch /tmp/owned\n"),
    "subtitles": (".srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n"),
    "vector": (".svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>'),
}
NAMES = {
    "newline": "a\nb.mp4",
    "quotes": 'it\'s "so".mp4',
    "emoji": "😀🎬.mp4",
    "undecodable": os.fsdecode(b"\xff\xfe\x80.mp4"),
    "long": "n" * 251 + ".mp4",
    "dash": "-rf.mp4",
    "pattern": "frame%03d.mp4",
    "glob": "[a-z]*?.mp4",
    "concat": "concat:a.mp4|b.mp4",
    "protocol": "http:--127.0.0.1:9-x.mp4",
    "spaces": "  .mp4 ",
    "dots": "...",
    "control": "a\x1b[31m\rb\x07.mp4",
    "none": "mp4",
    "right_to_left": "a\u202e4pm.exe",
    "comma": "a,b;c\td.mp4",
    "picture": "photo.jpg",
}

BUILT: Mapping[str, tuple[str, Callable[[], bytes], Allowed]] = {
    "empty": (".mp4", bytes, refused("empty_file")),
    "a_byte": (".mp4", lambda: b"\0", refused("not_a_video")),
    "zeros": (".mp4", lambda: bytes(100_000), refused("not_a_video")),
    "random": (".avi", lambda: np.random.default_rng(1).bytes(100_000), refused("not_a_video", "undecodable")),
    # Few frames
    **{
        f"no_frame{suffix}": (suffix, partial(_mux, suffix, partial(_no_packets, codec=codec, form=form)), NEVER)
        for suffix, codec, form in (
            (".mp4", "mpeg4", "yuv420p"),
            (".mkv", "mpeg4", "yuv420p"),
            (".avi", "mpeg4", "yuv420p"),
            (".webm", "libvpx", "yuv420p"),
        )
    },
    **{
        f"one_frame{suffix}": (suffix, _video(suffix, codec=codec, form=form, frames=1), WHOLE)
        for suffix, codec, form in (
            (".mp4", "libx264", "yuv420p"),
            (".mkv", "libx264", "yuv420p"),
            (".avi", "mpeg4", "yuv420p"),
            (".webm", "libvpx", "yuv420p"),
            (".gif", "gif", "rgb8"),
            (".mpg", "mpeg1video", "yuv420p"),
        )
    },
    # Sides
    **{
        f"{width}x{height}{suffix}": (
            suffix,
            _video(suffix, codec=codec, form=form, shape=(width, height), frames=3),
            WHOLE,
        )
        for suffix, codec, form in ((".mkv", "ffv1", "bgr0"), (".avi", "mjpeg", "yuvj444p"), (".gif", "gif", "rgb8"))
        for width, height in ((1, 1), (2, 300), (3, 5), (17, 33), (16_384, 2), (2, 16_384), (16_384, 64))
    },
    **{
        f"{width}x{height}.png": (
            ".png",
            lambda shape=(height, width, 3): cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes(),
            WHOLE,
        )
        for width, height in ((1, 1), (3, 5), (16_384, 1), (1, 16_384))
    },
    # Rates and times
    "fps_1000000.avi": (".avi", _video(".avi", rate=1_000_000, codec="mjpeg", form="yuvj420p"), WHOLE),
    "fps_1000.mp4": (".mp4", _video(".mp4", rate=1000), WHOLE),
    "fps_0.001.avi": (".avi", _video(".avi", rate=Fraction(1, 1000), codec="mpeg4"), WHOLE),
    "fps_0.001.mp4": (".mp4", _video(".mp4", rate=Fraction(1, 1000)), WHOLE),
    "fps_0.avi": (".avi", partial(_patch, "avi-mpeg4", [b"strh"], _fields(20, "<II", 1, 0)), ANY),
    "fps_0_of_0.avi": (".avi", partial(_patch, "avi-mpeg4", [b"strh"], _fields(20, "<II", 0, 0)), ANY),
    "fps_4294967295.avi": (".avi", partial(_patch, "avi-mpeg4", [b"strh"], _fields(20, "<II", 1, 2**32 - 1)), ANY),
    "fps_2e-10.avi": (".avi", partial(_patch, "avi-mpeg4", [b"strh"], _fields(20, "<II", 2**32 - 1, 1)), ANY),
    "frames_4294967295.avi": (".avi", partial(_patch, "avi-mpeg4", [b"strh"], _fields(32, "<I", 2**32 - 1)), ANY),
    "scale_0.mp4": (".mp4", partial(_patch, "mp4-h264", [b"mdhd"], _fields(12, ">I", 0)), ANY),
    "scale_1.mp4": (".mp4", partial(_patch, "mp4-h264", [b"mdhd"], _fields(12, ">I", 1)), ANY),
    "lasts_0.mp4": (".mp4", partial(_patch, "mp4-h264", [b"mdhd", b"mvhd"], _fields(16, ">I", 0)), ANY),
    "lasts_long.mp4": (".mp4", partial(_patch, "mp4-h264", [b"mdhd", b"mvhd"], _fields(16, ">I", 2**32 - 1)), ANY),
    "steps_long.mp4": (".mp4", partial(_patch, "mp4-h264", [b"stts"], _fields(12, ">I", 2**31 - 1)), ANY),
    "steps_0.mp4": (".mp4", partial(_patch, "mp4-h264", [b"stts"], _fields(12, ">I", 0)), ANY),
    "steps_back.mp4": (".mp4", partial(_patch, "mp4-h264", [b"stts"], _fields(12, ">i", -512)), ANY),
    "frames_4294967295.mp4": (".mp4", partial(_patch, "mp4-h264", [b"stts"], _fields(8, ">I", 2**32 - 1)), ANY),
    "sizes_4294967295.mp4": (".mp4", partial(_patch, "mp4-h264", [b"stsz"], _fields(8, ">I", 2**32 - 1)), ANY),
    "starts_late.mp4": (".mp4", partial(_patch, "mp4-h264", [b"elst"], _fields(12, ">i", 2**31 - 1)), ANY),
    "times_back.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_BLOCK], _block(lambda n: 1000 - 40 * n)), ANY),
    "times_negative.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_BLOCK], _block(lambda n: 40 * n - 30_000)), ANY),
    "times_equal.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_BLOCK], _block(lambda n: 7)), ANY),
    "times_jump.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_BLOCK], _block(lambda n: [0, 32_000][n % 2])), ANY),
    "times_huge.webm": (".webm", partial(_patch, "webm-vp8", [_CLUSTER], _fill(0x7F)), ANY),
    "times_huge.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_CLUSTER], _fill(0xFF)), ANY),
    "scale_0.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_SCALE], _fill(0)), ANY),
    "scale_huge.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_SCALE], _fill(0xFF)), ANY),
    "step_0.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_STEP], _fill(0)), ANY),
    "step_huge.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_STEP], _fill(0xFF)), ANY),
    "lasts_infinity.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_LASTS], _fields(0, ">Q", 0x7FF << 52)), ANY),
    "lasts_nan.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_LASTS], _fields(0, ">Q", 0x7FF8 << 48)), ANY),
    "lasts_negative.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_LASTS], _fields(0, ">d", -1e9)), ANY),
    "lasts_1e300.mkv": (".mkv", partial(_patch, "mkv-ffv1", [_LASTS], _fields(0, ">d", 1e300)), ANY),
    # Changing sizes
    "grows.avi": (".avi", partial(_mux, ".avi", partial(_change_size, codec="mjpeg", form="yuvj420p")), READABLE),
    "grows.mkv": (".mkv", partial(_mux, ".mkv", partial(_change_size, codec="ffv1", form="bgr0")), READABLE),
    "grows.webm": (".webm", partial(_mux, ".webm", partial(_change_size, codec="libvpx", form="yuv420p")), READABLE),
    "grows.mpg": (
        ".mpg",
        lambda: seed("mpg-mpeg1") + _video(".mpg", codec="mpeg1video", shape=(320, 240))() + seed("mpg-mpeg2"),
        READABLE,
    ),
    "grows.ts": (".ts", lambda: seed("ts-h264") + _video(".ts", shape=(320, 240))() + seed("ts-h264"), READABLE),
    # Pixels
    **{
        f"pixels_{form}.mkv": (".mkv", _video(".mkv", codec="ffv1", form=form), WHOLE)
        for form in ("gray", "gray16le", "yuv444p16le", "yuva420p", "bgra", "rgb48le", "yuv410p", "gbrp10le")
    },
    "ten_bits.mp4": (".mp4", _video(".mp4", form="yuv420p10le"), WHOLE),
    "full_range.mp4": (".mp4", _video(".mp4", form="yuvj420p"), WHOLE),
    "alpha.webm": (".webm", _video(".webm", codec="libvpx", form="yuva420p", options={"auto-alt-ref": "0"}), WHOLE),
    "alpha.mov": (".mov", _video(".mov", codec="qtrle", form="argb"), WHOLE),
    "alpha_png.mov": (".mov", _video(".mov", codec="png", form="rgba"), WHOLE),
    "interlaced.mpg": (".mpg", _video(".mpg", codec="mpeg2video", options={"flags": "+ilme+ildct"}), WHOLE),
    "interlaced.mp4": (".mp4", _video(".mp4", options={"flags": "+ilme+ildct"}), WHOLE),
    # Streams
    "two.mkv": (".mkv", partial(_mux, ".mkv", _two_streams), SEVERAL),
    "two.avi": (".avi", partial(_mux, ".avi", _two_streams), SEVERAL),
    "two.mp4": (".mp4", partial(_mux, ".mp4", _two_streams), SEVERAL),
    "cover.m4a": (".m4a", partial(_mux, ".mp4", _sound_with_cover), refused("no_video_stream")),
    "cover.mkv": (".mkv", partial(_mux, ".mkv", _sound_with_cover), ANY),
    "sound.m4a": (".m4a", partial(_mux, ".mp4", _silence), refused("no_video_stream")),
    "sound.mp4": (".mp4", partial(_mux, ".mp4", _silence), refused("no_video_stream")),
    "sound.mkv": (".mkv", partial(_mux, ".mkv", _silence), refused("no_video_stream")),
    # Text, and files that name other files
    **{
        f"{name}{suffix}": (suffix, lambda data=data: data, refused("not_a_video", "no_video_stream", "undecodable"))
        for name, (suffix, data) in _PLAYLISTS.items()
    },
    # Names
    **{f"named_{name}": (file, partial(seed, "mp4-h264"), WHOLE) for name, file in NAMES.items()},
}


# Cases


def damaged(name: str) -> Case:
    """Make the case of a name such as `mp4-h264/flip_bits/3`."""
    container, damage, _ = name.split("/")
    function, allowed = DAMAGES[damage]

    def make() -> bytes:
        return function(seed(container), np.random.default_rng(zlib.crc32(name.encode())))

    return Case(name, SEEDS[container][0], make, allowed)


def built(name: str) -> Case:
    """Make the case of a name such as `built/one_frame.mp4`."""
    return Case(name, *BUILT[name.removeprefix("built/")])


def case(name: str) -> Case:
    """Make any case by its name."""
    return built(name) if name.startswith("built/") else damaged(name)


def cases(number: int) -> list[Case]:
    """Make that many cases: the crafted ones, then each damage to each seed, shuffled, repeatedly."""
    pairs = sorted(
        ((seed, damage) for seed in SEEDS for damage in DAMAGES), key=lambda pair: zlib.crc32(repr(pair).encode())
    )
    names = (f"{seed}/{damage}/{turn}" for turn in count() for seed, damage in pairs)
    return [*map(built, (f"built/{name}" for name in BUILT)), *map(damaged, islice(names, max(0, number - len(BUILT))))]


if __name__ == "__main__":
    case(sys.argv[1]).write(Path(sys.argv[2]))
