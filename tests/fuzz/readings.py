"""What the parsers make of many mutated inputs, a digest a line: to compare two forms of the same sources.

``python readings.py SEED COUNT`` prints "compiled" or "sources" first; LB_COMPILED says which one runs.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "wire"), str(HERE.parents[1])]

import seeds  # noqa: E402
from replay.parsers import told  # noqa: E402

from app import compiled  # noqa: E402
from app.errors import ProxyError  # noqa: E402
from app.wire import chunked, forwarded, request, response  # noqa: E402

PIECES = (
    *(b"\r\n", b"\n", b" ", b":", b"\0", b"\x80", b"#", b"5\r\nhello\r\n0\r\n\r\n"),
    *(b"OPTIONS * HTTP/1.1\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.0 426 Up\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close, x\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    *(b"Via: 1.1 a\r\n", b"Max-Forwards: 3\r\n", b"Early-Data: 1\r\n", b"X-Request-Id: abc\r\n"),
    *(b"X-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n", b"Forwarded: for=1.2.3.4;proto=https\r\n"),
    *(b"X-Forwarded-Port: 1\r\n", b"TE: trailers\r\n", b"Trailer: a\r\n", b"Cookie: a=b\r\n"),
)
FORMS = ("x-forwarded", "forwarded", "both")


def mutated(rng: random.Random, inputs: list[bytes]) -> bytes:
    """One of the inputs with up to three changes."""
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randrange(4)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(5)
        if kind == 0:
            data[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 8)]
        elif kind == 2:
            data[at : at + 1] = bytes((rng.randrange(256),))
        elif kind == 3:
            other = rng.choice(inputs)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:  # between two lines
            at = data.find(b"\r\n") + 2
            data[at:at] = rng.choice(PIECES)
    return bytes(data)


def reading(data: bytes) -> str:
    """What each parser makes of it."""
    found: list[object] = []

    def note(read: Callable[[], object]) -> None:
        try:
            found.append(read())
        except ProxyError as error:
            found.append((type(error).__name__, error.status, error.reason, str(error)))
        except chunked.ChunkedError as error:
            found.append(str(error))

    def read_request() -> str | None:
        head = request.read_head(data)
        if head is None:
            return None
        for form in FORMS:
            trust = forwarded.Trust(("10.0.0.0/8", "127.0.0.1"), form)
            lines, client = forwarded.lines_writer(trust), trust.client_of
            note(lambda lines=lines: lines(head, "127.0.0.1", "http", True))
            note(lambda lines=lines: lines(head, "127.0.0.1", "http", False))
            note(lambda client=client: client(head, "127.0.0.1"))
        note(lambda: forwarded.is_https(head, "http", True))
        note(lambda: forwarded.trusted_request_id(head))
        return told(head)

    def read_response(method: bytes) -> str | None:
        head = response.read_head(data, method)
        return None if head is None else told(head)

    def read_chunks() -> object:
        decoder = chunked.ChunkedDecoder()
        middle = len(data) // 2
        pieces = [decoder.feed(data[:middle])]
        if not decoder.done:
            pieces.append(decoder.feed(data[middle:]))
        return pieces, decoder.done, decoder.trailers, decoder.rest if decoder.done else None

    note(read_request)
    note(lambda: read_response(b"GET"))
    note(lambda: read_response(b"HEAD"))
    note(read_chunks)
    return repr(found)


def main() -> None:
    rng = random.Random(int(sys.argv[1]))
    inputs = [data for target in ("request", "response", "chunked") for data in seeds.seeds(target)]
    say = sys.stdout.write
    say("compiled\n" if compiled.is_used else "sources\n")
    for _ in range(int(sys.argv[2])):
        data = mutated(rng, inputs)
        try:
            text = reading(data)
        except Exception as error:
            text = f"{error!r} {data!r}"
            sys.stderr.write(f"{text}\n")
        say(f"{hashlib.sha256(text.encode()).hexdigest()[:16]}\n")


if __name__ == "__main__":
    main()
