"""Addresses of models at Hugging Face, as people paste them.

https://huggingface.co/ORG/NAME/resolve/main/FOLDER/FILE.gguf?download=true   also /blob/, hf.co, without https://
https://huggingface.co/ORG/NAME, hf.co/ORG/NAME:QUANT, ORG/NAME:QUANT         as llama.cpp's -hf
ORG/NAME/FOLDER/FILE.gguf
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?::([\w.-]+))?/?", re.ASCII)
_FILE = re.compile(rf"({_NAME}/{_NAME})/((?:{_NAME}/)*{_NAME}\.gguf)", re.ASCII)
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_USUAL = "Q4_K_M"
"""The quantization that is taken where none is named, as llama.cpp does."""


class Address(NamedTuple):
    """A repository with the path of one file in it, or with a quantization ("" for the usual one)."""

    repository: str
    file: str | None = None
    quantization: str = ""


def parse_address(text: str) -> Address | None:
    """The address that `text` is; None for anything else. Another revision than `main` is none."""
    rest = text
    if "://" in text or text.split("/", 1)[0].lower() in _HOSTS:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        if parts.scheme not in ("http", "https") or parts.netloc.lower() not in _HOSTS:
            return None
        rest = unquote(parts.path).strip("/")
        if shown := parse_qs(parts.query).get("show_file_info"):
            rest = f"{rest}/{shown[0]}"
        rest = re.sub(r"^([^/]+/[^/]+)/(?:(?:resolve|blob|raw)/main/|tree/main/?)", r"\1/", rest)
        if re.match(r"[^/]+/[^/]+/(resolve|blob|raw|tree)/", rest):
            return None
    if match := _FILE.fullmatch(rest):
        return Address(match[1], first_shard(match[2]))
    match = _REPOSITORY.fullmatch(rest)
    if match is None or (rest == text and match[2] is None):
        return None  # ORG/NAME alone could be a folder
    if (match[2] or "").endswith(".gguf"):
        return Address(match[1], first_shard(match[2]))
    return Address(match[1], quantization=match[2] or "")


def shards(file: str) -> list[str]:
    """The files of a split model, by the path of any of them; of a whole one, that alone."""
    match = _SHARD.fullmatch(file)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= 999:
        return [file]
    return [f"{match[1]}-{number:05}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def first_shard(file: str) -> str:
    """The file that llama.cpp opens: the first of a split model."""
    return shards(file)[0]


def matching(files: Iterable[str], quantization: str) -> list[str]:
    """The models among the paths `files` that have the quantization, first shards for all; the usual one for "".

    Where none is named, a repository's only model is its model, whatever its quantization.
    """
    models = sorted({first_shard(file) for file in files if _is_model(file)})
    if not quantization and len(models) == 1:
        return models
    wanted = re.escape(quantization or _USUAL)
    pattern = re.compile(rf"(?:^|[-._/]){wanted}(?:[-.]|$)", re.IGNORECASE)
    return [file for file in models if pattern.search(file.rsplit("/", 1)[-1])]


def _is_model(file: str) -> bool:
    return file.endswith(".gguf") and not re.search(r"mmproj|imatrix", file, re.IGNORECASE)
