"""Addresses of models at Hugging Face as people paste them, and what is pulled by them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgespec.cli import main
from edgespec.errors import DownloadError, ModelNotFound
from edgespec.hub.address import Address, matching, parse_address, shards
from edgespec.hub.catalogue import entries, entry_of_repository
from edgespec.hub.resolve import entry_of, entry_to_pull, resolve
from tests.model_server import Hub, serving

FILE, SUB = Address("org/na.me", "F-q4.gguf"), Address("org/na.me", "Q4/F-q4.gguf")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("org/na.me/F-q4.gguf", FILE),
        ("org/na.me/Q4/F-q4.gguf", SUB),
        ("https://huggingface.co/org/na.me/resolve/main/F-q4.gguf", FILE),
        ("https://huggingface.co/org/na.me/resolve/main/F-q4.gguf?download=true", FILE),
        ("https://huggingface.co/org/na.me/blob/main/F-q4.gguf#anchor", FILE),
        ("http://www.huggingface.co/org/na.me/raw/main/Q4/F-q4.gguf", SUB),
        ("huggingface.co/org/na.me/blob/main/Q4/F-q4.gguf", SUB),
        ("hf.co/org/na.me/F-q4.gguf", FILE),
        ("https://huggingface.co/org/na.me?show_file_info=Q4%2FF-q4.gguf", SUB),
        ("https://hf.co/org/na.me", Address("org/na.me")),
        ("https://huggingface.co/org/na.me/", Address("org/na.me")),
        ("https://huggingface.co/org/na.me/tree/main", Address("org/na.me")),
        ("hf.co/org/na.me:Q8_0", Address("org/na.me", None, "Q8_0")),
        ("org/na.me:Q4_K_M", Address("org/na.me", None, "Q4_K_M")),
        ("org/na.me:F-q4.gguf", FILE),
        ("org/na.me/F-00002-of-00003.gguf", Address("org/na.me", "F-00001-of-00003.gguf")),
    ],
)
def test_what_people_paste(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "smollm2-135m", "m.gguf", "dir/m.gguf", "./org/name/m.gguf", "/org/name/m.gguf", "org/name",
        "org/../m.gguf", "https://huggingface.co/org/name/resolve/v1/F.gguf", "hf.co/org/name/blob/0f3a/Q4/F.gguf",
        "https://example.com/org/name/resolve/main/F.gguf", "ftp://huggingface.co/org/name/resolve/main/F.gguf",
        "https://huggingface.co/org/name/resolve/v1/F.gguf/..", "https://huggingface.co/org/name/resolve/main/../F.gguf",
        "https://huggingface.co", "https://huggingface.co.evil/org/name/resolve/main/F.gguf",
        "https://huggingface.co/org/name/resolve/main/%2e%2e/F.gguf", "org/name:Q4/K", "org/name/F.gguf\n",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@given(st.text(alphabet="orgname/.:-_%?=&#Q4KMhttps.co gf", max_size=60))
def test_no_address_leaves_the_store(text: str) -> None:
    for address in (parse_address(text), parse_address(f"https://hf.co/{text}")):
        if address is not None and address.file is not None:
            entry = entry_of_repository(f"{address.repository}/{address.file}")
            assert entry is not None
            assert re.fullmatch(r"[A-Za-z0-9][\w.+-]*", entry.stored_as)


def test_folders_and_dashes_do_not_meet_in_the_store() -> None:
    entries = [entry_of_repository(name) for name in ("o/n/a/b.gguf", "o/n/a--b.gguf", "o/n/a-b.gguf")]
    assert len({entry.stored_as for entry in entries if entry}) == 3


FILES = [
    "README.md", "m-Q4_K_M.gguf", "m-q8_0.gguf", "m-IQ4_K.gguf", "mmproj-m-Q8_0.gguf", "UD/m-UD-Q4_K_XL.gguf",
    *(f"F16/m-F16-0000{number}-of-00002.gguf" for number in (1, 2)), "m.Q4_0.gguf", "x_Q2_K.gguf", "y_Q2_K.gguf",
]  # fmt: skip


@pytest.mark.parametrize(
    ("quantization", "found"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]), ("q4_k_m", ["m-Q4_K_M.gguf"]), ("", ["m-Q4_K_M.gguf"]), ("Q4_K", []),
        ("Q8_0", ["m-q8_0.gguf"]), ("F16", ["F16/m-F16-00001-of-00002.gguf"]), ("UD-Q4_K_XL", ["UD/m-UD-Q4_K_XL.gguf"]),
        ("Q4_K_XL", ["UD/m-UD-Q4_K_XL.gguf"]), ("Q4_0", ["m.Q4_0.gguf"]), ("Q2_K", ["x_Q2_K.gguf", "y_Q2_K.gguf"]),
        ("Q", []), (".*", []),
    ],
)  # fmt: skip
def test_the_quantization_is_found_by_the_file_names(quantization: str, found: list[str]) -> None:
    assert matching(FILES, quantization) == found


def test_an_only_model_needs_no_name() -> None:
    assert matching(["README.md", "m-Q6_K.gguf"], "") == ["m-Q6_K.gguf"]


def test_shards() -> None:
    assert shards("a/m-00002-of-00003.gguf") == [f"a/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert shards("m-00004-of-00003.gguf") == ["m-00004-of-00003.gguf"]
    assert shards("m.gguf") == ["m.gguf"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in tuple(os.environ):
        if name.startswith(("HF_", "EDGESPEC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with serving(Hub(files=FILES)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("EDGESPEC_MODELS", str(tmp_path / "store"))
        yield hub


def models(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["models", *arguments])


def test_a_quantization_is_pulled_and_then_found_without_the_network(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"edgespec models pull hf\.co/o/n:Q8_0"):
        resolve("hf.co/o/n:Q8_0", cache_dir=tmp_path)
    assert models("pull", "hf.co/o/n:Q8_0").exit_code == 0
    asked = len(hub.requests)
    stored = tmp_path / "store" / "o--n--m-q8_0.gguf"
    for name in ("hf.co/o/n:Q8_0", "o/n:q8_0", "o/n/m-q8_0.gguf", "https://hf.co/o/n/blob/main/m-q8_0.gguf"):
        assert resolve(name, cache_dir=tmp_path) == stored
    assert len(hub.requests) == asked


def test_a_repository_alone_means_the_usual_quantization(hub: Hub) -> None:
    assert entry_to_pull("o/n").file == entry_to_pull("https://huggingface.co/o/n").file == "m-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("o/n:Q5_K_M", r"o/n has no models of Q5_K_M: name one as o/n/FILE\.gguf \(F16/"),
        ("o/n:Q2_K", "2 models of Q2_K"),
    ],
)
def test_what_cannot_be_chosen_is_listed(hub: Hub, address: str, says: str) -> None:
    with pytest.raises(DownloadError, match=says):
        entry_to_pull(address)


@pytest.mark.parametrize("listing", ["{}", "[", '{"siblings": [1]}', '{"siblings": null}'])
def test_a_list_that_is_none(hub: Hub, listing: str) -> None:
    hub.listing = listing
    with pytest.raises(DownloadError, match="no list of files"):
        entry_to_pull("o/n:Q8_0")


def test_all_shards_are_pulled_found_and_removed(hub: Hub, tmp_path: Path) -> None:
    result = models("pull", "https://huggingface.co/o/n/resolve/main/F16/m-F16-00002-of-00002.gguf")
    assert result.exit_code == 0
    names = [f"o--n--F16+m-F16-0000{number}-of-00002.gguf" for number in (1, 2)]
    assert sorted(path.name for path in (tmp_path / "store").glob("*.gguf")) == names
    assert resolve("o/n:F16", cache_dir=tmp_path).name == names[0]
    assert models("list").stdout.count("m-F16-0000") == 1
    (tmp_path / "store" / names[1]).unlink()
    with pytest.raises(ModelNotFound):
        resolve("o/n/F16/m-F16-00001-of-00002.gguf", cache_dir=tmp_path)
    assert models("pull", "o/n:F16").exit_code == 0
    assert sum("m-F16-00001" in path for path, _ in hub.requests) == 1, "what is here is not pulled again"
    assert models("rm", "o/n/F16/m-F16-00001-of-00002.gguf").exit_code == 0
    assert list((tmp_path / "store").glob("*.gguf")) == []


def test_the_address_of_a_model_of_the_catalogue_is_that_model(hub: Hub, tmp_path: Path) -> None:
    known = entries()["qwen3-4b"]
    address = f"https://huggingface.co/{known.repository}/blob/main/{known.file}"
    assert entry_of(address) == known
    long_name = tmp_path / "store" / f"{known.repository}/{known.file}".replace("/", "--")
    long_name.parent.mkdir()
    long_name.touch()  # as older versions pulled it
    assert entry_of(address).stored_as == long_name.name


def test_an_address_elsewhere_gets_a_hint() -> None:
    with pytest.raises(ModelNotFound, match="an address at Hugging Face"):
        resolve("https://example.com/m.gguf", cache_dir=Path())
    with pytest.raises(ModelNotFound, match="of the newest version"):
        entry_of("https://huggingface.co/o/n/resolve/v1.0/m.gguf")
