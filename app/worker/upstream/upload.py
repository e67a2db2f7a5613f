"""The rest of a request body on its way to a backend, while its answer is awaited.

Runs in workers, a greenlet for each such body. Knows of the answer only that it may come first.
"""

from __future__ import annotations

from time import monotonic

import gevent
from gevent.event import Event

from app.errors import InternalError, ProxyError
from app.telemetry import log
from app.wire.chunked import encode_chunk, last_chunk
from app.worker.net.deadlines import NEVER, Expired, deadlines
from app.worker.net.splice import SinkFailed
from app.worker.net.stream import Stream
from app.worker.upstream.connections import Connection
from app.worker.upstream.request import UpstreamRequest

# How long a backend may keep a client waiting that asked first (Expect: 100-continue) before the body is
# sent anyway: RFC 9110 §10.1.1 wants no indefinite wait; curl waits 1 s.
CONTINUE_TIMEOUT = 1.0


class Upload:
    """Sends the rest of a request body while the response is awaited: a backend may answer first.

    With an expectation it waits until the backend wants the body (``begin``) or CONTINUE_TIMEOUT is over.
    ``done``: all of the body was sent, exactly as the head announces it. ``error``: why the client's side
    failed, if it did. ``progress_at``: when the backend last took a part.
    """

    __slots__ = ("_connection", "_greenlet", "_request", "_wanted", "done", "error", "progress_at")

    def __init__(self, request: UpstreamRequest, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._wanted = Event() if request.expects_continue else None
        self.done = False
        self.error: ProxyError | None = None
        self.progress_at = monotonic()
        self._greenlet = gevent.spawn(self._run)

    def begin(self) -> None:
        """Send the body now: the backend has asked for it."""
        if self._wanted is not None:
            self._wanted.set()

    @property
    def was_unasked(self) -> bool:
        """Whether the backend was offered to ask for the body and has not (RFC 9110 §10.1.1)."""
        return self._wanted is not None and not self._wanted.is_set()

    def stop(self) -> None:
        """Send no more."""
        if not self.done:
            self._greenlet.kill()

    def _run(self) -> None:
        request, stream = self._request, self._connection.stream
        if self._wanted is not None:
            self._wanted.wait(CONTINUE_TIMEOUT)
        request.began_body = True
        deadline = deadlines.enter()
        try:
            if request.splice_body is not None and isinstance(stream, Stream):
                request.splice_body(stream, deadline, self._write_until, self._moved)
            while piece := request.next_piece(deadline):
                deadline.at = monotonic() + request.read_timeout
                message = encode_chunk(piece) if request.is_chunked else piece
                stream.write(message)
                deadline.at = NEVER
                self._moved(len(message))
            if request.is_chunked:
                stream.write(last_chunk(request.trailers()))
            self.done = True
        except ProxyError as error:  # the client's side failed: its request can never be complete
            self.error = error
            stream.shutdown()
        except (OSError, Expired, SinkFailed):
            # The backend takes no more. It may have answered already: whoever reads finds out.
            pass
        except Exception as error:  # noqa: BLE001 - nobody may wait for the answer to half a request
            log.uncaught("proxy", "request body not sent", error)
            self.error = InternalError(str(error))
            stream.shutdown()
        finally:
            deadlines.leave(deadline)

    def _write_until(self) -> float:
        return monotonic() + self._request.read_timeout

    def _moved(self, count: int) -> None:
        self._connection.sent += count
        self._request.body_sent += count
        self.progress_at = monotonic()
