"""One answer: the decode loop, sampling, verification, text, statistics."""

from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Block, Session
from edgespec.decode.stats import Tally

__all__ = ["Block", "SamplingParams", "Session", "Tally"]
