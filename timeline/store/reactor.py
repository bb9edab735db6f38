"""The driver's sockets on our own event loop, instead of a thread of the driver's.

With a thread beside the loop each request hands the interpreter's lock over and back, and on busy cores every handing over waits
for the scheduler. Here an answer is read, decoded and given out by the loop itself, and what is asked for in one turn of the loop
is sent with one system call. The driver asks of this class what it asks of its own reactors: `push` and
`create_timer` may be called by any thread, and nothing that runs on the loop blocks. Connecting does, so it must not run there.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from cassandra.connection import Connection, ConnectionShutdown

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def connection_on(loop: asyncio.AbstractEventLoop) -> type[LoopConnection]:
    """The driver's connection class for this loop. Call it on the loop's thread."""
    return type("LoopConnection", (LoopConnection,), {"loop": loop, "thread": threading.get_ident()})


class LoopConnection(Connection):  # type: ignore[misc]  # the driver has no types, so mypy sees a base of Any
    """One socket to a node. `connection_on` makes the class that the driver is given."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    thread: ClassVar[int]
    in_buffer_size = 65_536  # bytes; more than a TLS record holds, so that a short read has emptied one
    is_closed: bool

    @classmethod
    def initialize_reactor(cls) -> None:
        """The loop runs already."""

    @classmethod
    def handle_fork(cls) -> None:
        """No process of ours forks with a session open."""

    @classmethod
    def create_timer(cls, timeout: float, callback: Callable[[], Any]) -> Timer:
        """`callback` on the loop, in so many seconds."""
        return Timer(cls.loop, cls.on_loop(), timeout, callback)

    @classmethod
    def on_loop(cls) -> bool:
        return threading.get_ident() == cls.thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsent: deque[bytes] = deque()  # filled by any thread, emptied by the loop
        self._rest: memoryview | None = None  # of what the socket did not take whole
        self._awake = False  # whether the loop is about to send; known to the loop alone
        self._attached = False
        self._connect_socket()
        self._socket.setblocking(False)
        self._tell(self._attach)
        self._send_options_message()

    def push(self, data: bytes) -> None:
        """Send these bytes after those pushed before. Raises ConnectionShutdown when the loop has ended."""
        self._unsent.append(data)
        if not self.on_loop():
            self._tell(self._send)
        elif not self._awake:
            self._awake = True
            self.loop.call_soon(self._send)

    def close(self) -> None:
        """Let go of the socket, and end what still waits for an answer."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
        if self.on_loop():
            self._detach()
        else:
            try:
                self.loop.call_soon_threadsafe(self._detach)
            except RuntimeError:  # the loop has ended: nobody watches the socket any more
                self._socket.close()
        if not self.is_defunct:
            self.error_all_requests(ConnectionShutdown(f"Connection to {self.endpoint} was closed"))
            self.connected_event.set()  # a thread that waits for the handshake must not wait for its whole timeout

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(what)
        except RuntimeError as error:
            raise ConnectionShutdown(f"Connection to {self.endpoint}: its event loop has ended") from error

    # --- from here on: the loop's thread alone

    def _attach(self) -> None:
        if not self.is_closed:
            self.loop.add_reader(self._socket.fileno(), self._readable)
            self._attached = True

    def _detach(self) -> None:
        if self._attached:
            self._attached = False
            self.loop.remove_reader(self._socket.fileno())
            self.loop.remove_writer(self._socket.fileno())
        self._socket.close()

    def _send(self) -> None:
        self._awake = False  # before anything is taken: what is pushed from now on wakes the loop again
        if self._rest is None and self._socket_writable:
            self._send_some()

    def _writable(self) -> None:
        self.loop.remove_writer(self._socket.fileno())
        self._socket_writable = True
        self._send_some()

    def _send_some(self) -> None:
        """Until all is sent, or the socket takes no more: then `_writable` goes on."""
        while not self.is_closed:
            data = self._rest or memoryview(b"".join(self._take()))
            if not data:
                return
            try:
                sent = self._socket.send(data)
            except _NOT_NOW:
                sent = 0
            except OSError as error:
                self.defunct(error)
                return
            self._rest = data[sent:] if sent < len(data) else None
            if self._rest is not None:
                self._socket_writable = False  # the driver then asks another node, or says that this one is busy
                self.loop.add_writer(self._socket.fileno(), self._writable)
                return

    def _take(self) -> list[bytes]:
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._unsent.popleft())
        return taken

    def _readable(self) -> None:
        ended = False
        try:
            while True:
                data = self._socket.recv(self.in_buffer_size)
                self._iobuf.write(data)
                ended = not data
                if ended or len(data) < self.in_buffer_size:  # what TLS has not decrypted yet wakes us again
                    break
        except _NOT_NOW:
            pass
        except OSError as error:
            self.defunct(error)
            return
        if self._iobuf.tell():
            self.process_io_buffer()
        if ended:
            self.close()


class Timer:
    """What the driver cancels when an answer came in time; from any thread."""

    __slots__ = ("_callback", "_handle", "_loop", "_thread")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, here: bool, seconds: float, callback: Callable[[], Any]
    ) -> None:
        self._loop = loop
        self._callback: Callable[[], Any] | None = callback
        self._handle: asyncio.TimerHandle | None = None
        if here:
            self._start(seconds)
            self._thread = threading.get_ident()
        else:
            self._thread = 0
            loop.call_soon_threadsafe(self._start, seconds)

    def cancel(self) -> None:
        self._callback = None  # a request and its timer know each other: so no cycle stays for the collector
        if self._thread == threading.get_ident() and self._handle is not None:
            self._handle.cancel()

    def _start(self, seconds: float) -> None:
        if self._callback is not None:
            self._handle = self._loop.call_later(seconds, self._due)

    def _due(self) -> None:
        callback = self._callback
        if callback is not None:
            callback()
