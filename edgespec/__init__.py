"""edgespec: language models on laptops and phones, faster, without changing a word of the answer.

import edgespec

with edgespec.load() as engine:
    print(engine.generate("Name three rivers.").text)
"""

from edgespec.chat import Chat
from edgespec.core import Draft, Drafter, Verdict
from edgespec.engine import Engine, load
from edgespec.errors import EdgespecError
from edgespec.sampling import SamplingParams
from edgespec.session import Block, Session
from edgespec.tally import Tally

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Chat",
    "Draft",
    "Drafter",
    "EdgespecError",
    "Engine",
    "SamplingParams",
    "Session",
    "Tally",
    "Verdict",
    "__version__",
    "load",
]
