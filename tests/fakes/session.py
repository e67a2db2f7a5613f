"""A session without connections: what each send comes to, and when, is written down by the test.

An outcome is a status, an Answer, an exception, or a Later, of which the test says afterwards what it is:
until then the greenlet that sends waits, as it would for a server. Nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

from gevent.event import AsyncResult, Event

from app.wire.response import ResponseHead, read_head
from fakes.pool import Pool


class Answer:
    """A response of one status; with ``rest`` its body is not all here, and may fail."""

    def __init__(self, status: int, rest: Exception | bytes = b"") -> None:
        head = read_head(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, b"GET")
        assert head is not None
        self.head: ResponseHead = head
        self.first, self.trailers, self.first_byte_at = b"", list[Any](), monotonic()
        self.complete = not rest
        self.is_closed = self.splices = False
        self.upload: Any = None
        self._rest = rest

    def read(self) -> bytes:
        if isinstance(self._rest, Exception):
            raise self._rest
        piece, self._rest = self._rest, b""
        self.complete = not piece
        return piece

    def close(self) -> None:
        self.is_closed = self.complete = True


Outcome = Exception | int | Answer


class Later:
    """What a send comes to, said by the test when it is time; never said, it is a server that hangs.

    ``ended_by`` is what was thrown into the greenlet that waited.
    """

    def __init__(self) -> None:
        self._outcome = AsyncResult()
        self._asked = Event()
        self.ended_by: BaseException | None = None

    def wait(self) -> Outcome:
        """In the greenlet that sends: until the test has said what it is."""
        self._asked.set()
        try:
            outcome: Outcome = self._outcome.get()
        except BaseException as error:
            self.ended_by = error
            raise
        return outcome

    def is_asked(self) -> None:
        """In the test: until somebody waits for it."""
        assert self._asked.wait(5)

    def is_(self, outcome: Outcome) -> None:
        """In the test: what it is. Whoever waits for it goes on when the test waits next."""
        self._outcome.set(outcome)


class Session:
    """Does what it is told to, send after send; then it answers 200."""

    def __init__(self, pool: Pool, outcomes: Iterable[Outcome | Later]) -> None:
        self.pool = pool
        self.outcomes = list(outcomes)
        self.requests: list[Any] = []
        self.is_connecting = False  # or it has been sent, when per_try_timeout is over
        self.expires_at: list[float] = []  # as it was when it was sent
        self.in_flight: list[list[int]] = []
        self.outlasted: list[float] = []  # until when each that per_try_timeout bounds may wait on

    def send(self, request: Any) -> Any:
        self.requests.append(request)
        self.expires_at.append(request.expires_at)
        self.in_flight.append(self.pool.in_flight())
        if request.deadline.outlast is not None:
            request.sent_at = 0.0 if self.is_connecting else monotonic()
            self.outlasted.append(request.deadline.outlast(request.expires_at))
        outcome = self.outcomes.pop(0) if self.outcomes else 200
        if isinstance(outcome, Later):
            outcome = outcome.wait()
        if isinstance(outcome, Exception):
            raise outcome
        answer = Answer(outcome) if isinstance(outcome, int) else outcome
        answer.first_byte_at = monotonic()
        return answer
