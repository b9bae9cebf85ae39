"""When a process may next try to install capture that is missing."""

import threading
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class RecaptureRest:
    """One for all threads of a node, since each try looks at all tables and has their writers queue behind it."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one that tries."""
    until: float = 0.0
    """Monotonic seconds: no try before."""
