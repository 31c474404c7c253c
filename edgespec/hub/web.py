"""Requests to a Hugging Face endpoint, with each failure as a one-line error.

It uses the standard library alone; proxies are those of the environment.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from edgespec.errors import DownloadError
from edgespec.hub.catalogue import SHA256
from edgespec.hub.external_caches import hugging_face_home
from edgespec.system.files import expanded_path

_READ_BYTES = 1 << 18
"""The most bytes of one read."""
_STALL_BYTES = 1 << 10
"""Bytes: a connection that sends fewer within `timeout` seconds counts as stalled."""


_MAX_LIST_BYTES = 1 << 24
"""The most bytes of a repository's list of files."""


class TransientDownloadError(DownloadError):
    """A failure that a retry may solve; `code` is the HTTP status, or 0 where there was no response."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Hugging Face server or a mirror of it, and the token, which is sent to this host alone."""

    base: str
    token: str | None = None

    def url_of(self, repository: str, file: str) -> str:
        """The URL of a file's newest version."""
        return f"{self.base}/{quote(repository)}/resolve/main/{quote(file)}"

    def is_host_of(self, url: str) -> bool:
        """Whether `url` is on this server."""
        return _origin(url) == _origin(self.base)


@dataclass(frozen=True, slots=True)
class Response:
    """A response: status and headers, sha256 and size by the endpoint's headers, and the bytes."""

    status: int
    headers: Message
    sha256: str | None
    size: int | None
    pieces: Iterator[bytes]


def offline() -> str | None:
    """The name of the environment variable that forbids the network, or None."""
    for name in ("EDGESPEC_OFFLINE", "HF_HUB_OFFLINE"):
        if _is_set(name):
            return name
    return None


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def endpoint() -> Endpoint:
    """The endpoint by HF_ENDPOINT, with the token by HF_TOKEN or `hf auth login`.

    Raises DownloadError where these are malformed, or the network is forbidden.
    """
    if variable := offline():
        raise DownloadError(f"{variable} is set, so nothing is downloaded; unset it to pull models")
    base = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    token = os.environ.get("HF_TOKEN", "").strip() or _stored_token()
    if urlsplit(base).scheme not in {"http", "https"} or not urlsplit(base).hostname:
        raise DownloadError(f"HF_ENDPOINT is {base!r}: it must be a URL like https://huggingface.co")
    if token is not None and not (token.isascii() and token.isprintable()):
        raise DownloadError("HF_TOKEN holds characters that no token has: set it again")
    return Endpoint(base, token)


def _stored_token() -> str | None:
    """The token that `hf auth login` stored, or None."""
    if _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None
    path = os.environ.get("HF_TOKEN_PATH") or hugging_face_home() / "token"
    try:
        token = expanded_path(str(path)).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return token if token and token.isprintable() else None


@contextmanager
def open_url(url: str, host: Endpoint, headers: Mapping[str, str], timeout: float) -> Iterator[Response]:
    """The response to GET `url`. Raises TransientDownloadError where a retry may help, else DownloadError."""
    request = Request(url, headers={"User-Agent": "edgespec", "Accept-Encoding": "identity", **headers})
    redirects = _Redirects(host)
    redirects.authorize(request)
    with _as_download_errors(url, timeout):
        response = build_opener(redirects).open(request, timeout=timeout)
    with response:
        redirects.read_headers(response.url, response.headers)
        yield Response(
            response.status, response.headers, redirects.sha256, redirects.size, _pieces(response, url, timeout)
        )


def repository_files(repository: str, host: Endpoint, timeout: float = 60.0) -> list[str]:
    """The paths of all files of a repository's newest version. Raises DownloadError."""
    url, data = f"{host.base}/api/models/{quote(repository)}", b""
    with open_url(url, host, {}, timeout) as response:
        for piece in response.pieces:
            data += piece
            if len(data) > _MAX_LIST_BYTES:
                raise DownloadError(f"{url}: its list of files is too long: name a file")
    try:
        return [str(file["rfilename"]) for file in json.loads(data)["siblings"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(f"{url}: the server's answer is no list of files: name a file") from error


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to storage servers without the token, and keeps the endpoint's sha256 and size of the file."""

    def __init__(self, host: Endpoint) -> None:
        self._host = host
        self.sha256: str | None = None
        self.size: int | None = None

    def authorize(self, request: Request) -> None:
        """Add the token to a request to the endpoint; redirects do not carry it."""
        if self._host.token is not None and self._host.is_host_of(request.full_url):
            request.add_unredirected_header("Authorization", f"Bearer {self._host.token}")

    def read_headers(self, url: str, headers: Message) -> None:
        """Read X-Linked-Etag, the sha256 of a large file, and X-Linked-Size, from the endpoint's responses alone.

        A plain ETag is no sha256, though it may look like one: storage servers use hashes of their own.
        """
        if not self._host.is_host_of(url):
            return
        etag = (headers.get("X-Linked-Etag") or "").strip('"').lower()
        size = headers.get("X-Linked-Size") or ""
        self.sha256 = etag if SHA256.fullmatch(etag) else self.sha256
        self.size = int(size) if _is_count(size) else self.size

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in {"https", urlsplit(req.full_url).scheme}:
            raise DownloadError(f"{req.full_url} leads to {newurl[:200]!r}, away from https; this is not followed")
        self.read_headers(req.full_url, headers)
        request = Request(newurl, headers=dict(req.headers), origin_req_host=req.origin_req_host, unverifiable=True)
        self.authorize(request)
        return request

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        """Close the connection where a redirect is not followed."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # Python 3.10 knows no 308


@contextmanager
def _as_download_errors(url: str, timeout: float) -> Iterator[None]:
    """Turn what opening a connection or reading from it raises into a DownloadError."""
    try:
        yield
    except HTTPError as error:
        raise _status_error(url, error) from error
    except (TimeoutError, http.client.HTTPException, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise TransientDownloadError(f"{_host_of(url)}: nothing came for {timeout:g} seconds") from error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"{_host_of(url)}: its certificate is not trusted ({reason.verify_message})") from error
        if isinstance(reason, ValueError) and not isinstance(reason, OSError):
            raise DownloadError(f"{url}: the server's answer makes no sense ({reason})") from error
        reason_text = " ".join(str(reason).split()) or type(reason).__name__
        raise TransientDownloadError(f"{_host_of(url)}: the connection failed ({reason_text[:200]})") from error


def _status_error(url: str, error: HTTPError) -> DownloadError:
    code = error.code
    error.close()
    if code in {401, 403}:
        return DownloadError(
            f"{url}: the server refuses ({code}); if the model asks for consent, give it on its page and set HF_TOKEN; "
            "a token that has expired is refused, too (without that of hf auth login: HF_HUB_DISABLE_IMPLICIT_TOKEN=1)"
        )
    if code == 404:
        return DownloadError(f"{url}: there is no such file (404)")
    if code in {408, 416, 425, 429} or code >= 500:
        return TransientDownloadError(f"{url}: the server answers {code}", code)
    return DownloadError(f"{url}: the server answers {code}")


def _pieces(response: http.client.HTTPResponse, url: str, timeout: float) -> Iterator[bytes]:
    since, received = time.monotonic(), 0
    while True:
        with _as_download_errors(url, timeout):
            piece = response.read1(_READ_BYTES)
        if not piece:
            return
        yield piece
        received += len(piece)
        if time.monotonic() - since > timeout:
            if received < _STALL_BYTES:
                raise TransientDownloadError(f"{_host_of(url)}: only {received} bytes came in {timeout:g} seconds")
            since, received = time.monotonic(), 0


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def content_range(headers: Message) -> tuple[int, int] | None:
    """The first byte of a partial response and the total size, by `Content-Range: bytes 5-9/10`; None without it."""
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    return (int(start), int(total)) if unit == "bytes" and _is_count(start) and _is_count(total) else None


def content_length(headers: Message) -> int | None:
    """The bytes of the response by its Content-Length, or None."""
    text = headers.get("Content-Length", "")
    return int(text) if _is_count(text) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname, port or {"https": 443, "http": 80}.get(parts.scheme)


def _host_of(url: str) -> str:
    return urlsplit(url).netloc
