"""The data set on disk: what is read is what was written, whenever the writer was killed; damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest, OutputError
from edgespec.heads import dataset
from edgespec.heads.dataset import HEADER, SHARDS, DataWriter, HeadData, Recorded

HEADER_OF_TEST: dict[str, Any] = {"target": {"name": "t", "hidden_size": 4}, "states": ["layer.2", "last"], "top": 3}


def answer(prompt: int, length: int, *, looping: bool = False) -> Recorded:
    random = np.random.default_rng((prompt, length))
    states = {name: random.standard_normal((length, 4)).astype(np.float16) for name in HEADER_OF_TEST["states"]}
    return Recorded(
        prompt, looping, random.integers(0, 99, length).astype(np.int32), random.random(length) < 0.5, states,
        random.integers(0, 99, (length, 3)).astype(np.int32), random.random((length, 3)).astype(np.float16),
        random.random(length).astype(np.float32),
    )  # fmt: skip


def same(left: Recorded, right: Recorded) -> bool:
    names = ("prompt", "looping", "tokens", "is_answer", "top_ids", "top_logits", "logsumexp")
    parts = [(getattr(left, name), getattr(right, name)) for name in names]
    parts += [(left.states[name], right.states[name]) for name in left.states]
    return left.states.keys() == right.states.keys() and all(np.array_equal(one, other) for one, other in parts)


def written(directory: Path, *shards: list[Recorded]) -> Path:
    writer = DataWriter(directory, HEADER_OF_TEST)
    for shard in shards:
        writer.add(shard)
    writer.close()
    return directory


@given(shards=st.lists(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4), max_size=3))
def test_what_is_read_is_what_was_written(shards: list[list[tuple[int, bool]]], tmp_path_factory: Any) -> None:
    answers = [
        [answer(7 * number + index, length, looping=loops) for index, (length, loops) in enumerate(shard)]
        for number, shard in enumerate(shards)
    ]
    directory = written(tmp_path_factory.mktemp("data"), *answers)
    data, every = HeadData(directory), [one for shard in answers for one in shard]
    assert len(data) == len(every) and data.tokens == sum(len(one.tokens) for one in every)
    assert all(same(*pair) for pair in zip(data, every, strict=True))
    assert data.header == {"format": 1, **HEADER_OF_TEST}
    assert [shard.looping for shard in data.shards] == [sum(one.looping for one in shard) for shard in answers]


def test_a_writer_goes_on_after_the_last_complete_shard(tmp_path: Path) -> None:
    written(tmp_path, [answer(0, 3)], [answer(1, 4)])
    with (tmp_path / SHARDS).open("ab") as file:
        file.write(b'{"file":"shard-00002.npz","sha2')  # killed within the line,
    (tmp_path / "shard-00002.npz").write_bytes(b"PK")  # after the file,
    (tmp_path / ".0123abcd.shard-00003.npz").write_bytes(b"PK")  # or within the file
    assert len(HeadData(tmp_path)) == 2
    writer = DataWriter(tmp_path, HEADER_OF_TEST)
    assert writer.prompts() == [0, 1]
    writer.add([answer(5, 2)])
    writer.close()
    assert [one.prompt for one in HeadData(tmp_path)] == [0, 1, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        HEADER, "shard-00000.npz", "shard-00001.npz", "shard-00002.npz", SHARDS,
    ]  # fmt: skip


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    written(tmp_path, [answer(0, 3)], [answer(1, 4)])
    path = tmp_path / "shard-00001.npz"
    sound = path.read_bytes()
    for torn in (sound[:-100], sound[:200] + b"x" + sound[201:], None):
        path.unlink() if torn is None else path.write_bytes(torn)
        answers = iter(HeadData(tmp_path))
        assert next(answers).prompt == 0
        with pytest.raises(InvalidRequest, match=r"shard-00001\.npz is damaged"):
            next(answers)


def test_another_header_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    written(tmp_path, [answer(0, 3)])
    with pytest.raises(InvalidRequest, match='begun with name "t", and this is "u"'):
        DataWriter(tmp_path, {**HEADER_OF_TEST, "target": {"name": "u", "hidden_size": 4}})
    with pytest.raises(InvalidRequest, match=r'begun with states \["layer.2", "last"\], and this is \["last"\]'):
        DataWriter(tmp_path, {**HEADER_OF_TEST, "states": ["last"]})


def test_two_writers_at_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    writer = DataWriter(tmp_path, HEADER_OF_TEST)
    with pytest.raises(InvalidRequest, match="another edgespec heads collect"):
        DataWriter(tmp_path, HEADER_OF_TEST)
    writer.close()
    DataWriter(tmp_path, HEADER_OF_TEST).close()


def test_directories_that_hold_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no data set of edgespec heads collect"):
        HeadData(tmp_path / "nowhere")
    (tmp_path / HEADER).write_text("{}")
    with pytest.raises(InvalidRequest, match="no header of edgespec heads collect"):
        HeadData(tmp_path)
    (tmp_path / HEADER).write_text(json.dumps({**HEADER_OF_TEST, "format": 2}))
    with pytest.raises(InvalidRequest, match="format 2, not 1"):
        HeadData(tmp_path)
    (tmp_path / HEADER).write_text(json.dumps({**HEADER_OF_TEST, "format": 1}))
    with pytest.raises(InvalidRequest, match=SHARDS):
        HeadData(tmp_path)
    (tmp_path / SHARDS).write_text("[1]\n")
    with pytest.raises(InvalidRequest, match="no list of shards"):
        HeadData(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, [answer(0, 3)])
    writer = DataWriter(tmp_path, HEADER_OF_TEST)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_flush", full)
    with pytest.raises(OutputError, match="No space left on device; what is complete stays"):
        writer.add([answer(1, 3)])
    monkeypatch.undo()
    writer.close()
    assert [one.prompt for one in HeadData(tmp_path)] == [0]
    shutil.rmtree(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_line_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    written(tmp_path, [answer(0, 3)])
    writer = DataWriter(tmp_path, HEADER_OF_TEST)
    writer._list.close()
    writer._list = Path("/dev/full").open("a+b")  # noqa: SIM115 - the writer closes it
    with pytest.raises(OutputError, match="No space left on device"):
        writer.add([answer(1, 3)])
    writer.close()
    assert [one.prompt for one in HeadData(tmp_path)] == [0]
    again = DataWriter(tmp_path, HEADER_OF_TEST)
    again.add([answer(1, 3)])
    again.close()
    assert [one.prompt for one in HeadData(tmp_path)] == [0, 1]
