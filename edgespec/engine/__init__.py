"""A loaded target with its drafters, chats on it, and what is remembered of it."""

from edgespec.engine.chat import Chat
from edgespec.engine.engine import Engine
from edgespec.engine.load import load, open_engine
from edgespec.engine.options import EngineOptions

__all__ = ["Chat", "Engine", "EngineOptions", "load", "open_engine"]
