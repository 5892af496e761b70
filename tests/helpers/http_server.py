"""Run a local HTTP server whose responses each test defines, and which records its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """A request, with short methods to respond."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Let the test respond."""
        self.close_connection = True
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        with suppress(ConnectionError):
            self.server.answer(self)

    do_CONNECT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def head(self, status: int = 200, **headers: object) -> None:
        """Send status and headers; an underscore in a name stands for a hyphen."""
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self, data: bytes) -> None:
        """Send the file."""
        self.head(Content_Length=len(data))
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """A server on a free port of the loopback interface."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        """Start listening."""
        super().__init__(("127.0.0.1", 0), Request)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Answer = lambda request: request.head(404, Content_Length=0)
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the end of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
