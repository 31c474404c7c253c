"""Prints a plain text of prose and code: Python's help topics and every fourth module of its library.

    python tools/plain_text.py > python-library.txt
    edgespec calibrate -m TARGET.gguf --text python-library.txt -o text.json

For comparing: tokens ranked by such a text alone, and by what the target says (docs/benchmarks.md).
"""

from __future__ import annotations

import os
from pathlib import Path
from pydoc_data.topics import topics


def main() -> None:
    """About 1.5 MB."""
    for text in topics.values():
        print(text)
    for module in sorted(Path(os.__file__).parent.glob("*.py"))[::4]:
        print(module.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
