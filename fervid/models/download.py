"""Name of an optional model -> its file in the user's data folder: the only place that reaches the network.

Whoever answers is not trusted. At most as many bytes are read as the manifest allows, they have to keep coming, only
https is followed, and a file gets its name when its digest is that of the manifest, and never before. What has arrived
when a connection breaks is kept beside it and continued by the next pull.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.request
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fervid import __version__
from fervid.core.atomic_io import fsync_dir, lock
from fervid.core.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, OutputError
from fervid.core.progress import Progress, track_bytes
from fervid.models import registry

STALL_TIMEOUT_S = 30.0  # seconds from one `MIN_BYTES_PER_TIMEOUT` bytes to the next, and to an answer at all
MIN_BYTES_PER_TIMEOUT = 30_000
MAX_REDIRECTS = 5
_CHUNK = 2**16
_QueueItem = tuple[int, int | None] | bytes | Exception | None


def download_model(name: str, show: Progress = "auto", schemes: Collection[str] = ("https",)) -> bool:
    """Fetch an optional model, unless it is there.

    Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`).

    Args:
        name: As `fervid models list` shows it.
        show: How to tell how much has arrived.
        schemes: What URLs may begin with.

    Returns:
        Whether it had to be fetched.

    Raises:
        ModelNotFound: No optional model has that name.
        DownloadFailed: It cannot be fetched or written, or another pull is at it.
        ModelUnverified: What arrived is another file.
    """
    entry = registry.manifest_entry(name)
    if "url" not in entry:
        raise ModelNotFound(f"{name} is shipped with fervid, there is nothing to pull")
    path = registry.model_path(entry)
    try:
        if _is_verified(path, entry):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with _download_lock(path.parent):
            if _is_verified(path, entry):  # by another pull, meanwhile
                return False
            _fetch(entry, path, show, schemes)
    except OSError as error:
        raise DownloadFailed(
            f"{path} cannot be written ({error.strerror or error}); make room or give leave, then pull again"
        ) from error
    return True


@contextmanager
def _download_lock(folder: Path) -> Iterator[None]:
    """Keep other pulls out of a folder for as long as the block lasts."""
    with (folder / ".lock").open("wb") as file:
        try:
            lock(file.fileno(), folder)
        except OutputError as error:
            raise DownloadFailed(f"another pull writes to {folder}; wait until it is done") from error
        yield


def _is_verified(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a file is there and the one that the manifest names."""
    try:
        if path.stat().st_size > _max_bytes(entry):
            return False
        return not registry.digest_mismatch(path.read_bytes(), entry)
    except FileNotFoundError:
        return False


def _max_bytes(entry: Mapping[str, Any]) -> int:
    return int(entry.get("bytes") or entry["limit"])


def _fetch(entry: Mapping[str, Any], path: Path, show: Progress, schemes: Collection[str]) -> None:
    """Continue what an earlier pull has left; if that comes to nothing good, begin at the beginning."""
    partial, reason = path.with_name(path.name + ".partial"), ""
    left = partial.stat().st_size if partial.exists() else 0
    for start in (left, 0) if left else (0,):
        reason = _download_to(entry, partial, start, show, schemes) if start < _max_bytes(entry) else ""
        if not reason and _is_verified(partial, entry):
            os.replace(partial, path)
            fsync_dir(path.parent)
            return
        reason = reason or registry.digest_mismatch(partial.read_bytes(), entry)
        partial.unlink(missing_ok=True)
    raise ChecksumMismatch(
        f"{entry['url']} gave another file than was published: {reason}; a proxy may have put its own page in its place"
    )


def _download_to(entry: Mapping[str, Any], partial: Path, start: int, show: Progress, schemes: Collection[str]) -> str:
    """Write what the server gives from that byte on.

    Returns:
        Why it is useless; nothing if it may be right.

    Raises:
        DownloadFailed: It does not come, or not whole.
        OSError: It cannot be written.
    """
    url, limit = entry["url"], _max_bytes(entry)
    with closing(_iter_with_deadline(url, start, limit, schemes)) as parts:
        begun, length = next(parts)
        if begun not in (0, start):
            return f"it begins at byte {begun:,} instead of {start:,}"
        if length is not None and begun + length > limit:
            return f"it has {begun + length:,} bytes, more than {limit:,}"
        count = begun
        with partial.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            total = length if length is None else begun + length
            for part in track_bytes((part for part in parts if isinstance(part, bytes)), begun, total, show):
                count += len(part)
                if count > limit:
                    return f"it has more than {limit:,} bytes"
                file.write(part)
            if count < entry.get("bytes", 0):
                raise DownloadFailed(
                    f"{url} broke off after {count:,} bytes of {entry['bytes']:,}; pull again to go on"
                )
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    return ""


def _iter_with_deadline(url: str, start: int, limit: int, schemes: Collection[str]) -> Generator[Any]:
    """At first where the answer begins and how long it is, if that is said, then its bytes.

    Another thread waits for the network, because names that are not resolved and headers that drip know no time-out.

    Raises:
        DownloadFailed: Nothing comes, too slowly, or it breaks off.
    """
    said: SimpleQueue[_QueueItem] = SimpleQueue()
    enough = Event()
    Thread(target=_request_thread, args=(url, start, limit, schemes, said, enough), daemon=True).start()
    try:
        yield _next(url, said, time.monotonic() + STALL_TIMEOUT_S)
        deadline, count = time.monotonic() + STALL_TIMEOUT_S, 0
        while isinstance(part := _next(url, said, deadline), bytes):
            yield part
            count += len(part)
            if count >= MIN_BYTES_PER_TIMEOUT:
                deadline, count = time.monotonic() + STALL_TIMEOUT_S, 0
    finally:
        enough.set()


def _next(url: str, said: SimpleQueue[_QueueItem], deadline: float) -> _QueueItem:
    try:
        found = said.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        found = TimeoutError(f"less than {MIN_BYTES_PER_TIMEOUT // 1000} kB in {STALL_TIMEOUT_S:g} s")
    if isinstance(found, Exception):
        reason = str(found.reason if isinstance(found, URLError) else found) or type(found).__name__
        raise DownloadFailed(
            f"{url} cannot be fetched ({reason.splitlines()[0]}); see to the connection (HTTPS_PROXY names a proxy) and"
            " pull again: what has arrived is kept"
        ) from found
    return found


def _request_thread(
    url: str, start: int, limit: int, schemes: Collection[str], said: SimpleQueue[_QueueItem], enough: Event
) -> None:
    """Say what the server says: where it begins and how long it is, its bytes, and None or what went wrong."""
    headers = {"User-Agent": f"fervid/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with _opener(schemes).open(_request(url, headers, schemes), timeout=STALL_TIMEOUT_S) as response:
            said.put((_content_range_start(response), response.length))
            count = 0
            while not enough.is_set() and count <= limit and (part := response.read1(_CHUNK)):
                said.put(part)
                count += len(part)
            if response.length and count <= limit:
                raise http.client.IncompleteRead(b"", response.length)
            said.put(None)
    except HTTPError as error:
        error.close()
        past = error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start
        said.put((-1, None) if past else URLError(f"the server says {error.code} {error.reason}"))
    except http.client.IncompleteRead:
        said.put(ConnectionError("it broke off"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        said.put(error)


def _content_range_start(response: http.client.HTTPResponse) -> int:
    """The first byte of an answer; -1 if it does not say."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    begun = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(begun) if begun.isdecimal() and int(begun) else -1


def _request(url: str, headers: Mapping[str, str], schemes: Collection[str]) -> urllib.request.Request:
    """What is asked for, with these headers alone: nothing that was meant for one server goes to another."""
    if urlsplit(url).scheme not in schemes:
        raise URLError(f"it leads to {url}, and only {', '.join(schemes)} is followed")
    return urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the scheme is looked at above


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects to the schemes that are allowed."""

    max_redirections = MAX_REDIRECTS

    def __init__(self, schemes: Collection[str]) -> None:
        self._schemes = schemes

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # or a page without an end would be read to its end
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        kept = {name: value for name, value in req.header_items() if name.lower() in ("user-agent", "range")}
        return _request(newurl, {**kept, "Accept-Encoding": "identity"}, self._schemes)


def _opener(schemes: Collection[str]) -> urllib.request.OpenerDirector:
    """Knows nothing but what is needed: no files, no FTP, no cookies, no passwords."""
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
