"""The check before llama.cpp: what passes does not kill it, and what it refuses is refused here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import LlamaVocabulary
from edgespec.errors import GrammarError
from edgespec.grammar import check_grammar
from tests.grammar.matcher import answer


def _reason(grammar: str) -> str:
    with pytest.raises(GrammarError) as refused:
        check_grammar(grammar)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
    return str(refused.value)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('root ::= "ab" bad', "there is no rule named bad"),
        ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "no more than 100 groups within each other"),
        ('root ::= "a\0b"', "NUL at character 12: write it as \\x00"),
        ('root ::= "a"{5,2}', "a repetition whose second number is not below the first"),
        ('root ::= "a"{2001}', "at most 2000 repetitions"),
        ('root ::= ("a" "b"?){1500}{2}', "one within the other multiplied"),
        ('root ::= ("a" | "b"){99999999999999999999}', "a repetition like {2}"),
        ("root ::= " + '"ab"{2000} ' * 1000, "repetitions written out"),
        ('root ::= * "a"', "something to repeat before this"),
        ('root ::= "a"' + "?" * 101, "no more than 100 repetitions of each other"),
        ('root ::= "a', "a literal with its closing quote"),
        ('root ::= "\\q"', "a literal with its closing quote and known escapes"),
        ("root ::= [a", "a class with its closing bracket"),
        ("root ::= <a", "a token like"),
        ("root = x", "line 1, column 6: ::= should be here, not '= x'"),
        ('root ::= "a"\nx "b"', "line 2, column 3: ::= should be here"),
        ("root ::= root", "the rule root begins with itself"),
        ('root ::= x root "b" | "c"\nx ::= y\ny ::= "a" | ""', "the rule root begins with itself"),
        ('root ::= "a" x\nx ::= n x\nn ::= m\nm ::= ""', "the rule x never comes to a character"),
        ("\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(60)) + '\nr60 ::= "a"\nroot ::= r0', "too many ways"),
        ("\n".join(f"r{n} ::= r{n + 1}" for n in range(9000)) + '\nr9000 ::= "a"\nroot ::= r0', "begin with one"),
        ("root ::= \"\ud800\"", "half a surrogate pair at character 11"),
    ],
    ids=lambda value: str(value)[:30].replace("\0", "NUL").replace("\ud800", "half"),
)  # fmt: skip
def test_what_llama_cpp_does_not_survive_or_refuses(grammar: str, reason: str) -> None:
    assert reason in _reason(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" # a comment\n\n# another\n',
        'root ::= ("a" |\n  "b")\nx ::= "c"',
        'root::="a"{2,}[^b-d]{0,2000}.?',
        'root ::= ("a"*)* "b"',
        'root ::= "a"{ 2 , 3 } "b"{0,9999}',
        'root ::= [\\]\\-\\[] "\\x41\\u00e9\\U0001F600\\n\\"" [a-] [^]',
        'root ::= "(" root ")" | ""',
        'expr-1 ::= "x"\r\nroot ::= expr-1 (("+" | "-") expr-1)*\r\n',
    ],
)
def test_sound_grammars_pass_and_llama_cpp_takes_them(vocabulary: LlamaVocabulary, grammar: str) -> None:
    check_grammar(grammar)
    answer(vocabulary, grammar, seed=1, most=20)


PARTS = st.sampled_from([
    '"a"', '"ab"', '""', "[a-c]", "[^a]", "[]", ".", "x", "y", "root", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}",
    "{3,1}", "{2,}", "\n", "x ::=", "y ::=", "# z", "<[5]>", "!<[7]>", '"', "[", "\\", "{", "::=", "é", "\r\n", "_",
])  # fmt: skip


@st.composite
def grammars(draw: st.DrawFn) -> str:
    rules = [" ".join(draw(st.lists(PARTS, min_size=1, max_size=7))) for _ in range(3)]
    return f"root ::= {rules[0]}\nx ::= {rules[1]}\ny ::= {rules[2]}"


@settings(max_examples=400)
@given(grammar=grammars())
def test_llama_cpp_takes_what_passes(vocabulary: LlamaVocabulary, grammar: str) -> None:
    try:
        check_grammar(grammar)
    except GrammarError as refused:
        assert "\n" not in str(refused)
        return
    answer(vocabulary, grammar, seed=1, most=12)  # asserts that llama.cpp takes it and always has a next token


@pytest.mark.parametrize(
    "grammar",
    ["root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, 'root ::= "a" x\nx ::= n x\nn ::= m\nm ::= ""'],
    ids=["nested", "never comes to a character"],
)
def test_these_would_end_the_process(tmp_path: Path, grammar: str) -> None:
    """So that a limit goes when llama.cpp no longer needs it."""
    file = tmp_path / "grammar.gbnf"
    file.write_text(grammar, encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; from edgespec.backend import LlamaModel;"
        "from tests.gguf_files import tiny_model; from tests.grammar.matcher import answer;"
        "model = LlamaModel(tiny_model(Path(sys.argv[1]).with_name('t.gguf')), gpu_layers=0);"
        "answer(model.vocabulary, Path(sys.argv[1]).read_text(encoding='utf-8'), 1)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(file)], cwd=Path(__file__).parents[2],
                           capture_output=True, check=False)  # fmt: skip
    assert ended.returncode < 0, ended.stderr.decode()
