"""Chat templates: rendered as llama-cpp-python renders them, with variables of their own where they read any."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from edgespec.backend.template import ChatTemplate
from edgespec.errors import InvalidRequest
from tests.templates import CHATML

TEMPLATES = [
    CHATML,
    "{{ bos_token }}{% for message in messages %}{{ message['content'] | trim }}{{ eos_token }}{% endfor %}",
    "{% for m in messages %}\n{% if loop.index > 1 %}{% break %}{% endif %}\n{{ m | tojson }}\n{% endfor %}",
    "{% if tools is not none %}tools{% endif %}{% if functions %}f{% endif %}{{ messages | tojson(indent=2) }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.role }}{% endfor %}",
    "    {% if messages %}\n    {{ messages[0]['content'].split('b')[-1] }}\n    {% endif %}\n",
]
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})


@pytest.mark.parametrize("source", TEMPLATES)
@given(messages=st.lists(MESSAGE, max_size=3), reply=st.booleans())
def test_a_template_writes_what_llama_cpp_python_lets_it_write(
    source: str, messages: list[dict[str, str]], reply: bool
) -> None:
    expected: Any = Jinja2ChatFormatter(source, "</s>", "<s>", add_generation_prompt=reply)
    found = ChatTemplate(source, bos="<s>", eos="</s>").render(messages, reply=reply, variables={})
    assert found == expected(messages=messages).prompt


def test_a_template_gets_the_variables_that_it_reads() -> None:
    template = ChatTemplate(CHATML, bos="", eos="")
    said = [{"role": "user", "content": "a"}]
    thinks = template.render(said, reply=True, variables={"enable_thinking": True})
    assert (
        thinks
        == template.render(said, reply=True, variables={})
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(said, reply=True, variables={"enable_thinking": False}) == thinks + "<think>\n\n</think>\n\n"


def test_a_variable_that_is_never_read_is_refused_with_those_that_are() -> None:
    template = ChatTemplate(
        "{{ messages }}{{ bos_token }}{% if tools %}{{ range(3) }}{{ date }}{% endif %}", bos="", eos=""
    )
    template.check({"tools": [], "date": "today"})
    with pytest.raises(InvalidRequest, match="does not read the variable 'enable_thinking'; it reads date, tools"):
        template.check({"enable_thinking": False})
    for name in ("messages", "bos_token", "raise_exception"):
        with pytest.raises(InvalidRequest, match=f"does not read the variable '{name}'"):
            template.check({name: ""})
    with pytest.raises(InvalidRequest, match="it reads none"):
        ChatTemplate("{{ messages }}", bos="", eos="").check({"a": 1})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}",
        "{{ strftime_now.__globals__.x }}", "{{ cycler.__init__.__globals__.os }}",
    ],
)  # fmt: skip
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(Exception, match=r"unsafe|no|not allowed"):
        ChatTemplate(source, bos="", eos="").render([{"role": "user", "content": "a"}], reply=True, variables={})
