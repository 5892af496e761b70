"""Downloading models: slow, broken and malicious servers, full disks, proxies and locks."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from typer.testing import CliRunner

import published_models
from fervid.cli import app
from fervid.core.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, OutputError
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
    return {path.name: path.read_bytes() for path in place.glob("*")}


def fails(words: str, name: str = "yunet", error: type[Exception] = DownloadFailed) -> None:
    with pytest.raises(error, match=words) as caught:
        download_model(name, "none", LOOPBACK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_model_is_saved_in_data_folder(server: Server, place: Path, name: str) -> None:
    assert [download_model(name, "none", LOOPBACK) for _ in range(2)] == [True, False]
    assert files(place) == {f"{name}.onnx": DATA}
    ((path, headers),) = server.asked
    assert path == "/model.onnx"
    assert headers["user-agent"].startswith("fervid/")
    assert not headers.keys() & {"authorization", "cookie", "proxy-authorization"}


@pytest.mark.parametrize("wrong", [b"", DATA[:-1], DATA + b"x", bytes(len(DATA))], ids=len)
def test_wrong_file_is_replaced(place: Path, wrong: bytes) -> None:
    place.mkdir(parents=True)
    (place / "yunet.onnx").write_bytes(wrong)
    assert download_model("yunet", "none", LOOPBACK)
    assert files(place) == {"yunet.onnx": DATA}


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
    request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA))


@pytest.mark.parametrize("answer", [without_length, chunked])
def test_length_may_be_missing(server: Server, place: Path, answer: Callable[[Request], None]) -> None:
    server.answer = answer
    assert download_model("yunet", "none", LOOPBACK)
    assert files(place) == {"yunet.onnx": DATA}


# The connection fails


def silent(request: Request) -> None:
    request.server.over.wait(10)


def stalls(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    request.wfile.write(DATA[:1000])
    request.server.over.wait(10)


@pytest.mark.parametrize("answer", [silent, stalls])
def test_stalled_download_fails(
    server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], None]
) -> None:
    server.answer = answer
    monkeypatch.setattr(pulling, "TIMEOUT_S", 0.3)
    fails("cannot be downloaded.*timed out")
    assert files(place) == {}


def test_refused_connection_names_proxy_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        entry("yunet", url=f"http://127.0.0.1:{taken.getsockname()[1]}/model.onnx")
        fails("cannot be downloaded.*refused.*HTTPS_PROXY sets a proxy")


def breaks_off(request: Request) -> None:
    request.head(Content_Length=len(DATA))
    request.wfile.write(DATA[:123_456])


def breaks_off_in_a_chunk(request: Request) -> None:
    request.head(Transfer_Encoding="chunked")
    request.wfile.write(b"%x\r\n%s" % (len(DATA), DATA[:50_000]))


def no_http(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("answer", [breaks_off, breaks_off_in_a_chunk, no_http, lambda request: None])
def test_broken_connection_can_be_retried(server: Server, place: Path, answer: Callable[[Request], None]) -> None:
    server.answer = answer
    fails(rf"{server.url}/model\.onnx cannot be downloaded.*retry")
    assert files(place) == {}
    server.answer = lambda request: request.whole(DATA)
    assert download_model("yunet", "none", LOOPBACK)


@pytest.mark.parametrize("status", [404, 407, 503])
def test_http_errors_are_reported(server: Server, status: int) -> None:
    server.answer = lambda request: request.head(status, Content_Length=0)
    fails(f"HTTP Error {status}")


# The server sends another file


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
    entry("hsemotion-b0", max_bytes=300_000)
    server.answer = answer
    fails(r"it has more than (200|300),000 bytes", name, ChecksumMismatch)
    assert files(place) == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [b"", b"<html>Sign in to the network</html>", bytes(len(DATA)), DATA[1:]], ids=len)
def test_wrong_content_is_not_saved(server: Server, place: Path, name: str, wrong: bytes) -> None:
    server.answer = lambda request: request.whole(wrong)
    fails("sent another file than was published: its (SHA-256|git blob id) is", name, ChecksumMismatch)
    assert files(place) == {}


# Redirects


def leads(to: str, status: int = 302) -> Callable[[Request], None]:
    def answer(request: Request) -> None:
        if request.path == "/model.onnx":
            request.head(status, Location=to, Content_Length=0)
        else:
            request.whole(DATA)

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, place: Path, status: int) -> None:
    server.answer = leads("/elsewhere", status)
    assert download_model("yunet", "none", LOOPBACK)
    assert [path for path, _ in server.asked] == ["/model.onnx", "/elsewhere"]
    assert server.asked[1][1].keys() <= {"host", "user-agent", "accept-encoding", "connection"}


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/", "data:,model", "//", "https:///", "http://["]
)
def test_redirects_to_anything_but_https_are_refused(server: Server, place: Path, to: str) -> None:
    server.answer = leads(to)
    fails("cannot be downloaded")
    assert files(place) == {}
    assert {path for path, _ in server.asked} == {"/model.onnx"}
    gc.collect()  # warns of a connection that was left open


def test_only_https_is_allowed_by_default(server: Server) -> None:
    with pytest.raises(DownloadFailed, match=r"http://.* is not allowed, only https is"):
        download_model("yunet", "none")
    with pytest.raises(URLError, match="http://a/ is not allowed, only https is"):
        pulling._Redirects(("https",)).redirect_request(None, io.BytesIO(), 302, "", {}, "http://a/")
    assert server.asked == []


def test_every_manifest_url_is_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    registry.manifest.cache_clear()
    for name, published in registry.manifest("optional").items():
        assert published["url"].startswith("https://"), name
        assert published["source"].split()[2].rstrip(",") in published["url"]  # pinned to a commit
        assert len(published.get("sha256", "")) == 64 or len(published.get("git_blob", "")) == 40


def test_endless_redirects_are_stopped(server: Server) -> None:
    server.answer = lambda request: request.head(302, Location=f"/{len(server.asked)}", Content_Length=0)
    fails("cannot be downloaded .*redirect")
    assert len(server.asked) <= 6


def test_body_of_redirect_is_not_read(server: Server, place: Path) -> None:
    def heavy(request: Request) -> None:
        if request.path != "/model.onnx":
            request.whole(DATA)
            return
        request.head(302, Location="/elsewhere")
        while not request.server.over.is_set():
            request.wfile.write(bytes(100_000))

    server.answer = heavy
    assert download_model("yunet", "none", LOOPBACK)
    assert files(place) == {"yunet.onnx": DATA}


# Proxies


def test_proxy_password_is_sent_to_proxy_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("yunet", url="http://models.example/model.onnx")
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://user:secret@"))
    with serving() as direct:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.answer = lambda request: request.head(302, Location=f"{direct.url}/x", Content_Length=0)
        direct.answer = lambda request: request.whole(DATA)
        assert download_model("yunet", "none", LOOPBACK)
    assert server.asked[0][0] == "http://models.example/model.onnx"
    assert "proxy-authorization" in server.asked[0][1]
    assert "proxy-authorization" not in direct.asked[0][1]


def test_https_uses_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("yunet", url="https://models.example/model.onnx")
    monkeypatch.setenv("https_proxy", server.url)
    server.answer = lambda request: request.head(403, Content_Length=0)
    fails("403")
    assert [path for path, _ in server.asked] == ["models.example:443"]


def test_server_without_certificate_is_refused(server: Server) -> None:
    entry("yunet", url=f"{server.url.replace('http', 'https')}/model.onnx")
    fails("SSL")


# The disk


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_no_incomplete_model(place: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "fsync" else Path, step, full)
        fails(r"yunet\.onnx cannot be written \(No space left on device\)", error=OutputError)
    assert not (place / "yunet.onnx").exists()
    assert download_model("yunet", "none", LOOPBACK)
    assert files(place) == {"yunet.onnx": DATA}


def test_unwritable_folder_is_named(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_text("a file")
    fails(r"yunet\.onnx cannot be written \((Not a directory|File exists)\)", error=OutputError)


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
    fails("is being written by another run; wait until it ends", error=OutputError)
    go.set()
    first.join()
    assert done == [True]
    assert files(place) == {"yunet.onnx": DATA}


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app.app, ["models", "pull", *arguments])


@pytest.fixture
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow http for the command."""
    monkeypatch.setattr(pulling, "download_model", lambda name, show: download_model(name, show, LOOPBACK))


@pytest.mark.usefixtures("permitted")
def test_command_prints_paths(place: Path) -> None:
    paths = "".join(f"{place / name}.onnx\n" for name in NAMES)
    for state in ("downloaded", "already installed"):
        result = run(*NAMES)
        assert (result.exit_code, result.stdout) == (0, paths)
        assert f"yunet: {state}" in result.stderr


@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize("show", ["bar", "json"])
def test_progress_is_shown_on_stderr(show: str) -> None:
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


def test_command_never_allows_http() -> None:
    result = run("yunet")
    assert (result.exit_code, "only https is" in result.stderr) == (4, True)
