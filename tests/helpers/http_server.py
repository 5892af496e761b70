"""A local server with configurable answers that records its requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, with short ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Let the test answer."""
        self.close_connection = True
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        with suppress(ConnectionError):
            self.server.answer(self)

    do_CONNECT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def head(self, status: int = 200, **headers: object) -> None:
        """Status and headers; an underscore in a name stands for a hyphen."""
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def whole(self, data: bytes) -> None:
        """The file, as a good server gives it."""
        self.head(Content_Length=len(data))
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Answers on a free port of the loopback."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        """Begin to listen."""
        super().__init__(("127.0.0.1", 0), Request)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Answer = lambda request: request.head(404, Content_Length=0)
        self.over = threading.Event()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as the block lasts."""
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
