"""A Hugging Face of one file on loopback, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What it serves and how; `requests` are the headers of those it got, by path."""

    content: bytes = bytes(range(256)) * 40
    url: str = ""
    sha256: str | None = None
    """What it says of the file, where not the truth; "" for nothing."""
    size: int | None = None
    status: int = 200
    cut: int | None = None
    """End every connection after so many bytes."""
    stall: bool = False
    """Fall silent where it would cut."""
    drip: float = 0.0
    """Seconds between bytes."""
    corrupt: bool = False
    length: int | None = None
    """The Content-Length, where not the truth."""
    ranges: bool = True
    lying_range: bool = False
    redirect: str | None = None
    etag: str = '"v1"'
    headers: dict[str, str] = field(default_factory=dict)
    files: Sequence[str] = ()
    """The paths that it lists of every repository."""
    listing: str | None = None
    """The list's text, where not what it should be."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    served: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def true_sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append((self.path, dict(self.headers)))
        if hub.status != 200:
            self.send_error(hub.status)
            return
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in hub.files]
            body = (hub.listing or json.dumps({"siblings": siblings})).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        if hub.redirect is not None and "/resolve/" in self.path:
            self.send_response(302)
            self._tell()
            self.send_header("Location", hub.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send_file()

    def _tell(self) -> None:
        if self.hub.sha256 != "":
            self.send_header("X-Linked-Etag", f'"{self.hub.sha256 or self.hub.true_sha256}"')
            self.send_header("X-Linked-Size", str(self.hub.size or len(self.hub.content)))

    def _send_file(self) -> None:
        hub = self.hub
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and hub.ranges and self.headers.get("If-Range", hub.etag) == hub.etag else 0
        if start >= len(hub.content):
            self.send_error(416)
            return
        body = hub.content[start:]
        if hub.corrupt:
            body = bytes(255 - byte for byte in body)
        self.send_response(206 if start else 200)
        self._tell()
        if start:
            reported_start = start + 1 if hub.lying_range else start
            self.send_header("Content-Range", f"bytes {reported_start}-{len(hub.content) - 1}/{len(hub.content)}")
        self.send_header("Content-Length", str(len(body) if hub.length is None else hub.length))
        self.send_header("ETag", hub.etag)
        for name, value in hub.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked is gone
            self._send(body)

    def _send(self, body: bytes) -> None:
        hub = self.hub
        sent = body if hub.cut is None else body[: hub.cut]
        for piece in [sent[n : n + 1] for n in range(len(sent))] if hub.drip else [sent]:
            hub.served += len(piece)  # before whoever asked can go on
            self.wfile.write(piece)
            if hub.drip and hub.over.wait(hub.drip):
                return
        if hub.stall:
            self.wfile.flush()
            hub.over.wait(10)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url`."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.over.set()
            server.shutdown()
            thread.join()
