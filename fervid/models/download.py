"""Download optional models into the user's data folder; the only module that connects to the internet.

The server is not trusted: only https is followed, at most as many bytes are read as the manifest allows, and a file is
written only after its digest was verified.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Collection, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fervid import __version__
from fervid.core.atomic_io import as_output_error, atomic_write
from fervid.core.errors import ChecksumMismatch, DownloadFailed, ModelNotFound
from fervid.core.progress import Progress, track_bytes
from fervid.models import registry
from fervid.models.file_digest import digest_mismatch

TIMEOUT_S = 30.0
"""Maximum seconds to wait for the server."""
_CHUNK_BYTES = 2**16


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
        DownloadFailed: It cannot be downloaded.
        ChecksumMismatch: The server sent another file.
        OutputError: It cannot be written, or another process downloads it.
    """
    entry = registry.manifest_entry(name)
    if "url" not in entry:
        raise ModelNotFound(f"{name} is shipped with fervid; there is nothing to download")
    path = registry.model_path(entry)
    with as_output_error(path):
        if path.is_file() and not digest_mismatch(path.read_bytes(), entry):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, force=True) as file:
        file.write(_fetch(entry, show, schemes))
    return True


def _fetch(entry: Mapping[str, Any], show: Progress, schemes: Collection[str]) -> bytes:
    """Return the verified content of a model.

    Raises:
        DownloadFailed: It cannot be downloaded completely.
        ChecksumMismatch: It is too large, or not the published file.
    """
    url, max_bytes = entry["url"], int(entry.get("bytes") or entry["max_bytes"])
    try:
        data = _download(url, max_bytes, show, schemes)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = str(error.reason if type(error) is URLError else error) or type(error).__name__
        raise DownloadFailed(
            f"{url} cannot be downloaded ({reason.splitlines()[0]}); check the connection (HTTPS_PROXY sets a proxy)"
            " and retry"
        ) from error
    too_large = f"it has more than {max_bytes:,} bytes" if len(data) > max_bytes else ""
    if difference := too_large or digest_mismatch(data, entry):
        raise ChecksumMismatch(
            f"{url} sent another file than was published: {difference}; a proxy may have replaced it with its own page"
        )
    return data


def _download(url: str, max_bytes: int, show: Progress, schemes: Collection[str]) -> bytes:
    """Return the content of a URL, or more than `max_bytes` of it if it is too large."""
    opener = urllib.request.build_opener(_Redirects(schemes))
    data = bytearray()
    with opener.open(_request(url, schemes), timeout=TIMEOUT_S) as response:
        total = response.length
        for chunk in track_bytes(iter(lambda: response.read1(_CHUNK_BYTES), b""), total, show):
            data += chunk
            if len(data) > max_bytes:
                return bytes(data)
        if response.length:
            raise ConnectionError("the connection was lost")
    return bytes(data)


def _request(url: str, schemes: Collection[str]) -> urllib.request.Request:
    if urlsplit(url).scheme not in schemes:
        raise URLError(f"{url} is not allowed, only {', '.join(schemes)} is")
    return urllib.request.Request(url, headers={"User-Agent": f"fervid/{__version__}"})  # noqa: S310  checked above


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects to allowed schemes only, and passes on no header."""

    max_redirections = 5

    def __init__(self, schemes: Collection[str]) -> None:
        self._schemes = schemes

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib would read the page, which may be endless, and leave it open if the address is malformed
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return _request(newurl, self._schemes)
