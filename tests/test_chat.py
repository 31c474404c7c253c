"""Chats: turns that are taken back, kept and gone on with, and every command, in a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from gguf_files import tiny_model
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from terminal import Terminal
from test_vocabtrim import TEMPLATE

import edgespec
from edgespec.cli.chat.commands import COMMANDS, SETTINGS
from edgespec.cli.chat.keeping import Kept, Memory, read_chat, write_chat
from edgespec.cli.chat.typing import _Commands, _whole
from edgespec.drafters.suffix import Suffix
from edgespec.errors import InvalidRequest

COMMAND = [sys.executable, "-m", "edgespec", "chat", "--ctx", "1024", "--seed", "1"]


def said(chat, text, **options):
    session = chat.stream(text, **{"max_tokens": 12, **options})
    for _ in session.stream():
        pass
    return session


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A tiny model that can be talked to."""
    folder = tmp_path_factory.mktemp("chat")
    path = tiny_model(folder / "tiny.gguf", **{"tokenizer.chat_template": TEMPLATE})
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=folder) as engine:
        yield engine


class TestTurns:
    def test_a_turn_taken_back_never_was(self, engine):
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

    def test_an_answer_in_progress_is_taken_back_too(self, engine):
        chat = engine.chat()
        session = chat.stream("w300", max_tokens=30)
        session.step()
        assert chat.undo() == "w300" and chat.messages == []

    def test_the_system_prompt_can_change(self, engine):
        chat = engine.chat("w310 ")
        said(chat, "w300 ")
        chat.system = "w311 "
        assert chat.messages[0] == {"role": "system", "content": "w311 "} and len(chat.messages) == 3
        said(chat, "w301")
        chat.system = None
        assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
        chat.clear()
        assert chat.messages == [] and chat.undo() is None

    def test_a_shift_forgets_where_turns_began(self, engine):
        chat = engine.chat()
        for number in range(8):
            said(chat, f"{'w300 ' * 20}{number}", max_tokens=60, overflow="shift")
        assert chat.undo().endswith("7")
        assert said(chat, "w301", overflow="shift").emitted

    def test_what_is_kept_is_gone_on_with(self, engine):
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
    def test_nonsense_changes_nothing(self, engine, spoilt):
        chat = engine.chat()
        said(chat, "w300")
        before = chat.as_json()
        with pytest.raises((KeyError, TypeError, ValueError)):
            chat.restore({**before, **spoilt}, same_model=True)
        assert chat.as_json() == before


class TestKept:
    def test_a_session_goes_on_without_reading_again(self, engine, tmp_path):
        chat, kept = engine.chat(), Kept(tmp_path, "a")
        assert list(kept.restore(chat, engine)) == ["session a begins"]
        said(chat, "w300 w301 ")
        seen = said(chat, "w302 ")
        kept.save(chat, engine, cache=True)
        engine.context.forget()
        again = engine.chat()
        assert list(kept.restore(again, engine)) == ["session a goes on: 2 turns so far"]
        session = said(again, "w303")
        assert session.tally.cached_tokens >= seen.tally.prompt_tokens + len(seen.emitted) - 1
        assert session.emitted == said(chat, "w303").emitted

    def test_a_damaged_cache_is_set_aside_and_the_text_read(self, engine, tmp_path):
        chat, kept = engine.chat(), Kept(tmp_path, "a")
        said(chat, "w300 w301 ")
        kept.save(chat, engine, cache=True)
        (tmp_path / "a.kv").write_bytes((tmp_path / "a.kv").read_bytes()[:-1])
        engine.context.forget()
        again = engine.chat()
        words = list(kept.restore(again, engine))
        assert "damaged" in words[1] and sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.kv.damaged"]
        assert said(again, "w303").tally.cached_tokens == 0

    def test_another_models_cache_is_left_alone(self, engine, tmp_path):
        chat, kept = engine.chat(), Kept(tmp_path, "a")
        said(chat, "w300 w301 ")
        kept.save(chat, engine, cache=True)
        other = tiny_model(tmp_path / "other.gguf", seed=5, **{"tokenizer.chat_template": TEMPLATE})
        with edgespec.load(other, n_ctx=512, threads=1, cache_dir=tmp_path / "cache") as second:
            again = second.chat()
            words = list(kept.restore(again, second))
            assert "with another model" in words[0] and "left alone" in words[1]
            assert said(again, "w303").tally.cached_tokens == 0
        assert (tmp_path / "a.kv").exists()

    def test_a_smaller_context(self, engine, tmp_path):
        chat, kept = engine.chat(), Kept(tmp_path, "a")
        said(chat, "w300 " * 50, max_tokens=60)
        kept.save(chat, engine, cache=True)
        with edgespec.load(engine.model.path, n_ctx=256, threads=1, cache_dir=tmp_path / "cache") as small:
            words = list(kept.restore(small.chat(), small))
            assert "does not fit" in words[1]

    @pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a\\b"])
    def test_names_that_lead_elsewhere(self, tmp_path, name):
        with pytest.raises(InvalidRequest):
            Kept(tmp_path, name)

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2, "model": "x"}'])
    def test_what_is_no_conversation(self, engine, tmp_path, text):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InvalidRequest, match="no conversation"):
            read_chat(tmp_path / "c.json", engine.chat(), engine)
        with pytest.raises(InvalidRequest, match="there is no such"):
            read_chat(tmp_path / "d.json", engine.chat(), engine)

    def test_saved_and_loaded(self, engine, tmp_path):
        chat, other = engine.chat(), engine.chat()
        said(chat, "w300")
        write_chat(tmp_path / "c.json", chat, engine)
        assert read_chat(tmp_path / "c.json", other, engine) and other.messages == chat.messages


class TestMemory:
    def test_what_was_said_is_found_again_and_bounded(self, engine, tmp_path, monkeypatch):
        monkeypatch.setattr("edgespec.cli.chat.keeping._MOST_REMEMBERED", 100)
        memory = Memory(tmp_path / "m.json")
        for number in range(6):
            chat = engine.chat()
            said(chat, f"w30{number} " * 20)
            memory.add(chat, engine)
        kept = json.loads((tmp_path / "m.json").read_text())["chats"]
        assert 0 < sum(map(len, kept)) <= 100
        with edgespec.load(engine.model.path, n_ctx=512, threads=1, cache_dir=tmp_path / "cache") as fresh:
            Memory(tmp_path / "m.json").teach(fresh)
            (suffix,) = fresh.drafters
            assert isinstance(suffix, Suffix)
            place = len(kept[-1]) // 2
            assert suffix.propose(kept[-1][place - 8 : place], 3).tokens

    def test_a_memory_of_another_model_or_none_is_empty(self, engine, tmp_path):
        for text in ("", "{}", "[]", '{"model": "x", "format": 1, "chats": [[1]]}'):
            (tmp_path / "m.json").write_text(text)
            assert Memory(tmp_path / "m.json")._chats(engine) == []


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["plain"], "plain"),
        (['"""one', "two", 'three"""', "rest"], "one\ntwo\nthree"),
        (['"""', "  indented", '"""'], "\n  indented\n"),
        (['"""all in one"""'], "all in one"),
        (['"""no end'], "no end"),
    ],
)
def test_messages_of_several_lines(lines, text):
    rest = iter(lines[1:])
    assert _whole(lines[0], lambda: next(rest, None)) == text


@pytest.mark.parametrize(
    ("typed", "found"),
    [("/re", ["/regen"]), ("/dr", ["/draft", "/drafter"]), ("/set col", ["colour"]), ("hello", []), ("/exit x", [])],
)
def test_completion(typed, found):
    given = _Commands().get_completions(Document(typed), CompleteEvent())
    assert [one.text for one in given] == found


def test_paths_are_completed(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    given = _Commands().get_completions(Document(f"/file {tmp_path}/no"), CompleteEvent())
    assert [one.text for one in given] == ["tes.txt"]


@pytest.fixture
def env(tmp_path, smollm2):
    kept = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "DATA", "CONFIG")}
    return {**os.environ, **kept, "TERM": "xterm-256color"}


ANSWERED = r"tokens/s, .*context \d+ of 1024"
EVENING = [
    ("/help\r", [*(f"{name} " for name in COMMANDS), "Alt-Enter", "max-tokens"]),
    ("/system You are terse.\r", ["from the next message on"]),
    ("/system\r", ["You are terse"]),
    ("Name a river in France.\r", [ANSWERED]),
    ("/stats\r", ["tokens/s, first token after .* evaluations"]),
    ("/regen\r", [ANSWERED]),
    ("/set colour on\r", ["colour on"]),
    ("/set temp 0.8\r", ["temp 0.8"]),
    ("/set tmp 1\r", ["did you mean temp"]),
    ("/set temp warm\r", ["not a valid float"]),
    ("/regen\r", [ANSWERED]),
    ("/draft off\r", ["decoding plainly"]),
    ("Say a a a a a a a a.\r", [r"1.00 tokens a block"]),
    ("/draft on\r", ["drafting where it pays"]),
    ("/undo\r", ["taken back: Say a a a"]),
    ("/edit\r", ["Name a river in France"]),
    (" Or two.\r", [ANSWERED]),
    ("/file notes.txt\r", ["notes.txt, .* tokens, goes before"]),
    ("What is the secret word?\r", [ANSWERED]),
    ("/save saved.json\r", ["saved: "]),
    ("/clear\r", ["the conversation is empty"]),
    ("/load saved.json\r", ["2 turns"]),
    ("/model\r", ["SmolLM2"]),
    ("/drafter anpd\r", ["anpd"]),
    ("/drafter nobody\r", ["edgespec: no drafter 'nobody'"]),
    ("/model nothing\r", ["edgespec: no model 'nothing'"]),
    ("/sav x\r", ["did you mean /save"]),
    ('"""two\rlines"""\r', [ANSWERED]),
    ("/exit\r", []),
]


@pytest.mark.model
def test_every_command_in_a_terminal(env, tmp_path, monkeypatch):
    """A person's evening with it. Whatever is in COMMANDS is used."""
    assert {typed.split()[0] for typed, _ in EVENING} >= set(COMMANDS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("The secret word is heron.\n")
    terminal = Terminal([*COMMAND, "-n", "16", "--session", "evening"], env)
    terminal.wait_for(r"session evening begins.*commands\..*>")
    for typed, expected in EVENING:
        terminal.type(typed)
        for text in expected:
            terminal.wait_for(text)
    assert terminal.status() == 0 and "Traceback" not in terminal.screen
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert "secret word is heron" in saved["messages"][-2]["content"]

    terminal = Terminal([*COMMAND, "-n", "8", "--session", "evening"], env)
    terminal.wait_for(r"session evening goes on: 3 turns so far.*>")
    terminal.type("And now?\r")
    terminal.wait_for(ANSWERED)
    terminal.type("/stats\r")
    terminal.wait_for(r"prompt tokens, [1-9]\d+ cached.*>")
    terminal.type("\x04")
    assert terminal.status() == 0
    folder = tmp_path / "data" / "edgespec"
    assert folder.stat().st_mode & 0o077 == 0
    assert "+Name a river in France." in (folder / "history").read_text()


@pytest.mark.model
def test_a_private_chat_leaves_nothing(env, tmp_path):
    terminal = Terminal([*COMMAND, "-n", "4", "--private"], env)
    terminal.wait_for(r"commands\..*>")
    terminal.type("Hello\r")
    terminal.wait_for(r"context \d+ of.*>")  # Ctrl-D means leaving only while a line is edited
    terminal.type("\x04")
    assert terminal.status() == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.model
def test_a_piped_chat_is_plain_text(env):
    lines = ['"""Say', 'hello."""', "/set colour on", "/set footer on", "/undo", "/edit", "/set", "Say a a a a a a."]
    result = subprocess.run(
        [*COMMAND, "-n", "16"], input="\n".join(lines), capture_output=True, text=True, timeout=300, check=False,
        env={**env, "NO_COLOR": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert "taken back: Say\nhello." in result.stderr and "needs a terminal" in result.stderr
    assert f"/set knows {', '.join(SETTINGS)}" in result.stderr and "context" in result.stderr


@pytest.mark.model
def test_twenty_turns_evaluate_only_what_is_new(smollm2, tmp_path):
    with edgespec.load(smollm2, n_ctx=2048, cache_dir=tmp_path) as engine:
        chat, seen = engine.chat("Be brief."), 0
        for turn in range(20):
            session = said(chat, f"Give me word number {turn}.", max_tokens=16)
            new = session.tally.prompt_tokens - session.tally.cached_tokens
            assert session.tally.cached_tokens >= seen - 1 and new < 40
            seen = session.tally.prompt_tokens + len(session.emitted)
        assert chat.rewritten == 0 and seen > 500
