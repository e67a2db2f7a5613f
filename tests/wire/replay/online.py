"""Plays a case over sockets: a client that sends what it is told, a backend that records every byte.

Knows no product: whoever listens at an address and forwards to the backend can be judged.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from . import messages
from .corpus import Case
from .judge import OK, OK_TO_HEAD, Transcript, methods

Cut = Callable[[bytes], list[bytes]]
Address = tuple[str, int]

# Long enough for the other side to read a piece before the next comes, mostly.
GAP = 0.001
# For what cannot be waited for: that nothing more comes.
QUIET = 0.02
PATIENCE = 10.0
FOLLOW_UP = b"GET /follow-up HTTP/1.1\r\nHost: follow-up.example\r\nConnection: close\r\n\r\n"
FOLLOW_UP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfollow-up"


class Recorded:
    """One connection as the backend saw it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.data = b""
        self.is_closed = False


class RawBackend:
    """Answers each complete request with the current case's bytes, and records all that comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[Recorded] = []
        self._lock = threading.Lock()
        self.case: Case | None = None
        self.cut: Cut = lambda data: [data]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> RawBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def begin(self, case: Case, cut: Cut) -> None:
        """From now on play this case; connections that are open already stay, and are counted anew."""
        with self._lock:
            self.case, self.cut = case, cut
            self.connections = [c for c in self.connections if not c.is_closed]
            for connection in self.connections:
                connection.data = b""

    def end(self) -> list[Recorded]:
        """What was recorded; all connections that carried something."""
        with self._lock:
            self.case = None
            return [connection for connection in self.connections if connection.data]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Recorded(sock)
            with self._lock:
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Recorded) -> None:
        pending = b""
        has_continued = False
        sock = connection.socket
        try:
            while data := sock.recv(65536):
                with self._lock:
                    connection.data += data
                    case = self.case
                pending += data
                requests, rest = messages.read_requests(pending)
                for request in requests:
                    if not self._answer(sock, request, case):
                        return
                    has_continued = False
                pending = rest
                head, found, _ = rest.partition(b"\r\n\r\n")
                if found and case is not None and "early" in case.settings:
                    self._answer(sock, messages.Message(head.split(b"\r\n")[0], []), case)
                    self._read_on(connection)
                    return
                if found and b"Expect: 100-continue" in head and not has_continued:
                    has_continued = True
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        except (OSError, messages.Malformed):
            pass  # what was malformed is judged from the record
        finally:
            connection.is_closed = True
            sock.close()

    def _answer(self, sock: socket.socket, request: messages.Message, case: Case | None) -> bool:
        """Whether the connection goes on."""
        if case is None or b" /follow-up" in request.start:
            sock.sendall(FOLLOW_UP_ANSWER)
            return True
        answer = case.response
        if answer is None:
            answer = OK_TO_HEAD if request.method == b"HEAD" else OK
        for number, piece in enumerate(self.cut(answer)):
            if number:
                time.sleep(GAP)
            sock.sendall(piece)
        then = case.settings.get("then")
        if then == "reset":
            # What was sent has to arrive before the reset destroys it.
            time.sleep(GAP * 5)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return then is None

    def _read_on(self, connection: Recorded) -> None:
        while data := connection.socket.recv(65536):
            with self._lock:
                connection.data += data


def _receive(sock: socket.socket, timeout: float) -> bytes | None:
    """What comes next; b"" at the end, None if nothing comes in time."""
    ready, _, _ = select.select([sock], [], [], timeout)
    return sock.recv(65536) if ready else None


def _answers(data: bytes, case: Case) -> int:
    try:
        return len(messages.read_responses(data, methods(case), at_end=False).messages)
    except messages.Malformed:
        return 0  # judged later


def exchange(address: Address, case: Case, cut: Cut, patience: float) -> Transcript:
    """The client's side: send, read the answers that are due, then end, and see what still comes."""
    transcript = Transcript(client_closed=False)
    due = sum(outcome.kind != "waits" for outcome in case.outcomes)
    with socket.create_connection(address, PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number, piece in enumerate(cut(case.request)):
                if number:
                    time.sleep(GAP)
                sock.sendall(piece)
        except OSError:
            pass  # refused already: the answer is there to be read
        ends = any(outcome.kind in ("refused", "cut", "broken") for outcome in case.outcomes)
        limit = time.monotonic() + patience
        is_half_closed = False
        while True:
            has_all = _answers(transcript.client, case) >= due
            has_all = has_all and not (ends and not case.is_about_responses)
            if has_all and not is_half_closed:
                is_half_closed = True
                limit = time.monotonic() + (patience if transcript.client else QUIET)
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
            try:
                data = _receive(sock, max(0.0, limit - time.monotonic()))
            except OSError:
                transcript.client_reset = transcript.client_closed = True
                break
            if data is None:
                break
            if not data:
                transcript.client_closed = True
                break
            transcript.client += data
    return transcript


def follow_up(address: Address) -> str:
    """What another client gets next; empty when it is its own answer."""
    data = b""
    with socket.create_connection(address, PATIENCE) as sock:
        sock.sendall(FOLLOW_UP)
        with contextlib.suppress(OSError):
            while piece := sock.recv(65536):
                data += piece
    ok = data.startswith(b"HTTP/1.1 200") and data.endswith(b"\r\n\r\nfollow-up")
    return "" if ok else f"the next client got {data[:300]!r}"


def replay(
    address: Address, backend: RawBackend, case: Case, cut: Cut, patience: float = PATIENCE
) -> tuple[Transcript, str]:
    """Play it; the transcript, and what was wrong with the next client's answer."""
    backend.begin(case, cut)
    transcript = exchange(address, case, cut, patience)
    problem = follow_up(address) if case.is_about_responses else ""
    used = backend.end()
    for connection in used:
        data, found, _ = connection.data.partition(b"GET /follow-up")
        if data:
            transcript.backend.append(data)
            transcript.backend_closed.append(not found)
    return transcript, problem
