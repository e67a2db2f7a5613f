"""Every case under gunicorn's own gevent worker, where the application sees what an environ shows.

gunicorn's loop reads and frames there, so any refusal is as good as another, and some things cannot be told
or said through WSGI. Those are listed, each with its reason; a case that is listed and no longer differs
fails as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import STOCK_WORKER, Balancer
from replay import corpus, online
from replay.corpus import Case
from replay.judge import judge

CASES = corpus.load()

TRAILERS = (
    "gunicorn keeps the trailers of a request, whatever they are: nothing of them is forwarded"
)
JOINED = "an environ has each name once, with the values of repeated fields joined"
NO_INTERIM = "there is no way to send an interim answer"
NO_TRAILERS = "gunicorn sends no trailers"
OLD_CLIENT = "gunicorn answers a client of HTTP/1.0 in HTTP/1.0"
CHUNKS = "gunicorn bounds neither zeros nor extensions; the body is the same and framed anew"
OWN_REFUSAL = "gunicorn refuses it itself"
UNSENT = "ended without an answer: nothing was sent yet"

DIFFERS = {
    "requests/chunked: zeros before each of a thousand bytes": CHUNKS,
    "requests/chunked: an extension of 8 KiB": CHUNKS,
    "requests/chunked: an extension on each of a thousand bytes": CHUNKS,
    "requests/chunked: no end behind the last chunk": "refused when the client has ended its side",
    "requests/expect: empty": OWN_REFUSAL,
    "requests/expect: a list of equal members, and empty ones": OWN_REFUSAL,
    "requests/field_names: two Content-Type that are equal": OWN_REFUSAL,
    "requests/field_names: repeated fields keep their order": JOINED,
    "requests/hop_by_hop: Connection cannot name framing": "Content-Type stands apart in an environ",
    "requests/limits: a hundred fields": JOINED,
    "requests/limits: a head too large, each part within its limit": "gunicorn has no such limit",
    "requests/target: HTTP/1.2": "refused, in a status line of that version",
    "requests/trailers: a trailer field": TRAILERS,
    "requests/trailers: those that are safe": TRAILERS,
    "requests/trailers: Content-Length": OWN_REFUSAL,
    "requests/trailers: Transfer-Encoding": OWN_REFUSAL,
    "requests/trailers: Host": OWN_REFUSAL,
    "requests/trailers: Authorization": OWN_REFUSAL,
    "requests/trailers: a name with an underscore is dropped": TRAILERS,
    "requests/trailers: a request behind them is a request": TRAILERS,
    "responses/early: a refusal of a body that waits for 100": "gunicorn asks for the body itself",
    "responses/fields: all bytes, order and repetition are kept": "gunicorn adds a Server",
    "responses/fields: Proxy-Authenticate is not a gateway's": "an application may not send it",
    "responses/chunks: trailers that are safe": NO_TRAILERS,
    "responses/chunks: a trailer that is announced": NO_TRAILERS,
    "responses/chunks: trailers of gRPC": NO_TRAILERS,
    "responses/framing: chunked in HTTP/1.0 that is not": UNSENT,
    "responses/framing: chunked to a client of HTTP/1.0": OLD_CLIENT,
    "responses/framing: a trailer for a client that asked": NO_TRAILERS,
    "responses/framing: a trailer for a client that asked and did not name TE in Connection": (
        NO_TRAILERS
    ),
    "responses/interim: 103 before the answer": NO_INTERIM,
    "responses/interim: several": NO_INTERIM,
    "responses/interim: a hundred of them": NO_INTERIM,
    "responses/interim: an interim answer with the length of a body that does not come": NO_INTERIM,
    "responses/interim: an interim answer with a coding, and no body": NO_INTERIM,
    "responses/interim: hop-by-hop fields in an interim answer": NO_INTERIM,
    "responses/interim: not to a client of HTTP/1.0": OLD_CLIENT,
    "responses/interim: 426 says to what": "an application may not send Upgrade",
    "responses/status_line: no reason phrase": "gunicorn wants a phrase",
    "responses/status_line: neither reason phrase nor space": "gunicorn wants a phrase",
    "responses/truncated: a length, and not a byte": UNSENT,
    "responses/truncated: chunked, not a byte": UNSENT,
}


@pytest.fixture(scope="module", name="backend")
def _backend() -> Iterator[online.RawBackend]:
    with online.RawBackend() as backend:
        yield backend


@pytest.fixture(scope="module", name="balancer")
def _balancer(backend: online.RawBackend) -> Iterator[Balancer]:
    servers = [f"http://127.0.0.1:{backend.port}"]
    with Balancer(servers, command=STOCK_WORKER, retries={"attempts": 1}) as balancer:
        yield balancer


def test_what_is_listed_exists() -> None:
    """The list names cases."""
    assert set(DIFFERS) <= {str(case) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.identity)
def test_case(case: Case, balancer: Balancer, backend: online.RawBackend) -> None:
    """As the case says, but for what is listed."""

    def whole(data: bytes) -> list[bytes]:
        return [data] if data else []

    # Where gunicorn waits for more of what will be refused, the wait is for what does not come.
    is_prompt = str(case) not in DIFFERS and case.outcomes[-1].kind not in ("waits", "refused")
    patience = online.PATIENCE if is_prompt else 0.5
    transcript, problem = online.replay(balancer.address, backend, case, whole, patience)
    problems = judge(case, transcript, is_ours=False) + ([problem] if problem else [])
    if str(case) in DIFFERS:
        assert problems, f"{case}: does not differ any more"
    else:
        assert not problems, f"{case}: {problems}"
