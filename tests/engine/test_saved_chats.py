"""A saved chat goes on with the same model, whatever became of its file's name and age."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import edgespec
from edgespec.engine.saved_chats import SavedChat
from tests.gguf_files import tiny_model

TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def test_the_same_bytes_are_the_same_model(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    saved = SavedChat(tmp_path, "a")
    with edgespec.load(path, threads=1, cache_dir=tmp_path) as engine:
        chat = engine.chat()
        for _ in chat.stream("w300 w301", max_tokens=8).stream():
            pass
        saved.save(chat, engine, cache=True)
    os.utime(path, ns=(0, 0))
    copy = Path(shutil.copyfile(path, tmp_path / "renamed.gguf"))
    for again in (path, copy):
        with edgespec.load(again, threads=1, cache_dir=tmp_path) as engine:
            assert list(saved.restore(engine.chat(), engine)) == ["session a continues: 1 turn so far"]
