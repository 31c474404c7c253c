"""Variables of chat templates from Python: they reach the prompt, and a template that does not read them says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec import Engine
from edgespec.engine.messages import conversation
from edgespec.errors import InvalidRequest
from tests.gguf_files import tiny_model
from tests.templates import CHATML

UNTHINKING = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("variables")
    path = tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": CHATML})
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=folder) as engine:
        yield engine


def read(engine: Engine, tokens: int) -> str:
    """The text of the first tokens that the engine evaluated last."""
    cached, _ = engine.context.state()
    return engine.model.vocabulary.spelled(cached[:tokens]).decode()


@pytest.mark.parametrize("arguments", [{}, {"overflow": "shift"}, {"system": "w300"}], ids=str)
def test_variables_reach_the_prompt(engine: Engine, arguments: dict[str, Any]) -> None:
    for thinks in (True, False):
        session = engine.generate("w301", template_variables={"enable_thinking": thinks}, max_tokens=4, **arguments)
        prompt = read(engine, session.tally.prompt_tokens)
        assert prompt.endswith(UNTHINKING) is not thinks
    plain = engine.model.render(conversation("w301", None))
    assert engine.model.render(conversation("w301", None), variables={"enable_thinking": False}) == plain + UNTHINKING


def test_a_chat_keeps_them_until_they_are_changed(engine: Engine) -> None:
    chat = engine.chat(template_variables={"enable_thinking": False})
    for expected in (True, False, True):
        chat.template_variables = {"enable_thinking": not expected}
        session = chat.stream("w302", max_tokens=3)
        for _ in session.stream():
            pass
        assert read(engine, session.tally.prompt_tokens).endswith(UNTHINKING) is expected
    chat.template_variables = None
    assert chat.template_variables == {}
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3


def test_a_variable_that_the_template_does_not_read(engine: Engine) -> None:
    wrong = {"enable_thoughts": True}
    for use in (
        lambda: engine.stream("w300", template_variables=wrong),
        lambda: engine.generate("w300", template_variables=wrong),
        lambda: engine.chat(template_variables=wrong),
        lambda: setattr(engine.chat(), "template_variables", wrong),
    ):
        with pytest.raises(InvalidRequest, match="read the variable 'enable_thoughts'; it reads enable_thinking"):
            use()
    assert engine.model.template_variables == {"enable_thinking"}


def test_a_raw_prompt_has_no_variables(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="raw prompt has no chat template"):
        engine.generate("w300", raw=True, template_variables={"enable_thinking": True})
    assert engine.generate("w300", raw=True, template_variables={}, max_tokens=1).emitted


def test_without_a_template_there_is_nothing_to_set(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    with edgespec.load(path, n_ctx=64, threads=1, cache_dir=tmp_path) as engine:
        assert engine.chat().messages == []
        with pytest.raises(edgespec.EdgespecError, match="has no chat template"):
            engine.chat(template_variables={"enable_thinking": True})
