"""An EAGLE-3 head of ours in a llama-server of the same llama.cpp: it loads the file as it is, and drafts with it."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from edgespec.backend import LlamaModel
from edgespec.bench.measurements import Answer
from edgespec.bench.peers import PeerSpec, start_peer
from tests.heads.eagle_files import SMOLLM2, random_weights, write_head


def llama_server() -> Path:
    """The program as tools/build_peers.sh builds it, else the one on the path."""
    peers = Path(os.environ.get("PEERS", Path(__file__).parents[2] / ".peers"))
    built = peers / f"llama.cpp-of-{version('llama-cpp-python')}" / "bin" / "llama-server"
    found = str(built) if built.exists() else shutil.which("llama-server")
    if found is None:
        pytest.skip("no llama-server is installed; run: sh tools/build_peers.sh")
    return Path(found)


@pytest.mark.model
def test_llama_server_drafts_with_a_head_of_ours(tmp_path: Path, smollm2: Path) -> None:
    server = llama_server()
    head = write_head(
        tmp_path / "head.gguf", smollm2, SMOLLM2, random_weights(SMOLLM2, 49152), layers=(2, 15, 27), kind="Q8_0"
    )
    model = LlamaModel(smollm2, gpu_layers=0)
    prompt = model.vocabulary.tokenize("The river rises in the hills, and runs past the mill to the")
    model.close()

    def answer(*arguments: str) -> Answer:
        peer = start_peer(PeerSpec("server", arguments), smollm2, server=server, n_ctx=256, threads=1, gpu_layers=0)
        try:
            return peer.answer(prompt, 24, 0.0, 0)
        finally:
            peer.close()

    plain = answer()
    drafted = answer("--spec-type", "draft-eagle3", "-md", str(head), "--spec-draft-threads", "1")
    assert drafted.drafted > 0 and plain.drafted == 0
    assert drafted.tokens == plain.tokens
