"""Looks at pools, bounded in time: one that hangs costs whoever asks for others nothing.

A look that is not answered in time goes on in the pool's own threads, for a system call that hangs
cannot be taken back. Until it is answered the pool is silent: who asks next is told so at once.
Now and then another look is begun, without anybody waiting for it, since the first may have been
lost with its disk, and the pool be well.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from blockgate.model.config import Pool
from blockgate.model.errors import Unavailable

_T = TypeVar("_T")

WAIT_S = 3.0
"""How long a look is waited for."""
AGAIN_S = 10.0
"""How long after a look that was not answered another one is begun."""
HANGING_MAX = 4
"""How many looks of one kind at one pool may hang; with each further one the next waits twice as
long, for each takes a thread, and yet a pool must not be silent for ever."""


class Look(Enum):
    """What is looked at. One file may hang while its pool answers."""

    PROBE = auto()
    """The pool itself: while it is silent nothing else of it is looked at."""
    DATA = auto()
    SPACE = auto()
    PLACE = auto()


class NoAnswer(Unavailable):
    """The pool did not answer in time, or has not answered yet since it did not."""


@dataclass(slots=True)
class _Silence:
    since: float
    tried: float
    again: Callable[[], Coroutine[Any, Any, Any]]


class Looks:
    """Carries out looks, and remembers which pools are silent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent: dict[tuple[Pool, Look], _Silence] = {}
        self._hanging: Counter[tuple[Pool, Look]] = Counter()

    async def look(
        self,
        kind: Look,
        pool: Pool,
        work: Callable[[], Coroutine[Any, Any, _T]],
        *,
        afresh: bool = False,
    ) -> _T:
        """What `work` gives or raises; `NoAnswer` after `WAIT_S`, or at once while it is silent.

        `afresh`: silence is no answer to this question, for what depends on it must be known now;
        but when many looks hang already it is not waited for another.
        """
        for key in ((pool, Look.PROBE), (pool, kind)):
            silence = self._silent.get(key)
            if silence is not None and (not afresh or self._hanging[key] >= HANGING_MAX):
                self._try_again(key, silence)
                seconds = self._clock() - silence.since
                raise NoAnswer(f"It has not answered for {seconds:.0f} s.")
        began = self._clock()
        task = self._begin((pool, kind), work)
        await asyncio.wait([task], timeout=WAIT_S)
        if not task.done():
            self._silent.setdefault((pool, kind), _Silence(began, began, work))
            raise NoAnswer(f"It did not answer within {WAIT_S:.0f} s.")
        return task.result()

    def _begin(
        self, key: tuple[Pool, Look], work: Callable[[], Coroutine[Any, Any, _T]]
    ) -> asyncio.Task[_T]:
        task = asyncio.create_task(work())
        self._hanging[key] += 1

        def answered(task: asyncio.Task[_T]) -> None:
            self._hanging[key] -= 1
            if not self._hanging[key]:
                del self._hanging[key]
            self._silent.pop(key, None)
            if not task.cancelled():
                task.exception()  # perhaps nobody waits for it any more

        task.add_done_callback(answered)
        return task

    def _try_again(self, key: tuple[Pool, Look], silence: _Silence) -> None:
        now = self._clock()
        pause = AGAIN_S * 2 ** max(0, self._hanging[key] - HANGING_MAX)
        if now - silence.tried >= pause:
            silence.tried = now
            self._begin(key, silence.again)
