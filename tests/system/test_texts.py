"""Text files and standard input as people have them: byte order marks, other encodings, other line ends, silence."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.system import texts
from edgespec.system.texts import (
    STANDARD_INPUT,
    counted,
    decoded,
    input_is_piped,
    read_input,
    read_standard_input,
    read_text,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\0"), max_size=30)


@given(_TEXT)
def test_a_byte_order_mark_is_no_part_of_a_text(text: str) -> None:
    assert decoded(text.encode(), "it") == decoded(codecs.BOM_UTF8 + text.encode(), "it") == text


@given(_TEXT.map(lambda text: f"ab{text}"), st.sampled_from(["UTF-16", "UTF-16LE", "UTF-16BE", "UTF-32"]))
def test_another_encoding_of_unicode_is_named_with_a_remedy(text: str, encoding: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^it is {encoding} text: .*iconv -f {encoding} -t UTF-8"):
        decoded(text.encode(encoding), "it")


@pytest.mark.parametrize("data", ["größe".encode("latin-1"), b"\x89PNG\r\n\x1a\n\0", b"\xff\xfe\0", b"\0\xd8\0"])
def test_what_is_no_text_is_not_taken_for_one(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^it is not UTF-8 text: "):
        decoded(data, "it")


def test_lines_end_as_here_unless_a_text_is_wanted_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "dos.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n")
    assert read_text(path) == read_input(path) == "one\ntwo\nthree\n"
    assert read_input(path, as_it_is=True) == "one\r\ntwo\rthree\n"


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*nowhere: No such file"):
        read_text(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="Is a directory"):
        read_text(tmp_path)
    with pytest.raises(InvalidRequest, match=r"cannot read 'a\\x00b': "):
        read_text(Path("a\0b"))
    (tmp_path / "latin").write_bytes("größe".encode("latin-1"))
    with pytest.raises(InvalidRequest, match="latin is not UTF-8 text"):
        read_text(tmp_path / "latin")


@contextmanager
def _standard_input(stream: BinaryIO) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, io.TextIOWrapper(stream) as text:
        patch.setattr(sys, "stdin", text)
        yield


def test_a_dash_is_standard_input() -> None:
    with _standard_input(io.BytesIO(codecs.BOM_UTF8 + "größe\r\n".encode())):
        assert read_input(STANDARD_INPUT) == "größe\n"
    with (
        _standard_input(io.BytesIO(b"h\0i\0")),
        pytest.raises(InvalidRequest, match=r"^standard input is UTF-16LE text"),
    ):
        read_input(STANDARD_INPUT)


def test_a_pipe_that_says_nothing_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(texts, "_PATIENCE", 0.05)
    caplog.set_level(logging.WARNING, "edgespec")
    for silence, said in ((0.4, ["waiting for text on standard input, up to its end: </dev/null gives none"]), (0, [])):
        caplog.clear()
        reader, writer = os.pipe()
        talk = threading.Timer(silence, os.write, [writer, b"late"])
        with _standard_input(os.fdopen(reader, "rb")):
            talk.start()
            threading.Timer(silence + 0.1, os.close, [writer]).start()
            assert read_standard_input() == "late"
        assert caplog.messages == said


def test_text_comes_from_pipes_and_files_not_from_devices(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb"), os.fdopen(reader, "rb") as pipe, (tmp_path / "text").open("rb") as file:
        for stream, piped in ((pipe, True), (file, True), (io.BytesIO(b"text"), False)):
            with _standard_input(stream):
                assert input_is_piped() is piped
    with Path(os.devnull).open("rb") as nothing, _standard_input(nothing):
        assert not input_is_piped()


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(number, "turn") for number in (0, 1, 2)] == ["0 turns", "1 turn", "2 turns"]
    assert [counted(number, "prefix", "prefixes") for number in (1, 2)] == ["1 prefix", "2 prefixes"]
