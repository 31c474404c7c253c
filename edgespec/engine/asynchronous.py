"""Answers for asyncio: a worker thread takes the blocking steps, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor

from edgespec.decode.session import Block, Session

_TURN = 2.0
"""The length of a turn, in times of its first block."""


class Turns:
    """Decodes the answers of one engine in a thread, one turn after the other: first come, first served.

    Answers that take turns push each other out of the KV cache, so that the first block of a turn may have to read a
    conversation again. A turn lasts `_TURN` times as long as that block took: so at least half of the time is for what
    is new, and no answer waits for more than one turn of each other one. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgespec")
        self._clock = clock

    async def begin(self, start: Callable[[], Session]) -> Session:
        """The session that `start` makes, called in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, start)

    async def answer(self, start: Callable[[], Session]) -> AsyncGenerator[Block, None]:
        """The blocks of the session that `start` makes."""
        session = await self.begin(start)
        async with contextlib.aclosing(self.blocks(session)) as blocks:
            async for block in blocks:
                yield block

    async def blocks(self, session: Session) -> AsyncGenerator[Block, None]:
        """The blocks of the answer as they come.

        Where the task is cancelled, or the loop over the blocks is left, the forward pass in progress ends first, and
        the answer ends with it.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Block | None] = asyncio.Queue()  # None ends a turn
        remaining = session.stream()
        left = threading.Event()

        def send(block: Block | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(queue.put_nowait, block)

        def turn() -> None:
            begun, first = self._clock(), 0.0
            for block in remaining:
                send(block)
                elapsed = self._clock() - begun
                first = first or elapsed
                if elapsed >= _TURN * first and not left.is_set():
                    return

        running: Future[None] | None = None
        try:
            while not session.finished:
                running = self._worker.submit(turn)
                running.add_done_callback(lambda _: send(None))
                while (block := await queue.get()) is not None:
                    yield block
                running.result()  # raises what the turn raised
        finally:
            session.cancel()
            left.set()  # a turn in progress goes on to the step that ends the answer
            if running is not None and not running.done() and not running.cancel():
                while await queue.get() is not None:
                    pass
