"""Result files: where figures come from, and which may be added to."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.bench.measurements import Answer
from edgespec.bench.results import code_digest, origin, resumed, without_folders, write
from edgespec.errors import InvalidRequest, OutputError

FRESH: dict[str, Any] = {
    "what": "speed",
    "settings": {"tokens": 96, "rounds": 5},
    "machine": {"cpu": "a CPU", "cores": 2},
    "versions": {"edgespec": "0", "code": "ab"},
    "models": [{"file": "m.gguf", "bytes": 1}],
    "prompts": [],
}


def _stored(folder: Path, **changes: Any) -> Path:
    path = folder / "r.json"
    write(path, {**deepcopy(FRESH), **changes})
    return path


def test_where_there_is_no_file_nothing_was_begun(tmp_path: Path) -> None:
    assert resumed(tmp_path / "r.json", FRESH, holds="prompts") is None


def test_what_was_begun_alike_is_gone_on_with(tmp_path: Path) -> None:
    path = _stored(tmp_path, prompts=[{"question_id": 1}], date="long ago", command="another")
    assert resumed(path, FRESH, holds="prompts") == {
        **FRESH, "prompts": [{"question_id": 1}], "date": "long ago", "command": "another"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": {"tokens": 96, "rounds": 6}}, r"another rounds \(6\)"),
        ({"settings": {"tokens": 96}}, r"another rounds \(None\)"),
        ({"settings": {"tokens": 1, "rounds": 6}}, r"another rounds, tokens \(6, 1\)"),
        ({"settings": {"tokens": 96, "rounds": 5, "new": 1}}, r"another new \(1\)"),
        ({"machine": {"cpu": "other", "cores": 2}}, r"another cpu \(other\)"),
        ({"versions": {"edgespec": "0", "code": "cd"}}, r"another code \(cd\)"),
        ({"models": []}, r"another models \(\[\]\)"),
    ],
)
def test_what_was_begun_otherwise_is_not(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"it was begun with {named}; choose another file, or remove this one"):
        resumed(_stored(tmp_path, **changes), FRESH, holds="prompts")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"what": "speed"}', '{"what": "else", "settings": {}}'])
def test_what_is_no_result_is_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequest, match="it exists and is no result of this benchmark; choose another file"):
        resumed(tmp_path / "r.json", FRESH, holds="prompts")


def test_a_file_that_does_not_tell_its_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="it does not say which code it was measured with"):
        resumed(_stored(tmp_path, versions={"edgespec": "0"}), FRESH, holds="prompts")


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = _stored(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, {"what": object()})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]
    write(path, {"what": "größe"})
    assert path.read_text(encoding="utf-8") == '{\n "what": "größe"\n}\n'


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "file" / "r.json", {})


def test_the_origin_tells_no_folder_of_the_machine(tmp_path: Path) -> None:
    model = tmp_path / "my models" / "m.gguf"
    model.parent.mkdir()
    model.write_bytes(b"12345")
    found = origin("speed", [model], ["edgespec", "bench", "-m", str(model), f"--json={tmp_path}/r.json"])
    assert found["models"] == [{"file": "m.gguf", "bytes": 5}]
    assert found["command"] == "edgespec bench -m m.gguf --json=r.json"
    assert str(tmp_path) not in json.dumps(found)
    assert found["versions"]["code"] == code_digest()
    assert len(found["versions"]["code"]) == 16


_NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6)


@given(st.lists(_NAMES, min_size=1, max_size=4), st.sampled_from(["", "-m=", "auto+", "--json="]))
def test_no_folder_of_an_absolute_path_is_left(parts: list[str], before: str) -> None:
    assert without_folders(f"{before}/{'/'.join(parts)}") == f"{before}{parts[-1]}"
    assert without_folders("/".join(parts)) == "/".join(parts), "where it does not leave the working directory"


def test_an_answer_for_a_file_has_no_tokens_and_nothing_empty() -> None:
    assert Answer((5, 6, 7), 1.5, 0.5, 2).as_json() == {
        "tokens": 3,
        "seconds": 1.5,
        "first_token_seconds": 0.5,
        "blocks": 2,
    }
    assert Answer((), 0.0, 0.0, 0).as_json() == {"tokens": 0}
    fields = Answer((5,), 0.0, 0.5, 0, 4, 2, {"x": 3}, {"x": [4]}, {"x": [2]}).as_json()
    assert fields == {
        "tokens": 1, "first_token_seconds": 0.5, "drafted": 4, "accepted": 2, "guesses": {"x": 3},
        "judged_at": {"x": [4]}, "accepted_at": {"x": [2]},
    }  # fmt: skip
