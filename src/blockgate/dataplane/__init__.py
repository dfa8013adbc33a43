"""The one adapter over the engine.

Two streams meet here. Downward, control's calls become calls of ``blockgate._engine``, in a thread
where they may wait. Upward, the engine's events are read on the event loop when its ``event_fd``
is readable. All state of this package is touched on the loop alone.
"""

from blockgate.dataplane.handshakes import Handshakes
from blockgate.dataplane.plane import EVENTS_PER_TURN, EngineDataPlane, Protocol

__all__ = ["EVENTS_PER_TURN", "EngineDataPlane", "Handshakes", "Protocol"]
