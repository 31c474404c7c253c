"""A loaded target with its drafters, chats on it, and what is remembered of it."""

from edgespec.engine.chat import Chat
from edgespec.engine.engine import Engine, load

__all__ = ["Chat", "Engine", "load"]
