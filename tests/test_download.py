"""Downloading models: slow, broken and malicious servers, interrupted downloads, full disks and locks."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

import published_models
from fervid.cli import app
from fervid.core.errors import ChecksumMismatch, DownloadFailed, ModelNotFound
from fervid.models import download as pulling
from fervid.models import registry
from fervid.models.download import download_model
from http_server import Request, Server, serving

LOOPBACK = ("http", "https")
DATA = np.random.default_rng(3).bytes(200_000)
NAMES = ["yunet", "hsemotion-b0"]  # the first has a size and SHA-256, the second a limit and git blob id


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.answer = lambda request: request.whole(DATA)
        yield server


@pytest.fixture(autouse=True)
def place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data folder, and a manifest whose optional models are `DATA` on the server."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    shipped = published_models.manifest(
        tmp_path / "shipped", dict.fromkeys(NAMES, DATA), url=f"{server.url}/model.onnx"
    )
    monkeypatch.setattr(registry, "models_dir", lambda: shipped)
    monkeypatch.setattr(pulling, "STALL_TIMEOUT_S", 5.0)
    registry.manifest.cache_clear()
    yield tmp_path / "data" / "fervid" / "models"
    registry.manifest.cache_clear()


def entry(name: str, **values: object) -> None:
    """Change an entry of the manifest."""
    path = registry.models_dir() / "manifest.json"
    content = json.loads(path.read_text())
    content["optional"][name] |= values
    path.write_text(json.dumps(content))
    registry.manifest.cache_clear()


def files(place: Path) -> dict[str, bytes]:
    """Files in the data folder."""
    return {path.name: path.read_bytes() for path in place.glob("*")} if place.exists() else {}


def left(place: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(place).items() if name != ".lock"}


def fails(words: str, name: str = "yunet", error: type[Exception] = DownloadFailed) -> None:
    with pytest.raises(error, match=words) as caught:
        download_model(name, "none", LOOPBACK)
    assert "\n" not in str(caught.value)


# All is well


@pytest.mark.parametrize("name", NAMES)
def test_model_is_saved_in_the_data_folder(server: Server, place: Path, name: str) -> None:
    assert download_model(name, "none", LOOPBACK)
    assert left(place) == {f"{name}.onnx": DATA}
    ((path, headers),) = server.asked
    assert path == "/model.onnx"
    assert headers["user-agent"].startswith("fervid/")
    assert not headers.keys() & {"range", "authorization", "cookie", "proxy-authorization"}


@pytest.mark.parametrize("name", NAMES)
def test_installed_model_is_not_downloaded_again(server: Server, place: Path, name: str) -> None:
    assert [download_model(name, "none", LOOPBACK) for _ in range(2)] == [True, False]
    assert len(server.asked) == 1
    assert left(place) == {f"{name}.onnx": DATA}


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA + b"x", bytes(len(DATA))])
def test_a_wrong_file_is_replaced(place: Path, wrong: bytes) -> None:
    place.mkdir(parents=True)
    (place / "yunet.onnx").write_bytes(wrong)
    assert download_model("yunet", "none", LOOPBACK)
    assert left(place) == {"yunet.onnx": DATA}


@pytest.mark.parametrize(
    ("name", "words"), [("emotion8", "is shipped with fervid"), ("no-such", "no model is named 'no-such'")]
)
def test_only_optional_models_can_be_pulled(server: Server, name: str, words: str) -> None:
    fails(words, name, ModelNotFound)
    assert server.asked == []


def without_length(request: Request) -> None:
    request.head()
    request.wfile.write(DATA)


def chunked(request: Request) -> None:
    request.head(Transfer_Encoding="chunked")
    for start in range(0, len(DATA), 7000):
        part = DATA[start : start + 7000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
    request.wfile.write(b"0\r\n\r\n")


def slow(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    for start in range(0, len(DATA), 40_000):
        request.server.over.wait(0.02)
        request.wfile.write(DATA[start : start + 40_000])


@pytest.mark.parametrize("answer", [without_length, chunked, slow])
@pytest.mark.parametrize("name", NAMES)
def test_missing_length_chunks_and_slow_servers(
    server: Server, place: Path, name: str, answer: Callable[[Request], None]
) -> None:
    server.answer = answer
    assert download_model(name, "none", LOOPBACK)
    assert left(place) == {f"{name}.onnx": DATA}


# It comes too slowly, or not at all


def silent(request: Request) -> None:
    request.server.over.wait(10)


def stalls(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    request.wfile.write(DATA[:1000])
    request.server.over.wait(10)


def drips(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    for byte in DATA:
        if request.server.over.wait(0.01):
            break
        request.wfile.write(bytes([byte]))


def drips_headers(request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not request.server.over.wait(0.01):
        request.wfile.write(b"X-Y: z\r\n")


def drips_a_line(request: Request) -> None:
    while not request.server.over.wait(0.01):
        request.wfile.write(b"H")


@pytest.mark.parametrize("answer", [silent, stalls, drips, drips_headers, drips_a_line])
def test_stalled_download_fails(
    server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], None]
) -> None:
    server.answer = answer
    monkeypatch.setattr(pulling, "STALL_TIMEOUT_S", 0.3)
    fails("cannot be downloaded.*retry, which continues the download")
    assert "yunet.onnx" not in left(place)


def test_refused_connection_names_the_proxy_variable(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        entry("yunet", url=f"http://127.0.0.1:{taken.getsockname()[1]}/model.onnx")
        fails("cannot be downloaded.*refused.*HTTPS_PROXY sets a proxy")
    assert left(place) == {}


def no_http(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("answer", [no_http, lambda request: None], ids=["other", "hangs up"])
def test_invalid_response_names_the_url(server: Server, place: Path, answer: Callable[[Request], None]) -> None:
    server.answer = answer
    fails(rf"{server.url}/model\.onnx cannot be downloaded")
    assert left(place) == {}


@pytest.mark.parametrize("status", [403, 404, 407, 429, 500, 503])
def test_http_errors_are_reported(server: Server, place: Path, status: int) -> None:
    server.answer = lambda request: request.head(status, Content_Length=0)
    fails(f"the server returned {status}")
    assert left(place) == {}


# It lies


def length(said: int) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        request.head(Content_Length=said)
        request.wfile.write(DATA)

    return answer


def test_length_above_the_limit_is_refused(server: Server, place: Path) -> None:
    for name, said in (("yunet", len(DATA) + 1), ("hsemotion-b0", 2**40)):
        server.answer = length(said)
        fails(f"sent another file than was published: it has {said:,} bytes, more than", name, ChecksumMismatch)
    assert left(place) == {}


def endless(request: Request) -> None:
    request.head()
    while not request.server.over.is_set():
        request.wfile.write(bytes(100_000))


def endless_chunk(request: Request) -> None:
    request.head(Transfer_Encoding="chunked")
    request.wfile.write(b"%x\r\n" % 2**60)
    while not request.server.over.is_set():
        request.wfile.write(bytes(100_000))


@pytest.mark.parametrize("answer", [endless, endless_chunk])
@pytest.mark.parametrize("name", NAMES)
def test_endless_response_is_stopped(server: Server, place: Path, name: str, answer: Callable[[Request], None]) -> None:
    entry("hsemotion-b0", limit=300_000)
    server.answer = answer
    fails(r"it has more than (200|300),000 bytes", name, ChecksumMismatch)
    assert left(place) == {}


@pytest.mark.parametrize("name", NAMES)
def test_short_response_is_refused(server: Server, place: Path, name: str) -> None:
    server.answer = length(1000)
    if name == "yunet":  # its size is in the manifest
        fails("ended after 1,000 of 200,000 bytes", name)
    else:
        fails("sent another file.*its git blob id is", name, ChecksumMismatch)
    assert f"{name}.onnx" not in left(place)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "wrong", [b"", b"<html>Sign in to the network of the hotel</html>", bytes(len(DATA)), DATA[1:]]
)
def test_wrong_content_is_deleted(server: Server, place: Path, name: str, wrong: bytes) -> None:
    server.answer = lambda request: request.whole(wrong) if wrong else request.head(Content_Length=0)
    complete = name == "hsemotion-b0" or len(wrong) == len(DATA)
    fails("sent another file" if complete else "ended after", name, ChecksumMismatch if complete else DownloadFailed)
    assert f"{name}.onnx" not in left(place)
    server.answer = lambda request: request.whole(DATA)
    assert download_model(name, "none", LOOPBACK)
    assert left(place) == {f"{name}.onnx": DATA}


# It breaks off


def breaks_off(after: int) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        request.head(Content_Length=len(DATA))
        request.wfile.write(DATA[:after])

    return answer


@pytest.mark.parametrize("after", [1, 65_536, 123_456, len(DATA) - 1])
@pytest.mark.parametrize("name", NAMES)
def test_interrupted_download_is_continued(server: Server, place: Path, name: str, after: int) -> None:
    server.answer = breaks_off(after)
    fails("the connection was lost", name)
    assert left(place) == {f"{name}.onnx.partial": DATA[:after]}
    server.answer = lambda request: request.whole(DATA)
    assert download_model(name, "none", LOOPBACK)
    assert [headers.get("range") for _, headers in server.asked] == [None, f"bytes={after}-"]
    assert left(place) == {f"{name}.onnx": DATA}


def broken_chunks(request: Request) -> None:
    request.head(Transfer_Encoding="chunked")
    request.wfile.write(b"%x\r\n%s" % (len(DATA), DATA[:50_000]))


def test_interrupted_chunked_download_is_continued(server: Server, place: Path) -> None:
    server.answer = broken_chunks
    fails("the connection was lost", "hsemotion-b0")
    server.answer = lambda request: request.whole(DATA)
    assert download_model("hsemotion-b0", "none", LOOPBACK)
    assert server.asked[-1][1]["range"] == "bytes=50000-"


def partial(place: Path, name: str, data: bytes) -> None:
    place.mkdir(parents=True)
    (place / f"{name}.onnx.partial").write_bytes(data)


def test_complete_partial_file_needs_no_network(server: Server, place: Path) -> None:
    partial(place, "yunet", DATA)
    assert download_model("yunet", "none", LOOPBACK)
    assert server.asked == []
    assert left(place) == {"yunet.onnx": DATA}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begun", [b"x" * 5000, DATA + b"x", bytes(len(DATA)), bytes(40_000_000)], ids=len)
def test_download_that_cannot_be_continued_restarts(server: Server, place: Path, name: str, begun: bytes) -> None:
    partial(place, name, begun)
    assert download_model(name, "none", LOOPBACK)
    assert server.asked[-1][1].get("range") is None
    assert len(server.asked) <= 2
    assert left(place) == {f"{name}.onnx": DATA}


def ignores_ranges(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    request.wfile.write(DATA)


def another_part(request: Request) -> None:
    if "Range" in request.headers:
        request.head(206, Content_Length=100, Content_Range="bytes 7-106/200000")
        request.wfile.write(DATA[7:107])
    else:
        request.whole(DATA)


def no_part_named(request: Request) -> None:
    if "Range" in request.headers:
        request.head(206, Content_Length=100)
        request.wfile.write(DATA[:100])
    else:
        request.whole(DATA)


@pytest.mark.parametrize(("answer", "asked"), [(ignores_ranges, 1), (another_part, 2), (no_part_named, 2)])
def test_server_without_ranges_sends_the_complete_file(
    server: Server, place: Path, answer: Callable[[Request], None], asked: int
) -> None:
    partial(place, "yunet", DATA[:9000])
    server.answer = answer
    assert download_model("yunet", "none", LOOPBACK)
    assert len(server.asked) == asked
    assert left(place) == {"yunet.onnx": DATA}


def test_download_restarts_only_once(server: Server, place: Path) -> None:
    partial(place, "yunet", b"x" * 5000)
    server.answer = lambda request: request.whole(bytes(len(DATA)))
    fails("its SHA-256 is", error=ChecksumMismatch)
    assert len(server.asked) == 2
    assert left(place) == {}


# It leads elsewhere


def leads(to: str, status: int = 302) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        if request.path == "/model.onnx":
            request.head(status, Location=to, Content_Length=0)
        else:
            request.whole(DATA)

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_get_no_other_headers(server: Server, place: Path, status: int) -> None:
    partial(place, "yunet", DATA[:9000])
    server.answer = leads("/elsewhere", status)
    assert download_model("yunet", "none", LOOPBACK)
    (_, first), (path, second) = server.asked
    assert path == "/elsewhere"
    assert second["range"] == first["range"] == "bytes=9000-"
    assert second.keys() <= {"host", "user-agent", "accept-encoding", "range", "connection"}


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://127.0.0.1/model.onnx",
        "data:text/plain,model",
        "gopher://127.0.0.1/",
        "//",
        "https:///",
        "http://[",
        "\x01",
    ],
)
def test_redirects_to_anything_but_https_are_refused(server: Server, place: Path, to: str) -> None:
    server.answer = leads(to)
    fails("cannot be downloaded")
    assert left(place) == {}
    assert {path for path, _ in server.asked} <= {"/model.onnx", "/%01"}
    assert len(server.asked) <= pulling.MAX_REDIRECTS + 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_only_https_is_allowed_by_default(server: Server, status: int) -> None:
    with pytest.raises(DownloadFailed, match=r"it redirects to http://.*, and only https is allowed"):
        download_model("yunet", "none")
    with pytest.raises(URLError, match=r"it redirects to http://.*/elsewhere, and only https is allowed"):
        pulling._Redirects(("https",)).redirect_request(
            pulling._request("https://a/", {}, ("https",)), None, status, "", {}, f"{server.url}/elsewhere"
        )
    assert server.asked == []


def test_every_manifest_url_is_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    registry.manifest.cache_clear()
    for name, published in registry.manifest("optional").items():
        assert published["url"].startswith("https://"), name
        assert published["source"].split()[2].rstrip(",") in published["url"]  # pinned to a commit
        assert len(published.get("sha256", "")) == 64 or len(published.get("git_blob", "")) == 40


def loops(request: Request) -> None:
    request.head(302, Location="/model.onnx", Content_Length=0)


def wanders(request: Request) -> None:
    request.head(302, Location=f"/{len(request.server.asked)}", Content_Length=0)


@pytest.mark.parametrize("answer", [loops, wanders])
def test_endless_redirects_are_stopped(server: Server, place: Path, answer: Callable[[Request], None]) -> None:
    server.answer = answer
    fails("cannot be downloaded .*(loop|redirect)")
    assert len(server.asked) <= pulling.MAX_REDIRECTS + 1
    assert left(place) == {}


def heavy(request: Request) -> None:
    if request.path != "/model.onnx":
        request.whole(DATA)
        return
    request.head(302, Location="/elsewhere")
    while not request.server.over.is_set():
        request.wfile.write(bytes(100_000))


def test_body_of_a_redirect_is_not_read(server: Server, place: Path) -> None:
    server.answer = heavy
    assert download_model("yunet", "none", LOOPBACK)
    assert left(place) == {"yunet.onnx": DATA}


# Proxies


def test_proxy_of_the_environment_is_used(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("yunet", url="http://models.example/model.onnx")
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://user:secret@"))
    assert download_model("yunet", "none", LOOPBACK)
    assert [path for path, _ in server.asked] == ["http://models.example/model.onnx"]


def test_proxy_password_is_sent_to_the_proxy_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("yunet", url="http://models.example/model.onnx")
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://user:secret@"))
    with serving() as direct:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.answer = lambda request: request.head(302, Location=f"{direct.url}/x", Content_Length=0)
        direct.answer = lambda request: request.whole(DATA)
        assert download_model("yunet", "none", LOOPBACK)
    assert "proxy-authorization" in server.asked[0][1]
    assert "proxy-authorization" not in direct.asked[0][1]


def test_https_uses_the_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("yunet", url="https://models.example/model.onnx")
    monkeypatch.setenv("https_proxy", server.url)
    server.answer = lambda request: request.head(403, Content_Length=0)
    with pytest.raises(DownloadFailed, match=r"403"):
        download_model("yunet", "none")
    assert [path for path, _ in server.asked] == ["models.example:443"]


def test_server_without_a_certificate_is_refused(server: Server) -> None:
    entry("yunet", url=f"{server.url.replace('http', 'https')}/model.onnx")
    with pytest.raises(DownloadFailed, match="SSL"):
        download_model("yunet", "none")


# The disk


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """Limit the size of files."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_size_limit_is_reported_and_download_continues(place: Path) -> None:
    with file_size(100_000):
        fails(r"cannot write .*yunet\.onnx \(File too large\); free disk space")
    assert left(place) == {"yunet.onnx.partial": DATA[:100_000]}
    assert download_model("yunet", "none", LOOPBACK)
    assert left(place) == {"yunet.onnx": DATA}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_no_incomplete_file(place: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(pulling.os, step, full)
        fails("No space left on device.*free disk space or fix permissions, then retry")
    assert left(place).keys() == {"yunet.onnx.partial"}
    assert download_model("yunet", "none", LOOPBACK)
    assert left(place) == {"yunet.onnx": DATA}


def test_unwritable_folder_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("a file")
    fails(r"cannot write .*yunet\.onnx \((Not a directory|File exists)\)")
    place.unlink()

    def denied(path: Path, *_: object, **__: object) -> io.BytesIO:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", denied)
    fails(r"cannot write .*yunet\.onnx \(Permission denied\)")


# Neighbours


def test_concurrent_downloads_are_excluded(server: Server, place: Path) -> None:
    reached, go = threading.Event(), threading.Event()

    def waits(request: Request) -> None:
        reached.set()
        go.wait(10)
        request.whole(DATA)

    server.answer = waits
    done: list[bool] = []
    first = threading.Thread(target=lambda: done.append(download_model("yunet", "none", LOOPBACK)))
    first.start()
    assert reached.wait(10)
    fails("another process downloads a model to .*wait until it is done")
    go.set()
    first.join()
    assert done == [True]
    assert not download_model("yunet", "none", LOOPBACK)
    assert left(place) == {"yunet.onnx": DATA}


def test_file_downloaded_meanwhile_is_used(server: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def brings(*_: object) -> None:
        (place / "yunet.onnx").write_bytes(DATA)

    monkeypatch.setattr(FileLock, "acquire", brings)
    assert not download_model("yunet", "none", LOOPBACK)
    assert server.asked == []


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app.app, ["models", "pull", *arguments])


@pytest.fixture
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow http for the command."""
    monkeypatch.setattr(pulling, "download_model", lambda name, show: download_model(name, show, LOOPBACK))


@pytest.mark.usefixtures("permitted")
def test_command_prints_the_paths(place: Path) -> None:
    paths = "".join(f"{place / name}.onnx\n" for name in NAMES)
    result = run(*NAMES)
    assert (result.exit_code, result.stdout) == (0, paths)
    assert "yunet: downloaded" in result.stderr
    result = run(*NAMES, "--progress", "json")
    assert (result.exit_code, result.stdout) == (0, paths)
    assert "yunet: already installed" in result.stderr


@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize("show", ["bar", "json"])
def test_progress_is_shown_on_stderr(place: Path, show: str) -> None:
    partial(place, "yunet", DATA[:50_000])
    result = run("yunet", "--progress", show)
    assert result.exit_code == 0
    if show == "json":
        events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
        assert events[-1] == {"event": "progress", "done": 200_000, "total": 200_000}
    else:
        assert "200k/200k" in result.stderr


@pytest.mark.usefixtures("permitted")
def test_failure_is_one_line_and_exits_with_4(server: Server) -> None:
    assert run("emotion8").exit_code == run("no-such").exit_code == 4
    server.answer = lambda request: request.head(404, Content_Length=0)
    result = run("yunet")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith("fervid: http://127.0.0.1:")
    assert result.stderr.count("\n") == 1
    assert run().exit_code == 2


def test_command_never_allows_http() -> None:
    result = run("yunet")
    assert (result.exit_code, "only https is allowed" in result.stderr) == (4, True)
