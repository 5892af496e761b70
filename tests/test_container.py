"""Errors for files that cannot be opened as a video."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

import clips
from fervid.core.errors import InputError, InputNotFound, InputUnreadable, Undecodable, UnsupportedFormat
from fervid.media.container import open_file
from fervid.media.file_format import is_encrypted
from fervid.media.video import read_frames


def refused(path: str | Path) -> InputError:
    with pytest.raises(InputError) as caught:
        list(read_frames(path))
    assert not isinstance(path, Path) or str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page"),
        (b"\xef\xbb\xbf\n <!-- saved -->\n<html lang='en'>", "is an HTML page"),
        (b"<HEAD><TITLE>404 Not Found</TITLE></HEAD>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"Salted__\x01\x02\x03\x04\x05\x06\x07\x08" + bytes(range(256)), "is encrypted; decrypt it"),
        (b"-----BEGIN PGP MESSAGE-----\n\nhQEMA\n", "is encrypted; decrypt it"),
        (b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n", "playlist"),
        (b"just text about <html>\n", "text"),
    ],
)
def test_unsupported_content_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    error = refused(path)
    assert isinstance(error, UnsupportedFormat)
    assert words in error.message
    assert ("playlist" in error.message) == (words in ("playlist", "text"))


@pytest.mark.parametrize("flags", ["write_colr", "faststart", "frag_keyframe+empty_moov"])
def test_encrypted_video(flags: str, tmp_path: Path) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0" * 31 + "1", "encryption_kid": "0" * 32}
    path = clips.write(tmp_path / "clip.mp4", clips.scenery(5), muxer={**key, "movflags": flags})
    error = refused(path)
    assert isinstance(error, Undecodable)
    assert "is encrypted (DRM)" in error.message
    plain = clips.write(tmp_path / "plain.mp4", clips.scenery(5), muxer={"movflags": flags})
    assert len(list(read_frames(plain))) > 0


def test_many_boxes_are_fast(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 1_000_000)
    assert "is encrypted" not in refused(path).message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host/a.mp4", "https://host/a.mp4 is a URL, and only local files are read"),
        ("rtsp://camera/1", "rtsp://camera/1 is a URL"),
        ("s3://bucket/a.mp4", "--engine ray"),
        ("file:///no/such.mp4", "file:///no/such.mp4 is a URL; name the file by its path"),
    ],
)
def test_url_is_named_in_error(url: str, words: str) -> None:
    error = refused(url)
    assert isinstance(error, InputNotFound)
    assert words in error.message


@pytest.mark.parametrize("place", ["/dev/fd/987", "/proc/self/fd/987"])
def test_process_substitution_is_a_pipe(place: str) -> None:
    error = refused(place)
    assert isinstance(error, InputUnreadable)
    assert f"{place} is a pipe" in error.message


def test_dangling_link_names_target(tmp_path: Path) -> None:
    link = tmp_path / "clip.mp4"
    link.symlink_to("../annex/SHA256-1.mp4")
    error = refused(link)
    assert isinstance(error, InputNotFound)
    assert "is a link to ../annex/SHA256-1.mp4, which does not exist" in error.message


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="is a folder; name the files in it"):
        open_file(tmp_path)
    assert os.listdir(tmp_path) == []


def test_box_beyond_the_end_is_no_encryption() -> None:
    box = b"\0\0\0\x01free" + (2**63 + 8).to_bytes(8, "big")
    assert not is_encrypted(io.BytesIO(b"\0\0\0\x10ftypisom\0\0\0\0" + box + bytes(64)))
