"""Requests to a Hugging Face endpoint: headers that mean something, and every failure in one line."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from email.message import Message
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import DownloadError
from edgespec.hub import web
from edgespec.hub.web import (
    Endpoint,
    TransientDownloadError,
    content_length,
    content_range,
    endpoint,
    offline,
    open_url,
)
from tests.model_server import Hub, serving


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith(("HF_", "EDGESPEC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def _headers(**values: str) -> Message:
    headers = Message()
    for name, value in values.items():
        headers[name.replace("_", "-")] = value
    return headers


@given(st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_a_range_that_is_one(start: int, end: int, total: int) -> None:
    assert content_range(_headers(Content_Range=f"bytes {start}-{end}/{total}")) == (start, total)


@pytest.mark.parametrize(
    "text",
    ["", "bytes", "bytes */10", "bytes 5-9/*", "bytes -5/10", "items 5-9/10", "bytes a-9/10", "bytes 5-9", "5-9/10",
     "bytes 5-9/1e3", "bytes ٥-9/10", f"bytes 5-9/{10**16}", "bytes 5.0-9/10"],
)  # fmt: skip
def test_a_range_that_is_none(text: str) -> None:
    assert content_range(_headers(Content_Range=text)) is None
    assert content_range(_headers()) is None


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("12", 12), ("", None), ("-1", None), ("+1", None), ("1.5", None), ("²", None), ("9" * 16, None)],
)
def test_a_length(text: str, length: int | None) -> None:
    assert content_length(_headers(Content_Length=text)) == length


@pytest.mark.parametrize(
    ("base", "url", "own"),
    [
        ("https://hub.example", "https://hub.example/a", True),
        ("https://hub.example", "https://hub.example:443/a", True),
        ("http://hub.example:80", "http://HUB.example/a", True),
        ("https://hub.example", "http://hub.example/a", False),
        ("https://hub.example", "https://hub.example:8443/a", False),
        ("https://hub.example", "https://hub.example.evil/a", False),
        ("https://hub.example", "https://evil/hub.example", False),
        ("https://hub.example", "https://hub.example@evil/a", False),
        ("https://hub.example", "https://hub.example:port/a", False),
    ],
)
def test_whose_address_it_is(base: str, url: str, own: bool) -> None:
    assert Endpoint(base).is_host_of(url) is own


def test_the_address_of_a_file_is_quoted() -> None:
    assert Endpoint("https://h").url_of("org/na me", "ä#?.gguf") == (
        "https://h/org/na%20me/resolve/main/%C3%A4%23%3F.gguf"
    )


@pytest.mark.parametrize("value", ["1", "on", " Yes ", "TRUE"])
@pytest.mark.parametrize("variable", ["EDGESPEC_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_network_is_forbidden(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert offline() == variable
    with pytest.raises(DownloadError, match=f"{variable} is set, so nothing is downloaded; unset it"):
        endpoint()


@pytest.mark.parametrize("value", ["", "0", "off", "no", "2"])
def test_the_network_is_not_forbidden(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EDGESPEC_OFFLINE", value)
    assert offline() is None


def test_the_endpoint_by_default_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint() == Endpoint("https://huggingface.co", None)
    monkeypatch.setenv("HF_ENDPOINT", " http://mirror.example:8080/ ")
    monkeypatch.setenv("HF_TOKEN", " secret\n")
    assert endpoint() == Endpoint("http://mirror.example:8080", "secret")


@pytest.mark.parametrize("base", ["mirror.example", "ftp://mirror", "file:///etc", "https://", "http:"])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", base)
    with pytest.raises(DownloadError, match=r"it must be a URL like https://huggingface\.co"):
        endpoint()


@pytest.mark.parametrize("token", ["töken", "to\nken", "to\x00ken".replace("\0", "\x01")])
def test_a_token_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match="HF_TOKEN holds characters that no token has") as refused:
        endpoint()
    assert token not in str(refused.value)


@pytest.mark.parametrize(("content", "token"), [(b" kept \n", "kept"), (b"\xff", None), (b"two\nlines", None)])
def test_the_token_that_hugging_faces_tools_keep(tmp_path: Path, content: bytes, token: str | None) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_bytes(content)
    assert endpoint().token == token


def test_an_empty_file_keeps_no_token(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_bytes(b"\n")
    assert endpoint().token is None


def test_a_kept_token_can_be_elsewhere_or_unwanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("elsewhere", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert endpoint().token == "elsewhere"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert endpoint().token is None


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as hub:
        yield hub


def _got(hub: Hub, token: str | None = None, base: str | None = None, **headers: str) -> tuple[int, bytes]:
    host = Endpoint(base or hub.url, token)
    with open_url(host.url_of("org/name", "a.gguf"), host, headers, 5.0) as answer:
        return answer.status, b"".join(answer.pieces)


def test_an_answer_has_the_bytes_and_what_the_endpoint_says_of_them(hub: Hub) -> None:
    host = Endpoint(hub.url)
    with open_url(host.url_of("org/name", "a.gguf"), host, {}, 5.0) as answer:
        assert b"".join(answer.pieces) == hub.content
        assert (answer.status, answer.sha256, answer.size) == (200, hub.true_sha256, len(hub.content))
    assert _got(hub, Range="bytes=10000-") == (206, hub.content[10000:])


def test_the_token_goes_along_once_it_is_asked_for_there(hub: Hub) -> None:
    _got(hub)
    _got(hub, "secret")
    assert [headers.get("Authorization") for _, headers in hub.requests] == [None, "Bearer secret"]
    assert {headers["User-Agent"] for _, headers in hub.requests} == {"edgespec"}


def test_a_redirect_leaves_the_token_behind_and_keeps_what_the_endpoint_said(hub: Hub) -> None:
    with serving(Hub(sha256="e" * 64)) as storage:
        hub.redirect = f"{storage.url}/blob"
        host = Endpoint(hub.url, "secret")
        with open_url(host.url_of("org/name", "a.gguf"), host, {}, 5.0) as answer:
            assert b"".join(answer.pieces) == storage.content
            assert answer.sha256 == hub.true_sha256, "a storage server has no say in that"
    assert [headers.get("Authorization") for _, headers in storage.requests] == [None]


def test_a_redirect_that_leads_away_is_not_followed(hub: Hub) -> None:
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a"):
        hub.redirect = target
        with pytest.raises(DownloadError):
            _got(hub)


@pytest.mark.parametrize(
    ("before", "after", "followed"),
    [
        ("https://h/a", "https://other/b", True),
        ("http://h/a", "https://h/a", True),
        ("http://h/a", "http://h/b", True),
        ("https://h/a", "http://h/a", False),
        ("https://h/a", "ftp://h/a", False),
    ],
)
def test_a_redirect_never_leaves_https(before: str, after: str, followed: bool) -> None:
    redirects = web._Redirects(Endpoint("https://h", "secret"))
    arguments = Request(before), BytesIO(), 302, "Found", Message(), after
    if followed:
        request = redirects.redirect_request(*arguments)
        assert request is not None
        assert request.full_url == after
        assert request.has_header("Authorization") == after.startswith("https://h/")
        return
    with pytest.raises(DownloadError, match="away from https; this is not followed"):
        redirects.redirect_request(*arguments)


@pytest.mark.parametrize(
    ("status", "again", "says"),
    [
        (401, False, "the server refuses .401.; if the model asks for consent"),
        (403, False, "the server refuses .403."),
        (404, False, "there is no such file .404."),
        (410, False, "the server answers 410"),
        (408, True, "the server answers 408"),
        (429, True, "the server answers 429"),
        (500, True, "the server answers 500"),
        (503, True, "the server answers 503"),
    ],
)
def test_what_a_server_answers_and_whether_to_ask_again(hub: Hub, status: int, again: bool, says: str) -> None:
    hub.status = status
    with pytest.raises(DownloadError, match=says) as refused:
        _got(hub)
    assert isinstance(refused.value, TransientDownloadError) is again
    if isinstance(refused.value, TransientDownloadError):
        assert refused.value.code == status


def test_of_a_connection_that_ends_early_comes_what_came(hub: Hub) -> None:
    """Whoever knows the length counts: `download` does."""
    hub.cut = 100
    assert _got(hub) == (200, hub.content[:100])


def test_nobody_there() -> None:
    with pytest.raises(TransientDownloadError, match=r"127.0.0.1:9: the connection failed"):
        _got(Hub(url="http://127.0.0.1:9"))


def _certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = "self-signed"
    return error


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (TimeoutError, TransientDownloadError, "h: nothing came for 3 seconds"),
        (lambda: URLError(TimeoutError()), TransientDownloadError, "h: nothing came for 3 seconds"),
        (lambda: URLError(_certificate()), DownloadError, "h: its certificate is not trusted .self-signed."),
        (lambda: ValueError("bad header"), DownloadError, "the server's answer makes no sense .bad header."),
        (lambda: OSError("two\n lines"), TransientDownloadError, "the connection failed .two lines."),
        (OSError, TransientDownloadError, "the connection failed .OSError."),
        (lambda: HTTPError("u", 404, "m", Message(), None), DownloadError, "there is no such file"),
    ],
)
def test_what_a_connection_raises_is_said_in_our_words(
    raised: Callable[[], Exception], kind: type[DownloadError], says: str
) -> None:
    with pytest.raises(DownloadError, match=says) as refused, web._as_download_errors("http://h/a", 3.0):
        raise raised()
    assert type(refused.value) is kind
    assert "\n" not in str(refused.value)


def test_what_is_no_failure_passes() -> None:
    with pytest.raises(KeyboardInterrupt), web._as_download_errors("http://h/a", 3.0):
        raise KeyboardInterrupt
