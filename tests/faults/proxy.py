"""A TCP proxy on loopback that can cut a connection in the middle of what is sent, fall silent, or refuse."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from contextlib import suppress

_CHUNK = 65_536
_LINGER_NOT = struct.pack("ii", 1, 0)
"""So that a close is a reset, as when a cable is pulled or a process dies."""


class Proxy:
    """Passes on what comes, from its own port to a server's, until it is told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._numbers = itertools.count()
        self._flows = threading.Event()
        self._flows.set()
        self._cut_next = False
        self._refuses = False
        self.cuts = 0
        """How many connections were cut in the middle of something."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def connections(self) -> set[int]:
        """The connections that are open on both sides now, by numbers that no later one gets."""
        with self._lock:
            return set(self._pairs)

    def cut(self) -> None:
        """Let half of the next thing that somebody sends through, then reset that connection."""
        self._cut_next = True

    def stall(self) -> None:
        """Pass nothing on any more; connections stay open."""
        self._flows.clear()

    def refuse(self) -> None:
        """Reset every connection, and each that comes."""
        self._refuses = True
        self._reset_all()

    def heal(self) -> None:
        """Pass everything on again."""
        self._cut_next = self._refuses = False
        self._flows.set()

    def close(self) -> None:
        """End; nothing gets through any more."""
        self._refuses = True
        self._flows.set()
        self._listener.close()
        self._reset_all()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                _reset(here)
                continue
            try:
                there = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(here)
                continue
            there.settimeout(None)
            number = next(self._numbers)
            with self._lock:
                self._pairs[number] = (here, there)
            # Before either direction flows: the first may cut the connection, and close both ends, at once.
            for end in (here, there):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(number, one, other), daemon=True).start()

    def _pump(self, number: int, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(_CHUNK):
                self._flows.wait()
                if self._cut_next and len(data) > 1:
                    self._cut_next = False
                    self.cuts += 1
                    other.sendall(data[: len(data) // 2])
                    break
                other.sendall(data)
        for end in (one, other):
            _reset(end)
        with self._lock:
            self._pairs.pop(number, None)

    def _reset_all(self) -> None:
        with self._lock:
            pairs = list(self._pairs.values())
        for pair in pairs:
            for end in pair:
                _reset(end)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    with suppress(OSError):
        # Wakes the thread that waits for something to come; a close alone doesn't.
        end.shutdown(socket.SHUT_RDWR)
    end.close()
