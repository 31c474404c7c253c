"""Chats: turns that are taken back, kept and gone on with, and every command, in a real terminal."""

from __future__ import annotations

import json
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest
from click import Context
from click.testing import CliRunner, Result
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.cli import main
from edgespec.cli.chat import _history, _run_conversation
from edgespec.cli.chat.commands import CHAT_COMMANDS, SETTINGS, run_command
from edgespec.cli.chat.controller import Controller
from edgespec.cli.chat.line_input import Line, PipedInput, TerminalInput, _CommandCompleter, _read_message, file_history
from edgespec.cli.chat.screen import Screen, footer
from edgespec.cli.commands import chat as command
from edgespec.decode.session import Session
from edgespec.engine.chat import Chat
from edgespec.engine.kv_file import read_kv
from edgespec.engine.saved_chats import ChatMemory, SavedChat, is_chat, read_chat, write_chat
from edgespec.errors import ContextOverflow, InvalidRequest, UnknownDrafter
from edgespec.gguf.validate import read_header
from tests.gguf_files import tiny_model
from tests.present import present
from tests.terminal import Terminal

TEMPLATE = "{% for message in messages %}{{ '</s>' if message['role'] == 'user' }}{{ message['content'] }}{% endfor %}"
"""Each turn begins with a control token, as in templates of real models."""

COMMAND = [sys.executable, "-m", "edgespec", "chat", "--ctx", "1024", "--seed", "1"]


def said(chat: Chat, text: str, **options: Any) -> Session:
    session = chat.stream(text, **{"max_tokens": 12, **options})
    for _ in session.stream():
        pass
    return session


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A tiny model that can be talked to."""
    folder = tmp_path_factory.mktemp("chat")
    path = tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=folder) as engine:
        yield engine


def interrupted_at(count: int, files: tuple[str, ...], run: Callable[[], object]) -> bool:
    """Whether `run` was interrupted, as by Ctrl-C, before the line of that number that is executed in `files`."""
    left = count

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        nonlocal left
        if not frame.f_code.co_filename.endswith(files):
            return None
        left -= event == "line"
        # On its way out of a block Python looks for signals after it has called __exit__, and for tracers before.
        leaving = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
        if left < 0 and not leaving:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


class TestTurns:
    @pytest.mark.parametrize("full", [False, True])
    def test_ctrl_c_at_any_line_leaves_ids_that_stand_for_the_text(self, engine: Engine, full: bool) -> None:
        """And what is said next is what a chat says that was never interrupted and knows the same."""
        lines = 0
        files = ("engine/chat.py", "decode/session.py", "decode/detokenizer.py", "core/tokens.py")
        before = ["w300 " * 23] * 3 if full else ["w300 ", "w301 "]

        def turns() -> None:
            said(chat, "w302 ", max_tokens=3, overflow="shift")
            chat.undo()
            said(chat, "w303 ", max_tokens=2, overflow="shift")
            assert chat.messages[-3]["content"]

        while True:
            chat, other = engine.chat("w310 "), engine.chat()
            for text in before:
                said(chat, text, max_tokens=2, overflow="shift")
            going_on = interrupted_at(lines, files, turns)
            kept = chat.as_json()
            if not kept["dropped"]:
                spelled = engine.model.vocabulary.spelled(kept["tokens"]).decode(errors="replace")
                spelled = spelled.replace("\u2581", " ").removeprefix(" ").replace("</s> ", "</s>")
                assert spelled == kept["text"]  # but for the space that SentencePiece puts before each text
            assert engine.model.render(kept["messages"]).startswith(kept["text"])
            other.restore(kept, same_model=True)
            one, two = (said(each, f"w304 {lines}", max_tokens=2, overflow="shift") for each in (other, chat))
            assert one.tally.prompt_tokens == two.tally.prompt_tokens
            assert full or one.emitted == two.emitted  # keys and values that were shifted are not those read anew
            if not going_on:
                break
            lines += 11 if full else 1
        assert lines > 100 and bool(kept["dropped"]) == full

    def test_a_new_turn_may_take_the_place_of_all_earlier_ones(self, engine: Engine) -> None:
        """Half of the context is dropped where that much is there, else as much as is needed."""
        chat = engine.chat()
        said(chat, "w300 w301")
        session = said(chat, "w302 " * 70, overflow="shift")
        assert session.tally.prompt_tokens < 512 and chat.as_json()["dropped"] > 0
        with pytest.raises(ContextOverflow, match="even without the earlier turns"):
            said(chat, "w302 " * 80, overflow="shift")

    def test_a_first_message_that_fits_is_answered_with_a_shift_as_without_one(self, engine: Engine) -> None:
        """Room for a whole answer is wanted, not demanded: there is nothing to drop."""
        message, chat = "w302", engine.chat()
        while len(engine.tokenize(engine.model.render([{"role": "user", "content": message}]))) < 460:
            message += " w302"
        session = said(chat, message, max_tokens=200, overflow="shift")
        assert 460 <= session.tally.prompt_tokens < 512
        assert said(engine.chat(), message, max_tokens=20).emitted == session.emitted[:20]

    def test_a_text_that_gets_a_space_is_tokenized_with_what_is_before_it(self, tmp_path: Path) -> None:
        """SentencePiece puts one before a text of its own; after an answer there is none."""
        plain = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": plain})
        with edgespec.load(path, n_ctx=128, threads=1, cache_dir=tmp_path) as engine:
            chat = engine.chat()
            said(chat, "w300", max_tokens=4)
            second = chat.stream("w301")
            rendered = engine.model.render(chat.messages[:-1], reply=False)
            assert chat.as_json()["tokens"] == engine.tokenize(rendered) and chat.rewritten == 1
            assert second.tally.prompt_tokens == len(engine.tokenize(rendered))

    def test_where_a_template_rewrites_history_what_stays_the_same_is_not_read_again(self, tmp_path: Path) -> None:
        """As those of models that think leave out what earlier answers thought."""
        shortening = (
            "{% for message in messages %}{{ '</s>' if message['role'] == 'user' }}"
            "{{ message['content'] if loop.last or message['role'] == 'user' else message['content'][:6] }}{% endfor %}"
        )
        path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": shortening})
        with edgespec.load(path, n_ctx=128, threads=1, cache_dir=tmp_path) as engine:
            chat = engine.chat()
            first = said(chat, "w300 w301 w302 ")
            second = said(chat, "w303 ")
            assert chat.rewritten == 1 and len(first.text) > 6
            asked, answered = first.tally.prompt_tokens, len(first.emitted)
            assert asked <= second.tally.cached_tokens < asked + answered - 1

    def test_a_template_that_folds_the_system_prompt_into_a_users_turn_keeps_it(self, tmp_path: Path) -> None:
        folding = (
            "{% set folded = messages[0]['role'] == 'system' %}"
            "{% set head = messages[0]['content'] if folded else '' %}"
            "{% set rest = messages[1:] if folded else messages %}"
            "{% for message in rest %}</s>{{ head if loop.first }}{{ message['content'] }}{% endfor %}"
        )
        path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": folding})
        with edgespec.load(path, n_ctx=128, threads=1, cache_dir=tmp_path) as engine:
            chat = engine.chat("w310 w311 ")
            for number in range(6):
                said(chat, f"{'w300 ' * 4}{number}", max_tokens=8, overflow="shift")
            kept = chat.as_json()
            head = engine.tokenize("</s>w310 w311")
            assert kept["dropped"] and kept["tokens"][: len(head)] == head

    def test_a_turn_taken_back_never_was(self, engine: Engine) -> None:
        chat, other = engine.chat(), engine.chat()
        first = said(chat, "w300 w301")
        said(chat, "w302")
        assert chat.undo() == "w302" and len(chat.messages) == 2
        again = said(chat, "w303")
        assert again.tally.cached_tokens >= first.tally.prompt_tokens + len(first.emitted) - 1
        said(other, "w300 w301")
        assert said(other, "w303").emitted == again.emitted
        assert chat.messages == other.messages
        assert chat.undo() == "w303" and chat.undo() == "w300 w301" and chat.undo() is None
        assert chat.messages == []

    def test_an_answer_in_progress_is_taken_back_too(self, engine: Engine) -> None:
        chat = engine.chat()
        session = chat.stream("w300", max_tokens=30)
        session.step()
        assert chat.undo() == "w300" and chat.messages == []

    def test_the_system_prompt_can_change(self, engine: Engine) -> None:
        chat = engine.chat("w310 ")
        said(chat, "w300 ")
        chat.system = "w311 "
        assert chat.messages[0] == {"role": "system", "content": "w311 "} and len(chat.messages) == 3
        said(chat, "w301")
        chat.system = None
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
        chat.clear()
        assert chat.messages == [] and chat.undo() is None

    def test_a_shift_forgets_where_turns_began(self, engine: Engine) -> None:
        chat = engine.chat()
        for number in range(8):
            said(chat, f"{'w300 ' * 20}{number}", max_tokens=60, overflow="shift")
        assert present(chat.undo()).endswith("7")
        assert said(chat, "w301", overflow="shift").emitted

    def test_what_is_kept_is_gone_on_with(self, engine: Engine) -> None:
        chat, other, plain = engine.chat("w310 "), engine.chat(), engine.chat("w310 ")
        for one in (chat, plain):
            said(one, "w300 ")
            said(one, "w301 ")
        other.restore(json.loads(json.dumps(chat.as_json())), same_model=True)
        assert other.messages == chat.messages and other.system == "w310 "
        session = said(other, "w302")
        assert session.emitted == said(plain, "w302").emitted and other.rewritten == 0
        foreign = engine.chat()
        foreign.restore(chat.as_json(), same_model=False)
        assert foreign.messages == chat.messages and said(foreign, "w303").emitted

    @pytest.mark.parametrize("spoilt", [{"tokens": [10**6]}, {"tokens": "x"}, {"messages": [1]}, {"dropped": None}])
    def test_nonsense_changes_nothing(self, engine: Engine, spoilt: dict[str, object]) -> None:
        chat = engine.chat()
        said(chat, "w300")
        before = chat.as_json()
        with pytest.raises((KeyError, TypeError, ValueError)):
            chat.restore({**before, **spoilt}, same_model=True)
        assert chat.as_json() == before


class TestKept:
    def test_a_session_goes_on_without_reading_again(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept = engine.chat(), SavedChat(tmp_path, "a")
        assert list(kept.restore(chat, engine)) == ["session a is new"]
        said(chat, "w300 w301 ")
        seen = said(chat, "w302 ")
        kept.save(chat, engine, cache=True)
        engine.context.forget()
        again = engine.chat()
        assert list(kept.restore(again, engine)) == ["session a continues: 2 turns so far"]
        session = said(again, "w303")
        assert session.tally.cached_tokens >= seen.tally.prompt_tokens + len(seen.emitted) - 1
        assert session.emitted == said(chat, "w303").emitted

    def test_what_was_taken_back_is_not_kept(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept, cache = engine.chat(), SavedChat(tmp_path, "a"), tmp_path / "a.kv"
        about = {"model": engine.fingerprint, "settings": engine.context.settings}
        said(chat, "w300 w301 ")
        first = chat.as_json()["tokens"]
        said(chat, "w302 ")
        both = chat.as_json()["tokens"]
        kept.save(chat, engine, cache=True)
        assert read_kv(cache, about)[0] in (both, both[:-1])  # the last token needs no evaluation
        chat.undo()
        kept.save(chat, engine, cache=True)
        assert read_kv(cache, about)[0] == first
        again = engine.chat()
        list(kept.restore(again, engine))
        said(again, "w303 ")
        again.restore(again.as_json(), same_model=True)  # where its turns began is not known any more
        again.undo()
        kept.save(again, engine, cache=True)
        held = read_kv(cache, about)[0]
        assert held and held == first[: len(held)]
        again.clear()
        kept.save(again, engine, cache=True)
        assert not cache.exists() and list(kept.restore(engine.chat(), engine)) == [
            "session a continues: 0 turns so far"
        ]

    def test_a_damaged_cache_is_set_aside_and_the_text_read(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept = engine.chat(), SavedChat(tmp_path, "a")
        said(chat, "w300 w301 ")
        kept.save(chat, engine, cache=True)
        (tmp_path / "a.kv").write_bytes((tmp_path / "a.kv").read_bytes()[:-1])
        engine.context.forget()
        again = engine.chat()
        words = list(kept.restore(again, engine))
        assert "damaged" in words[1] and sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.kv.damaged"]
        assert said(again, "w303").tally.cached_tokens == 0

    def test_another_models_cache_is_left_alone(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept = engine.chat(), SavedChat(tmp_path, "a")
        said(chat, "w300 w301 ")
        kept.save(chat, engine, cache=True)
        other = tiny_model(tmp_path / "other.gguf", seed=5, metadata={"tokenizer.chat_template": TEMPLATE})
        with edgespec.load(other, n_ctx=512, threads=1, cache_dir=tmp_path / "cache") as second:
            again = second.chat()
            words = list(kept.restore(again, second))
            assert "with another model" in words[0] and "left alone" in words[1]
            assert said(again, "w303").tally.cached_tokens == 0
            kept.save(second.chat(), second, cache=True)
        assert not (tmp_path / "a.kv").exists(), "nothing of that conversation is left"

    def test_a_cache_that_was_left_alone_stays_where_nothing_was_said(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept = engine.chat(), SavedChat(tmp_path, "a")
        said(chat, "w300 " * 50, max_tokens=60)
        kept.save(chat, engine, cache=True)
        before = (tmp_path / "a.kv").read_bytes()
        path = engine.model.path
        with edgespec.load(path, n_ctx=512, threads=1, cache_dir=tmp_path / "cache", kv_type="f32") as other:
            again = other.chat()
            assert "left alone" in list(kept.restore(again, other))[1]
            kept.save(again, other, cache=True)
            assert (tmp_path / "a.kv").read_bytes() == before
            again.undo()
            kept.save(again, other, cache=True)
        assert not (tmp_path / "a.kv").exists(), "what was taken back is not kept"

    def test_a_smaller_context(self, engine: Engine, tmp_path: Path) -> None:
        chat, kept = engine.chat(), SavedChat(tmp_path, "a")
        said(chat, "w300 " * 50, max_tokens=60)
        kept.save(chat, engine, cache=True)
        with edgespec.load(engine.model.path, n_ctx=256, threads=1, cache_dir=tmp_path / "cache") as small:
            words = list(kept.restore(small.chat(), small))
            assert "does not fit" in words[1]

    @pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a\\b"])
    def test_names_that_lead_elsewhere(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidRequest):
            SavedChat(tmp_path, name)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "is not JSON"),
            ("[]", "not a conversation"),
            ("{}", "not a conversation"),
            ('{"format": 1}', "not a conversation"),
            ('{"format": 2, "model": "x"}', "not a conversation"),
        ],
    )
    def test_what_is_no_conversation(
        self, engine: Engine, tmp_path: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InvalidRequest, match=reason) as told:
            read_chat(tmp_path / "c.json", engine.chat(), engine)
        assert "Error(" not in str(told.value)  # no repr of an exception
        assert not caplog.messages  # it is said once
        with pytest.raises(InvalidRequest, match=f"{reason}.*; move it away to start a new one"):
            list(SavedChat(tmp_path, "c").restore(engine.chat(), engine))
        with pytest.raises(InvalidRequest, match="there is no such"):
            read_chat(tmp_path / "d.json", engine.chat(), engine)

    def test_saved_and_loaded(self, engine: Engine, tmp_path: Path) -> None:
        chat, other = engine.chat(), engine.chat()
        said(chat, "w300")
        write_chat(tmp_path / "c.json", chat, engine)
        assert read_chat(tmp_path / "c.json", other, engine) and other.messages == chat.messages

    def test_it_is_for_its_owner_alone(self, engine: Engine, tmp_path: Path) -> None:
        data = tmp_path / "data"
        (data / "sessions").mkdir(parents=True)
        for folder in (data, data / "sessions"):
            folder.chmod(0o755)  # as `models pull` made the first, and an earlier version the second
        chat = engine.chat()
        said(chat, "w300 ")
        with SavedChat(data / "sessions", "a") as kept:
            kept.save(chat, engine, cache=True)
        ChatMemory(data / "memory").add("a", chat, engine)
        write_chat(tmp_path / "saved.json", chat, engine)
        paths = [*(data / "sessions").iterdir(), *(data / "memory").iterdir(), tmp_path / "saved.json"]
        assert {path.suffix for path in paths} == {".json", ".kv", ".lock"} and len(paths) == 5
        modes = {path.name: path.stat().st_mode & 0o077 for path in [*paths, data / "sessions", data / "memory"]}
        assert not any(modes.values()), modes

    def test_a_session_is_open_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with SavedChat(tmp_path, "a"), SavedChat(tmp_path, "b"):
            with pytest.raises(InvalidRequest, match="session a is open in another terminal"), SavedChat(tmp_path, "a"):
                raise AssertionError("it was opened twice")
            monkeypatch.setattr("edgespec.system.files.fcntl", None)
            with SavedChat(tmp_path, "a"):
                pass
        monkeypatch.undo()
        with SavedChat(tmp_path, "a"):
            pass

    def test_the_models_file_is_not_read_again(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
        with edgespec.load(path, n_ctx=256, threads=1, cache_dir=tmp_path / "cache") as engine:
            assert engine.fingerprint == read_header(path).fingerprint
            path.unlink()
            write_chat(tmp_path / "c.json", engine.chat(), engine)
            assert json.loads((tmp_path / "c.json").read_text())["model"] == engine.fingerprint
            assert read_chat(tmp_path / "c.json", engine.chat(), engine)

    def test_what_is_recognised(self, engine: Engine, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        write_chat(path, engine.chat(), engine)
        assert is_chat(path)
        for text in ("", "{}", '{"format":1,"model":"x","chats":[]}', "notes"):
            path.write_text(text)
            assert not is_chat(path)


class TestMemory:
    def test_what_was_said_is_found_again_and_bounded(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgespec.engine.saved_chats._MAX_TOKENS", 100)
        memory = ChatMemory(tmp_path / "memory")
        for number in range(6):
            chat = engine.chat()
            said(chat, f"w30{number} " * 20)
            memory.add(str(number), chat, engine)
        kept = list(memory._chats(engine).values())
        assert 0 < sum(map(len, kept)) <= 100
        path, names = engine.model.path, "suffix+anpd"
        with edgespec.load(path, drafter=names, n_ctx=512, threads=1, cache_dir=tmp_path / "cache") as fresh:
            ChatMemory(tmp_path / "memory").teach(fresh)
            place = len(kept[-1]) // 2
            assert [drafter.name for drafter in fresh.drafters] == ["suffix", "anpd"]
            assert all(one.drafter.propose(kept[-1][place - 8 : place], 3).tokens for one in fresh.drafters)

    def test_a_memory_of_another_model_or_none_is_empty(self, engine: Engine, tmp_path: Path) -> None:
        for text in ("", "{}", "[]", '{"model": "x", "format": 2, "chats": {"a": [1]}}'):
            (tmp_path / f"{engine.fingerprint}.json").write_text(text)
            assert ChatMemory(tmp_path)._chats(engine) == {}

    def test_each_model_has_its_own(self, engine: Engine, tmp_path: Path) -> None:
        memory, chat = ChatMemory(tmp_path / "memory"), engine.chat()
        said(chat, "w300")
        memory.add("a", chat, engine)
        path = tiny_model(tmp_path / "other.gguf", seed=5, metadata={"tokenizer.chat_template": TEMPLATE})
        with edgespec.load(path, n_ctx=512, threads=1, cache_dir=tmp_path / "cache") as other:
            assert memory._chats(other) == {}
            another = other.chat()
            said(another, "w301 w302")
            memory.add("a", another, other)
            assert memory._chats(other) == {"a": another.as_json()["tokens"]}
        assert memory._chats(engine) == {"a": chat.as_json()["tokens"]}

    def test_a_chat_is_remembered_once_as_it_is_now(self, engine: Engine, tmp_path: Path) -> None:
        memory, chat, other = ChatMemory(tmp_path / "memory"), engine.chat(), engine.chat()
        said(other, "w305")
        memory.add("b", other, engine)
        for text in ("w300", "w301", "w302"):
            said(chat, text)
            memory.add("a", chat, engine)
        memory.add("b", other, engine)
        chat.undo()
        memory.add("a", chat, engine)
        assert memory._chats(engine) == {"b": other.as_json()["tokens"], "a": chat.as_json()["tokens"]}
        assert list(memory._chats(engine)) == ["b", "a"]  # what was said last stays longest

    def test_what_was_cleared_is_forgotten(self, engine: Engine, tmp_path: Path) -> None:
        memory, chat, other = ChatMemory(tmp_path / "memory"), engine.chat(), engine.chat()
        for name, one in (("a", chat), ("b", other)):
            said(one, "w300")
            memory.add(name, one, engine)
        chat.system = "w310 "  # what its ids are is not known before the next turn, and it is there all the same
        memory.add("a", chat, engine)
        assert list(memory._chats(engine)) == ["b", "a"] and memory._chats(engine)["a"]
        chat.clear()
        memory.add("a", chat, engine)
        assert list(memory._chats(engine)) == ["b"]

    def test_nothing_said_leaves_nothing(self, engine: Engine, tmp_path: Path) -> None:
        ChatMemory(tmp_path / "memory").add("a", engine.chat(), engine)
        assert list(tmp_path.iterdir()) == []

    def test_the_models_used_last_are_remembered(self, engine: Engine, tmp_path: Path) -> None:
        for number in range(10):
            path = tmp_path / f"{number}.json"
            path.write_text("{}")
            os.utime(path, (number, number))
        chat = engine.chat()
        said(chat, "w300")
        ChatMemory(tmp_path).add("a", chat, engine)
        left = {path.stem for path in tmp_path.iterdir()}
        assert left == {*map(str, range(3, 10)), engine.fingerprint}


DOCSTRING = '"""A module."""\nimport os\n\n\ndef f():\n    """A function."""'


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["plain"], "plain"),
        (['"""one', "two", 'three"""', "rest"], "one\ntwo\nthree"),
        (['"""', "  indented", '"""'], "indented"),
        (['"""all in one"""'], "all in one"),
        (['"""no end'], "no end"),
        (['"""one', 'two """three""" four', 'five"""  '], 'one\ntwo """three""" four\nfive'),
        (['""""quoted""""'], '"quoted"'),
        (['"""one""" two', "rest"], '"""one""" two'),
        ([DOCSTRING, "rest"], DOCSTRING),
        (['"""What is this?', DOCSTRING + "\n    return 1", '"""'], f"What is this?\n{DOCSTRING}\n    return 1"),
        (['""""""'], ""),
        (['"""/help"""'], "/help"),
        (['"""', '/help"""'], "/help"),
        (["/help\nme"], "/help\nme"),
        (["/* main.c */"], "/* main.c */"),
        (["// a comment"], "// a comment"),
        (["/etc/hosts is what?"], "/etc/hosts is what?"),
        (["/tmp is full, what now?"], "/tmp is full, what now?"),
        (["/home and /root are what?"], "/home and /root are what?"),
        (["/s means sarcasm, right?"], "/s means sarcasm, right?"),
    ],
)
def test_messages(lines: list[str], text: str) -> None:
    rest = iter(lines[1:])
    assert _read_message(lines[0], lambda: next(rest, None)) == (text, False)


@pytest.mark.parametrize(
    "line",
    ["/help", "/?", "/set temp 1", "/file\tnotes.txt", "/nonsense", " /exit \n", "/fiel notes.txt", "/sytem Be terse."],
)
def test_commands_are_single_lines(line: str) -> None:
    assert _read_message(line, lambda: None) == (line.strip(), True)


class TestTyped:
    @pytest.fixture
    def typed(self) -> Iterator[tuple[Callable[[str], None], TerminalInput]]:
        with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
            yield keys.send_text, TerminalInput(InMemoryHistory())

    def test_ctrl_c_clears_and_ctrl_d_ends(self, typed: tuple[Callable[[str], None], TerminalInput]) -> None:
        press, lines = typed
        press("begun\x03hello\r")
        assert lines.next() == ("hello", False)
        press("\x04")
        assert lines.next() is None

    def test_what_was_no_command_can_be_edited(self, typed: tuple[Callable[[str], None], TerminalInput]) -> None:
        press, lines = typed
        lines.keep("/tmp")
        press(" is full\r")
        assert lines.next() == ("/tmp is full", False)
        press("next\r")
        assert lines.next() == ("next", False)

    def test_a_pasted_file_is_one_message(self, typed: tuple[Callable[[str], None], TerminalInput]) -> None:
        press, lines = typed
        press(f"\x1b[200~{DOCSTRING}\x1b[201~\r")
        assert lines.next() == (DOCSTRING, False)

    def test_alt_enter_begins_a_line(self, typed: tuple[Callable[[str], None], TerminalInput]) -> None:
        press, lines = typed
        press("one\x1b\rtwo\r")
        assert lines.next() == ("one\ntwo", False)

    @pytest.mark.parametrize(
        ("keys", "text"),
        [(" more\r", "the text more"), ("\x15/exit\r", "/exit"), ("x\x03", None), ("\x15\x04", None), ("\x15\r", None)],
    )
    def test_a_text_is_edited_or_left(
        self, typed: tuple[Callable[[str], None], TerminalInput], keys: str, text: str | None
    ) -> None:
        press, lines = typed
        press(keys)
        assert lines.edit("the text") == text


class Script:
    """Lines that come one after the other."""

    def __init__(self, *lines: Line) -> None:
        self.rest = iter(lines)
        self.kept: list[str] = []

    def keep(self, line: str) -> None:
        self.kept.append(line)

    def next(self) -> Line | None:
        return next(self.rest, None)


class FakeTalk:
    """Raises what it is told to say."""

    def __init__(self, *, person: bool) -> None:
        self.editor = (lambda text: text) if person else None
        self.screen = Screen(footer=False)
        self.last: SimpleNamespace | None = None
        self.heard: list[str | BaseException] = []
        self.ended: Iterator[SimpleNamespace] = iter(())

    def say(self, text: str | BaseException) -> None:
        self.heard.append(text)
        self.last = next(self.ended, self.last)
        if not isinstance(text, str):
            raise text


def converse(talk: FakeTalk, *told: str | BaseException) -> bool:
    """A chat of these lines; what is no text is raised."""
    lines = Script(*(Line(cast(str, text), command=False) for text in told))
    return _run_conversation(cast(Controller, talk), cast(PipedInput, lines))


class TestHistory:
    def test_a_full_disk_is_told_of_once_and_ends_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        history = file_history(tmp_path / "history", told.append)
        history.append_string("kept")

        def full(self: FileHistory, string: str) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(FileHistory, "store_string", full)
        history.append_string("not kept")
        history.append_string("nor this")
        assert told == ["what you type from now on is not kept for the next chat: No space left on device"]
        assert history.get_strings() == ["kept", "not kept", "nor this"]

    def test_bytes_that_are_no_text_are_kept_as_well_as_can_be(self, tmp_path: Path) -> None:
        file_history(tmp_path / "history", print).append_string("caf\udce9")
        assert "+caf?" in (tmp_path / "history").read_text()


class TestScreen:
    BLOCK = edgespec.Block((1, 2), "drafted said", drafted=1, accepted=1, drafter="suffix", drafted_characters=7)

    @pytest.mark.parametrize(
        ("colour", "terminal", "env", "shown"),
        [
            (True, True, {}, "\x1b[32mdrafted\x1b[0m said"),
            (False, True, {}, "drafted said"),
            (True, False, {}, "drafted said"),
            (True, True, {"NO_COLOR": "1"}, "drafted said"),
        ],
    )
    def test_drafted_text_is_green_where_that_is_wanted(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        colour: bool,
        terminal: bool,
        env: dict[str, str],
        shown: str,
    ) -> None:
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        screen = Screen(footer=False)
        screen.colour = colour
        screen.block(self.BLOCK)
        assert capsys.readouterr().out == shown

    def test_an_answer_goes_into_a_pipe_as_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A log file that it quotes may hold escapes."""
        Screen(footer=False).block(edgespec.Block((1,), "\x1b[1mbold\x1b[0m"))
        assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m"


class TestTurnsOfEvents:
    def test_ctrl_c_at_any_moment_ends_no_persons_chat(self, capsys: pytest.CaptureFixture[str]) -> None:
        talk = FakeTalk(person=True)
        assert converse(talk, "a", KeyboardInterrupt(), "b")
        assert talk.heard[-1] == "b" and capsys.readouterr().err == "[stopped]\n"
        with pytest.raises(KeyboardInterrupt):
            converse(FakeTalk(person=False), "a", KeyboardInterrupt(), "b")

    def test_an_answer_that_was_stopped_ends_a_piped_chat(self) -> None:
        talk = FakeTalk(person=False)
        talk.ended = iter([SimpleNamespace(finish_reason="cancelled")])
        with pytest.raises(KeyboardInterrupt):
            converse(talk, "a", "b")
        assert talk.heard == ["a"]

    def test_an_answer_that_failed_ends_no_piped_chat(self) -> None:
        """Only the line it was an answer to is judged by it."""
        talk = FakeTalk(person=False)
        talk.last = SimpleNamespace(finish_reason="cancelled")
        assert not converse(talk, InvalidRequest("no"), "b")
        assert talk.heard[-1] == "b"

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("/fiel notes.txt", "there is no command /fiel: did you mean /file?"),
            ("/tmp", "there is no command /tmp: "),
            ("/exit code 1, what does it mean?", "/exit takes nothing after it"),
            ("/clear the table is a song?", "/clear takes nothing after it"),
        ],
    )
    def test_a_line_that_is_no_command_is_kept_for_editing(
        self, talk: Controller, capsys: pytest.CaptureFixture[str], line: str, reason: str
    ) -> None:
        lines = Script(_read_message(line, lambda: None), Line("w300", command=False))
        assert not _run_conversation(talk, cast(PipedInput, lines))
        told = capsys.readouterr().err
        assert told.startswith(f"edgespec: {reason}") and 'to say it to the model, put """ before' in told
        assert lines.kept == [line] and [message["role"] for message in talk.chat.messages] == ["user", "assistant"]

    def test_a_file_that_cannot_be_used_ends_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        talk = FakeTalk(person=True)
        refused = PermissionError(13, "Permission denied", "/somewhere/x")
        assert not converse(talk, refused, InvalidRequest("no"), "b")
        assert talk.heard[-1] == "b"
        assert capsys.readouterr().err == "edgespec: /somewhere/x: Permission denied\nedgespec: no\n"
        with pytest.raises(BrokenPipeError):
            converse(talk, BrokenPipeError(32, "Broken pipe"), "b")

    def test_without_a_place_for_the_history(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("in the way")
        assert isinstance(_history(tmp_path / "file" / "history", Screen(footer=False)), InMemoryHistory)
        assert "what you type is not kept for the next chat: " in capsys.readouterr().err
        assert isinstance(_history(tmp_path / "new" / "history", Screen(footer=False)), FileHistory)
        assert (tmp_path / "new" / "history").stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny model in a file, and where it was checked once."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE}), str(folder / "cache")


ENDLESS = ("--logit-bias", "2=-100")  # never the token that ends an answer


def options_of(path: Path, *arguments: str) -> dict[str, Any]:
    """The options of a chat with the model in `path`."""
    line = ["-m", str(path), "--ctx", "256", "--threads", "1", "-n", "12", "--seed", "1", *ENDLESS, *arguments]
    return command.make_context("chat", line, parent=Context(main, **main.context_settings)).params


@pytest.fixture
def talk(tiny: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    """A chat without a terminal."""
    path, cache = tiny
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    with Controller(options_of(path, "--temp", "0"), Screen(footer=False), saved=None, memory=None) as talk:
        yield talk


class TestTalk:
    def test_an_edit_that_was_given_up_or_fails_changes_nothing(
        self, talk: Controller, capsys: pytest.CaptureFixture[str]
    ) -> None:
        talk.say("w300 ")
        talk.say("w301 ")
        before = talk.chat.as_json()
        talk.editor = lambda text: None
        run_command(talk, "/edit")
        assert talk.chat.as_json() == before and "not changed" in capsys.readouterr().err
        talk.editor = lambda text: "w301 " * 600
        with pytest.raises(ContextOverflow):
            run_command(talk, "/edit")
        assert talk.chat.as_json() == before
        talk.editor = lambda text: f"/exit {text}"
        run_command(talk, "/edit")
        (_, first, asked, _) = talk.chat.messages
        assert asked["content"] == "/exit w301 " and first["content"] == before["messages"][1]["content"]

    def test_an_answer_that_is_not_made_again_stays(self, talk: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InvalidRequest, match="no message yet"):
            run_command(talk, "/regen")
        talk.say("w300 ")
        before = talk.chat.as_json()

        def interrupted(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(talk.chat, "stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_command(talk, "/regen")
        assert talk.chat.as_json() == before
        monkeypatch.undo()
        monkeypatch.setattr(talk.engine.context, "prefill", lambda *_: None)  # stopped while the prompt is read
        run_command(talk, "/regen")
        assert present(talk.last).finish_reason == "cancelled" and talk.chat.as_json() == before
        monkeypatch.undo()
        run_command(talk, "/regen")
        assert talk.chat.as_json() == before

    def test_a_file_that_is_too_large_is_not_read(
        self, talk: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "large.txt").write_bytes(bytes(16 * talk.engine.context.n_ctx + 1))
        (tmp_path / "long.txt").write_text("x" * talk.engine.context.n_ctx)
        with pytest.raises(InvalidRequest, match="does not fit into a context of 256"):
            run_command(talk, f"/file {tmp_path}/long.txt")
        monkeypatch.setattr("edgespec.cli.chat.commands.read_text", None)
        with pytest.raises(InvalidRequest, match="does not fit into a context of 256"):
            run_command(talk, f"/file {tmp_path}/large.txt")
        with pytest.raises(InvalidRequest, match="is not a text file"):
            run_command(talk, f"/file {tmp_path}")
        with pytest.raises(FileNotFoundError):
            run_command(talk, f"/file {tmp_path}/nothing.txt")
        assert talk.attached == []

    def test_a_file_too_many_can_be_left_out(
        self, talk: Controller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "notes.txt").write_text("x" * 60)
        (tmp_path / "more.txt").write_text("y" * 170)
        run_command(talk, f"/file {tmp_path}/notes.txt")
        run_command(talk, f"/file {tmp_path}/more.txt")
        with pytest.raises(ContextOverflow, match=r"/undo \(leaves more.txt out\), /clear or /set context-shift on"):
            talk.say("w302")
        run_command(talk, "/undo")
        assert "left out: more.txt" in capsys.readouterr().err
        talk.say("w302")
        (asked, _) = talk.chat.messages
        assert asked["content"].startswith("notes.txt:\n```\nxxx") and asked["content"].endswith("w302")
        assert talk.attached == []
        run_command(talk, f"/file {tmp_path}/notes.txt")
        run_command(talk, "/clear")
        assert talk.attached == [] and talk.chat.messages == []

    @pytest.mark.parametrize(
        ("text", "fence"),
        [("plain", "```"), ("a ```py\nx\n``` b", "````"), ("`one` and `````", "``````"), ("\ufeffmarked", "```")],
    )
    def test_a_file_keeps_its_fences_in_a_longer_one(
        self, talk: Controller, tmp_path: Path, text: str, fence: str
    ) -> None:
        (tmp_path / "my notes.md").write_text(text, encoding="utf-8")
        run_command(talk, f'/file "{tmp_path}/my notes.md"')
        (attached,) = talk.attached
        assert attached.text == f"my notes.md:\n{fence}\n{text.removeprefix(chr(0xFEFF))}\n{fence}"

    @pytest.mark.parametrize("typed", ['"x y.json"', r"x\ y.json", "x y.json", "'x y.json'"])
    def test_a_quoted_name_is_the_files(
        self, talk: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        talk.say("w300")
        run_command(talk, f"/save {typed}")
        assert [path.name for path in tmp_path.iterdir()] == ["x y.json"]
        run_command(talk, f"/load {typed}")

    def test_sampling_is_the_models_until_the_user_sets_it(
        self,
        tiny: tuple[Path, str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path, cache = tiny
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        metadata = {"tokenizer.chat_template": TEMPLATE, "general.sampling.temp": 0.5, "general.sampling.top_k": 7}
        other = tiny_model(tmp_path / "other.gguf", metadata=metadata)
        with Controller(options_of(path), Screen(footer=False), saved=None, memory=None) as talk:
            assert (talk.sampling.temperature, talk.sampling.min_p) == (0.7, 0.05)
            run_command(talk, f"/model {other}")
            assert (talk.sampling.temperature, talk.sampling.top_k, talk.sampling.min_p) == (0.5, 7, 0.0)
            assert "temperature 0.5, top-k 7 (the file's), repetition guard" in capsys.readouterr().err
            run_command(talk, "/set temp 0.9")
            seed = talk.sampling.seed
            run_command(talk, f'/model "{path}"')
            assert (talk.sampling.temperature, talk.sampling.min_p, talk.sampling.seed) == (0.9, 0.05, seed)
            assert talk.sampling_in_words == "temperature 0.9 (yours), min-p 0.05 (edgespec's), repetition guard"
            run_command(talk, "/set temp 0")
            assert talk.sampling == SamplingParams(seed=seed, logit_bias={2: -100.0})
            before = talk.sampling
            with pytest.raises(InvalidRequest):
                run_command(talk, "/set top-p 3")
            assert talk.sampling == before and talk.sampling_in_words == "temperature 0 (yours)"

    @pytest.mark.parametrize("where", ["environment", "file", "line"])
    def test_an_option_of_any_source_comes_before_the_models(
        self, tiny: tuple[Path, str], home: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        arguments = ["--temp", "0"] if where == "line" else []
        if where == "environment":
            monkeypatch.setenv("EDGESPEC_TEMP", "0")
        elif where == "file":
            config = home / "config" / "edgespec" / "config.toml"
            config.parent.mkdir(parents=True)
            config.write_text("temp = 0.0\n")
        seen: list[float] = []
        monkeypatch.setattr(Controller, "say", lambda self, text: seen.append(self.sampling.temperature))
        result = CliRunner().invoke(main, ["chat", "-m", str(tiny[0]), "--ctx", "64", *arguments], input="w300\n")
        assert result.exit_code == 0 and seen == [0.0], result.output

    def test_a_person_is_told_that_an_answer_repeats_itself(
        self, talk: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_command(talk, "/set max-tokens 100")
        talk.sampling = SamplingParams(logit_bias={300: 100.0})
        for on_terminal in (False, True):
            capsys.readouterr()
            for stream in (sys.stdout, sys.stderr):
                monkeypatch.setattr(stream, "isatty", lambda on_terminal=on_terminal: on_terminal)
            talk.say("w301")
            told = capsys.readouterr()
            assert told.out.count("w300") == 100, "it runs on"
            assert told.err.count("[it repeats itself; Ctrl-C stops it]") == on_terminal

    def test_why_an_answer_ends(self, talk: Controller, capsys: pytest.CaptureFixture[str]) -> None:
        run_command(talk, "/set max-tokens 5")
        talk.say("w300")
        assert "[cut after 5 tokens: /set max-tokens 10 allows more]" in capsys.readouterr().err
        run_command(talk, "/set max-tokens 600")
        talk.say("w301")
        assert "[the context is full: /undo, /clear, or /set context-shift on]" in capsys.readouterr().err
        with pytest.raises(InvalidRequest, match="write on or off"):
            run_command(talk, "/set context-shift maybe")
        run_command(talk, "/set context-shift on")
        talk.say("w302")
        assert "[cut after 600 tokens" in capsys.readouterr().err
        shown = footer(present(talk.last), talk.engine)
        used, most = present(re.search(r"context (\d+) of (\d+)", shown)).groups()
        assert present(talk.last).tally.dropped_tokens > 0 and int(used) <= int(most)

    def test_words_of_the_programs_own_stay_out_of_the_text(
        self, talk: Controller, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(talk.engine.context, "prefill", lambda *_: None)
        talk.say("w300")
        told = capsys.readouterr()
        assert told.out == "\n" and told.err == "[stopped]\n"

    def test_plain_decoding_stays_plain(self, talk: Controller) -> None:
        run_command(talk, "/draft off")
        plain = talk.engine.policy
        with pytest.raises(UnknownDrafter):
            run_command(talk, "/drafter nobody")
        assert not talk.drafting and talk.engine.policy is plain
        run_command(talk, f"/model {talk.engine.model.path}")
        assert not talk.drafting and talk.engine.policy is not plain
        run_command(talk, "/drafter anpd")
        assert talk.drafting and [one.name for one in talk.engine.drafters] == ["anpd"]
        talk.say("w300")

    def test_another_drafter_leaves_the_model_and_what_it_read(
        self, talk: Controller, capsys: pytest.CaptureFixture[str]
    ) -> None:
        talk.say("w300 ")
        model = talk.engine.model
        run_command(talk, "/drafter none")
        run_command(talk, "/draft on")
        assert "decoding plainly: there is no drafter; /drafter auto finds one" in capsys.readouterr().err
        run_command(talk, "/drafter suffix+anpd")
        assert capsys.readouterr().err == "suffix+anpd\n" and talk.engine.model is model
        talk.say("w301 ")
        assert present(talk.last).tally.cached_tokens > present(talk.last).tally.prompt_tokens // 2

    def test_stats_name_the_seed_of_the_answer(self, talk: Controller, capsys: pytest.CaptureFixture[str]) -> None:
        run_command(talk, "/set temp\t0.8")
        talk.say("w300")
        run_command(talk, "/set seed 9")
        run_command(talk, "/stats")
        assert talk.sampling.temperature == 0.8 and ", seed 1\n" in capsys.readouterr().err
        run_command(talk, "/regen")
        run_command(talk, "/stats")
        assert ", seed 10\n" in capsys.readouterr().err  # another one, for another answer

    def test_another_model_that_does_not_come(self, talk: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
        talk.say("w300")
        before, engine = talk.chat.as_json(), talk.engine

        def interrupted(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(edgespec.Chat, "restore", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_command(talk, f"/model {engine.model.path}")
        assert talk.engine is engine and talk.chat.as_json() == before
        talk.say("w301")

    def test_what_is_no_conversation_is_not_written_over(self, talk: Controller, tmp_path: Path) -> None:
        notes = tmp_path / "notes.txt"
        notes.write_text("mine")
        with pytest.raises(InvalidRequest, match="exists and is not a saved conversation: choose another name"):
            run_command(talk, f"/save {notes}")
        assert notes.read_text() == "mine"
        for _ in range(2):
            run_command(talk, f"/save {tmp_path}/new.json")
        with pytest.raises(InvalidRequest, match="home"):
            run_command(talk, "/save ~nobody-of-this-name/x.json")


@pytest.fixture
def piped(tiny: tuple[Path, str]) -> Callable[..., Result]:
    """Runs a piped chat in this process."""
    path, cache = tiny

    def piped(text: str, *arguments: str, **env: str) -> Result:
        asked = ["chat", "-m", str(path), "--ctx", "256", "--threads", "1", "-n", "4", "--seed", "1", *ENDLESS]
        return CliRunner(env={"XDG_CACHE_HOME": cache, **env}).invoke(main, [*asked, *arguments], input=text)

    return piped


class TestPiped:
    def test_the_status_tells_of_any_error(self, piped: Callable[..., Result]) -> None:
        result = piped("w300\n")
        assert result.exit_code == 0, result.output
        result = piped("w300\n/nonsense\nw301\n/exit\nnot said\n", "--stats")
        assert result.exit_code == 1 and result.stderr.count("4 tokens at") == 2
        assert "there is no command /nonsense: /help lists them (to say it" in result.stderr

    def test_nothing_kept_needs_no_place(self, piped: Callable[..., Result], home: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        result = piped("w300\n", XDG_DATA_HOME=str(tmp_path / "file" / "data"))
        assert result.exit_code == 0, result.output
        assert piped("w300\n").exit_code == 0 and not (home / "data").exists()

    def test_private_is_stronger_than_the_file(self, piped: Callable[..., Result], home: Path) -> None:
        config = home / "config" / "edgespec" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text('[chat]\nmemory = true\nsession = "diary"\n')
        result = piped("w300\n", "--private")
        assert result.exit_code == 0, result.output
        assert not (home / "data").exists()
        assert piped("w300\n", "--private", "--memory").exit_code == 2
        assert piped("w300\n", "--private", "--session", "x").exit_code == 2
        assert piped("w300\n").exit_code == 0 and (home / "data" / "edgespec" / "sessions" / "diary.kv").exists()

    def test_a_session_takes_a_new_system_prompt(self, piped: Callable[..., Result], home: Path) -> None:
        kept = home / "data" / "edgespec" / "sessions" / "s.json"

        def system() -> str:
            return str(json.loads(kept.read_text())["messages"][0]["content"])

        assert "--system" not in piped("w300\n", "--session", "s", "--system", "w310 ").stderr
        result = piped("w301\n", "--session", "s", "--system", "w311 ")
        assert "session s continues: 1 turn so far" in result.stderr and "system prompt of --system" in result.stderr
        assert system() == "w311 "
        assert "--system" not in piped("w302\n", "--session", "s", "--system", "w311 ").stderr
        piped("w303\n", "--session", "s", EDGESPEC_SYSTEM="w312 ")  # a default is for those that begin
        assert system() == "w311 "

    def test_a_session_is_open_in_another_terminal(self, piped: Callable[..., Result], home: Path) -> None:
        with SavedChat(home / "data" / "edgespec" / "sessions", "s"):
            result = piped("w300\n", "--session", "s")
        assert result.exit_code == 1 and result.stderr.startswith("edgespec: session s is open in another terminal")

    def test_a_model_without_a_template(self, piped: Callable[..., Result], tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "plain.gguf")
        result = piped("w300\n", "-m", str(path))
        assert result.exit_code == 1
        assert result.stderr == "edgespec: plain.gguf has no chat template: use edgespec generate --raw\n"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("/re", ["/regen"]),
        ("/dr", ["/draft", "/drafter"]),
        ("/set col", ["colour"]),
        ("/set colour o", ["off", "on"]),
        ("/set context-shift of", ["off"]),
        ("/set temp o", []),
        ("/draft o", ["off", "on"]),
        ("/drafter anp", ["anpd"]),
        ("/model smollm2-135", ["smollm2-135m"]),
        ("hello", []),
        ("/exit x", []),
    ],
)
def test_completion(typed: str, found: list[str]) -> None:
    given = _CommandCompleter().get_completions(Document(typed), CompleteEvent())
    assert [one.text for one in given] == found


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    given = _CommandCompleter().get_completions(Document(f"/file {tmp_path}/no"), CompleteEvent())
    assert [one.text for one in given] == ["tes.txt"]


@pytest.fixture
def env(tmp_path: Path, smollm2: Path) -> dict[str, str]:
    kept = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}
    return {**os.environ, **kept, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}


ANSWERED = r"tokens/s, .*context \d+ of 1024"
EVENING = [
    ("/help\r", [*(f"{name} " for name in CHAT_COMMANDS), "Alt-Enter", "max-tokens"]),
    ("/system You are terse.\r", ["from the next message on"]),
    ("/system\r", ["You are terse"]),
    ("/system -\r", ["without a system prompt"]),
    ("/system\r", ["there is no system prompt"]),
    ("Name a river in France.\r", [ANSWERED]),
    ("/stats\r", ["tokens/s, first token after .* forward passes", r"\x1b\[\?2004h.*>"]),  # and the next prompt
    ("/reg", ["/reg"]),
    ("e\t", ["n"]),  # Tab completes it
    ("\r", [ANSWERED]),
    ("/set colour on\r", [r"\x1b\[2mcolour on"]),  # dim, so it is no echo of what was typed
    ("/set temp 0.8\r", [r"\x1b\[2mtemp 0.8"]),
    ("/set context-shift on\r", [r"\x1b\[2mcontext-shift on"]),
    ("/set tmp 1\r", ["did you mean temp"]),
    ("/set temp warm\r", ["temp: 'warm' is not a valid float"]),
    ("/regen\r", [ANSWERED]),
    ("/draft off\r", ["decoding plainly"]),
    ("Say a a a a a a a a.\r", [r"1.00 tokens a block"]),
    ("/draft on\r", ["drafting where it pays"]),
    ("\x18\x05", ["Written in an editor"]),
    ("\x15/undo\r", ["taken back: Say a a a"]),
    ("/edit\r", ["Name a river in France"]),
    (" Or two.\r", [ANSWERED]),
    ("/file notes.txt\r", ["notes.txt, .* tokens, goes before"]),
    ("What is the secret word?\r", [ANSWERED]),
    ("/save saved.json\r", ["saved: "]),
    ("/clear\r", ["the conversation is empty"]),
    ("/load saved.json\r", ["2 turns"]),
    ("/model\r", ["SmolLM2"]),
    ("/drafter anpd\r", [r"\x1b\[2manpd"]),
    ("/drafter nobody\r", ["edgespec: no drafter 'nobody'"]),
    ("/model nothing\r", ["edgespec: no model 'nothing'"]),
    ("/sav x\r", ["did you mean /save", "> /sav x"]),
    ('\x15"""two\rlines"""\r', [ANSWERED]),  # the line before is kept for editing: Ctrl-U clears it
    ("/exit\r", []),
]


@pytest.mark.model
def test_every_command_in_a_terminal(env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's evening with it. Whatever is in COMMANDS is used."""
    assert {*"".join(typed for typed, _ in EVENING).replace("\x15", " ").split(), "/regen"} >= set(CHAT_COMMANDS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("The secret word is heron.\n")
    (tmp_path / "editor").write_text('echo Written in an editor >"$1"\n')
    env["VISUAL"] = f"sh {tmp_path}/editor"
    terminal = Terminal([*COMMAND, "-n", "16", "--session", "evening"], env)
    terminal.wait_for(r"session evening is new.*commands\..*>")
    for typed, expected in EVENING:
        terminal.type(typed)
        for text in expected:
            terminal.wait_for(text)
    assert terminal.status() == 0 and "Traceback" not in terminal.screen
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert "secret word is heron" in saved["messages"][-2]["content"]

    terminal = Terminal([*COMMAND, "-n", "8", "--session", "evening"], env)
    terminal.wait_for(r"session evening continues: 3 turns so far.*>")
    terminal.type("\x1b[A")  # what was typed last
    terminal.wait_for("/exit")
    terminal.type("\x15And now?\r")
    terminal.wait_for(ANSWERED)
    terminal.type("/stats\r")
    terminal.wait_for(r"prompt tokens, \d+ cached.*>")
    read, cached = map(int, re.findall(r"(\d+) prompt tokens, (\d+) cached", terminal.screen)[-1])
    assert read - cached < 0.15 * read
    terminal.type("\x04")
    assert terminal.status() == 0
    folder = tmp_path / "data" / "edgespec"
    kept = [folder, folder / "history", folder / "sessions", *(folder / "sessions").iterdir()]
    assert not any(path.stat().st_mode & 0o077 for path in kept) and len(kept) == 6
    assert "+Name a river in France." in (folder / "history").read_text()


@pytest.mark.model
def test_a_private_chat_leaves_nothing(env: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal([*COMMAND, "-n", "4", "--private"], {**env, "NO_COLOR": "1"})
    terminal.wait_for(r"commands\..*>")
    terminal.type("Hello\r")
    terminal.wait_for(r"context \d+ of.*>")  # Ctrl-D means leaving only while a line is edited
    terminal.type("\x04")
    assert terminal.status() == 0 and "\x1b[2m" not in terminal.screen
    assert not (tmp_path / "data").exists()


@pytest.mark.model
def test_a_piped_chat_is_plain_text(env: dict[str, str]) -> None:
    lines = ['"""Say', 'hello."""', "/set colour on", "/set footer on", "/undo", "/edit", "/set", "Say a a a a a a."]
    result = subprocess.run(
        [*COMMAND, "-n", "16"], input="\n".join(lines), capture_output=True, text=True, timeout=300, check=False,
        env={**env, "NO_COLOR": "1"},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr  # a terminal was missing
    assert "\x1b" not in result.stdout + result.stderr
    assert "taken back: Say\nhello." in result.stderr and "needs a terminal" in result.stderr
    assert f"/set knows {', '.join(SETTINGS)}" in result.stderr
    assert re.search(r"tokens/s, .*context \d+ of 1024", result.stderr)


@pytest.mark.model
def test_twenty_turns_evaluate_only_what_is_new(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, n_ctx=2048, cache_dir=tmp_path) as engine:
        chat, seen = engine.chat("Be brief."), 0
        for turn in range(20):
            session = said(chat, f"Give me word number {turn}.", max_tokens=16)
            new = session.tally.prompt_tokens - session.tally.cached_tokens
            assert session.tally.cached_tokens >= seen - 1 and new < 40
            seen = session.tally.prompt_tokens + len(session.emitted)
        assert chat.rewritten == 0 and seen > 500
