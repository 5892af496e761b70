"""Download optional models into the user's data folder; the only module that connects to the internet.

The server is not trusted. At most as many bytes are read as the manifest allows, a stalled download is given up, only
https is followed, and a file gets its final name only after its digest was verified. The part that arrived before an
error is kept beside it, and the next download continues it.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.request
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fervid import __version__
from fervid.core.atomic_io import fsync_dir, hold_lock
from fervid.core.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, OutputError
from fervid.core.progress import Progress, track_bytes
from fervid.models import registry

STALL_TIMEOUT_S = 30.0
"""Maximum seconds until the server responds, and for each `MIN_BYTES_PER_TIMEOUT` bytes of the file."""
MIN_BYTES_PER_TIMEOUT = 30_000
MAX_REDIRECTS = 5
_CHUNK_BYTES = 2**16
_QueueItem = tuple[int, int | None] | bytes | Exception | None


def download_model(name: str, show: Progress = "auto", schemes: Collection[str] = ("https",)) -> bool:
    """Download an optional model, unless it is installed.

    The proxies of the environment are used (`HTTPS_PROXY`, `NO_PROXY`).

    Args:
        name: Name of the model in `fervid models list`.
        show: How to show progress.
        schemes: Allowed URL schemes.

    Returns:
        Whether the model was downloaded, and not installed already.

    Raises:
        ModelNotFound: No optional model has that name.
        DownloadFailed: It cannot be downloaded or written, or another process downloads a model.
        ChecksumMismatch: The server sent another file.
    """
    entry = registry.manifest_entry(name)
    if "url" not in entry:
        raise ModelNotFound(f"{name} is shipped with fervid; there is nothing to download")
    path = registry.model_path(entry)
    try:
        if _is_verified(path, entry):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with _download_lock(path.parent):
            if _is_verified(path, entry):  # another process has downloaded it meanwhile
                return False
            _fetch(entry, path, show, schemes)
    except OSError as error:
        raise DownloadFailed(
            f"cannot write {path} ({error.strerror or error}); free disk space or fix permissions, then retry"
        ) from error
    return True


@contextmanager
def _download_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from downloading into a folder for the duration of the block."""
    with ExitStack() as resources:
        try:
            resources.enter_context(hold_lock(folder / ".lock", folder))
        except OutputError as error:
            raise DownloadFailed(f"another process downloads a model to {folder}; wait until it is done") from error
        yield


def _is_verified(path: Path, entry: Mapping[str, Any]) -> bool:
    """Return whether a file exists and is the one in the manifest."""
    try:
        if path.stat().st_size > _max_bytes(entry):
            return False
        return not registry.digest_mismatch(path.read_bytes(), entry)
    except FileNotFoundError:
        return False


def _max_bytes(entry: Mapping[str, Any]) -> int:
    return int(entry.get("bytes") or entry["limit"])


def _fetch(entry: Mapping[str, Any], path: Path, show: Progress, schemes: Collection[str]) -> None:
    """Continue an interrupted download; if the result is not the right file, start again."""
    partial, reason = path.with_name(path.name + ".partial"), ""
    n_present = partial.stat().st_size if partial.exists() else 0
    for start in (n_present, 0) if n_present else (0,):
        reason = _download_to(entry, partial, start, show, schemes) if start < _max_bytes(entry) else ""
        if not reason and _is_verified(partial, entry):
            os.replace(partial, path)
            fsync_dir(path.parent)
            return
        reason = reason or registry.digest_mismatch(partial.read_bytes(), entry)
        partial.unlink(missing_ok=True)
    raise ChecksumMismatch(
        f"{entry['url']} sent another file than was published: {reason}; a proxy may have replaced it with its own page"
    )


def _download_to(entry: Mapping[str, Any], partial: Path, start: int, show: Progress, schemes: Collection[str]) -> str:
    """Download a file from a byte on, and write it to `partial`.

    Returns:
        Why the file is wrong; "" if it may be right.

    Raises:
        DownloadFailed: It cannot be downloaded completely.
        OSError: It cannot be written.
    """
    url, limit = entry["url"], _max_bytes(entry)
    with closing(_iter_with_deadline(url, start, limit, schemes)) as chunks:
        first_byte, length = next(chunks)
        if first_byte not in (0, start):
            return f"it starts at byte {first_byte:,} instead of {start:,}"
        if length is not None and first_byte + length > limit:
            return f"it has {first_byte + length:,} bytes, more than {limit:,}"
        count = first_byte
        with partial.open("r+b" if first_byte else "wb") as file:
            file.seek(first_byte)
            total = length if length is None else first_byte + length
            for chunk in track_bytes((chunk for chunk in chunks if isinstance(chunk, bytes)), first_byte, total, show):
                count += len(chunk)
                if count > limit:
                    return f"it has more than {limit:,} bytes"
                file.write(chunk)
            if count < entry.get("bytes", 0):
                raise DownloadFailed(
                    f"{url} ended after {count:,} of {entry['bytes']:,} bytes; retry to continue the download"
                )
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    return ""


def _iter_with_deadline(url: str, start: int, limit: int, schemes: Collection[str]) -> Generator[Any]:
    """Yield the first byte's position and the length (None if unknown) of a response, then its content in chunks.

    Another thread waits for the network, because urllib has no timeout for resolving names and for slow headers.

    Raises:
        DownloadFailed: The response is missing, too slow or incomplete.
    """
    items: SimpleQueue[_QueueItem] = SimpleQueue()
    stop = Event()
    Thread(target=_request_thread, args=(url, start, limit, schemes, items, stop), daemon=True).start()
    try:
        yield _next(url, items, time.monotonic() + STALL_TIMEOUT_S)
        deadline, count = time.monotonic() + STALL_TIMEOUT_S, 0
        while isinstance(chunk := _next(url, items, deadline), bytes):
            yield chunk
            count += len(chunk)
            if count >= MIN_BYTES_PER_TIMEOUT:
                deadline, count = time.monotonic() + STALL_TIMEOUT_S, 0
    finally:
        stop.set()


def _next(url: str, items: SimpleQueue[_QueueItem], deadline: float) -> _QueueItem:
    try:
        item = items.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        item = TimeoutError(f"less than {MIN_BYTES_PER_TIMEOUT // 1000} kB in {STALL_TIMEOUT_S:g} s")
    if isinstance(item, Exception):
        reason = str(item.reason if isinstance(item, URLError) else item) or type(item).__name__
        raise DownloadFailed(
            f"{url} cannot be downloaded ({reason.splitlines()[0]}); check the connection (HTTPS_PROXY sets a proxy)"
            " and retry, which continues the download"
        ) from item
    return item


def _request_thread(
    url: str, start: int, limit: int, schemes: Collection[str], items: SimpleQueue[_QueueItem], stop: Event
) -> None:
    """Put the response into a queue: position and length, chunks of content, and finally None or an error."""
    headers = {"User-Agent": f"fervid/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with _opener(schemes).open(_request(url, headers, schemes), timeout=STALL_TIMEOUT_S) as response:
            items.put((_content_range_start(response), response.length))
            count = 0
            while not stop.is_set() and count <= limit and (chunk := response.read1(_CHUNK_BYTES)):
                items.put(chunk)
                count += len(chunk)
            if response.length and count <= limit:
                raise http.client.IncompleteRead(b"", response.length)
            items.put(None)
    except HTTPError as error:
        error.close()
        past_end = error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start
        items.put((-1, None) if past_end else URLError(f"the server returned {error.code} {error.reason}"))
    except http.client.IncompleteRead:
        items.put(ConnectionError("the connection was lost"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        items.put(error)


def _content_range_start(response: http.client.HTTPResponse) -> int:
    """Return the position of a response's first byte; -1 if the header is invalid."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    start = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdecimal() and int(start) else -1


def _request(url: str, headers: Mapping[str, str], schemes: Collection[str]) -> urllib.request.Request:
    """Make a request with these headers only, so that a redirect passes on nothing else."""
    if urlsplit(url).scheme not in schemes:
        raise URLError(f"it redirects to {url}, and only {', '.join(schemes)} is allowed")
    return urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the scheme is checked above


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows at most `MAX_REDIRECTS` redirects, to allowed schemes only."""

    max_redirections = MAX_REDIRECTS

    def __init__(self, schemes: Collection[str]) -> None:
        self._schemes = schemes

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # otherwise urllib would read the whole page, which may be endless
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        headers = {name: value for name, value in req.header_items() if name.lower() in ("user-agent", "range")}
        return _request(newurl, {**headers, "Accept-Encoding": "identity"}, self._schemes)


def _opener(schemes: Collection[str]) -> urllib.request.OpenerDirector:
    """Make an opener for http and https only: without files, FTP, cookies and passwords."""
    opener = urllib.request.OpenerDirector()
    handlers = [
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(schemes),
        *([urllib.request.HTTPHandler()] if "http" in schemes else []),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener
