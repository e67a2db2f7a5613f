"""What a worker counts of its requests' fates, and against whom. Through the pool, which is who is told."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from fakes.pool_bench import SLOT, PoolBench

from app.errors import (
    Aborted,
    BackendReset,
    BadResponse,
    BodyTimeout,
    ClientGone,
    ConnectFailed,
    ConnectTimeout,
    ProxyError,
    ResponseTimeout,
    ShuttingDown,
    StaleConnection,
)
from app.shared import outcome_bits
from app.shared.layout import EJECTION, EJECTION_MS, OUTCOMES, TRIAL
from app.worker.balance import algorithm as algorithms
from app.worker.balance import outcome_counter
from app.worker.balance.blame import REMEMBER_SECONDS, asked

BAD, PAGE = asked(b"GET", b"/bad"), asked(b"GET", b"/")


def window(bench: PoolBench, port: int) -> tuple[int, int]:
    """How many of its last outcomes this worker remembers, and how many bad."""
    cells, at = bench.counters(port, SLOT)
    return outcome_bits.count(cells[at + OUTCOMES], bench.read(port, EJECTION_MS))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectFailed(), [1, 0, 0, 1, 0]),
        (ConnectTimeout(), [1, 0, 0, 1, 0]),
        (BackendReset(), [0, 1, 0, 1, 0]),
        (BadResponse(), [0, 0, 0, 1, 0]),
        (ResponseTimeout(), [0, 1, 0, 1, 0]),
        (Aborted(), [0, 1, 0, 1, 0]),
        (Aborted(reason="bad_chunk"), [0, 0, 0, 1, 0]),
        (StaleConnection(), [0] * 5),
        (ClientGone(), [0] * 5),
        (BodyTimeout(), [0] * 5),
        (ShuttingDown(), [0] * 5),
    ],
)
def test_who_is_to_blame(error: ProxyError, expected: list[int]) -> None:
    """A failure of the client's, of ours or of nobody never counts against a backend."""
    bench = PoolBench(1, 2)
    bench.pool.failed(bench.backend(1), error)
    assert bench.counted(1) == expected
    assert bench.counted(2) == [0] * 5


@pytest.mark.parametrize("rate", [50, 0])
def test_answers_that_we_refuse_count_as_a_share_alone(rate: int) -> None:
    """Never in a row: an endpoint that answers so does it every time."""
    bench = PoolBench(1, 2, outlier_detection={"failure_rate": rate})
    for _ in range(9):
        bench.pool.failed(bench.backend(1), BadResponse())
    assert bench.counted(1)[:3] == [0, 0, 0]
    assert window(bench, 1) == ((9, 9) if rate else (0, 0))


@pytest.mark.parametrize("error", [None, BackendReset(), ResponseTimeout(), BadResponse()])
def test_a_request_that_fails_at_every_server_counts_against_none(error: ProxyError | None) -> None:
    """The same for answers of 500 (None), for lost connections and for silence."""
    bench = PoolBench(1, 2, 3)
    for _ in range(9):
        for port in (1, 2, 3):
            if error is None:
                bench.pool.answered(bench.backend(port), 500, 0.1, BAD)
            else:
                bench.pool.failed(bench.backend(port), error, BAD)
    assert [bench.counted(port) for port in (1, 2, 3)] == [[0] * 5] * 3
    assert [window(bench, port) for port in (1, 2, 3)] == [(0, 0)] * 3


def test_a_request_that_others_answer_counts_against_the_server_that_does_not() -> None:
    """Each time, the first included; once that is known the other is not listened to any more."""
    bench = PoolBench(1, 2)
    for _ in range(5):
        bench.pool.answered(bench.backend(1), 500, 0.1, PAGE)
        if bench.backend(2).is_watched:
            bench.pool.answered(bench.backend(2), 200, 0.1, PAGE)
    assert not bench.backend(2).is_watched
    assert (bench.counted(1), bench.counted(2)) == ([0, 0, 5, 5, 0], [0] * 5)


@pytest.mark.parametrize(("status", "failures"), [(200, 2), (501, 0)])
def test_what_another_server_does_not_implement_proves_nothing(status: int, failures: int) -> None:
    """501 is about the request."""
    bench = PoolBench(1, 2)
    bench.pool.failed(bench.backend(1), BackendReset(), PAGE)
    bench.pool.answered(bench.backend(2), status, 0.1, PAGE)
    bench.pool.failed(bench.backend(1), BackendReset(), PAGE)
    assert bench.counted(1) == [0, failures, 0, failures, 0]


def test_on_trial_a_failure_counts_unless_the_request_is_known_to_be_bad() -> None:
    """Or a client with a bad URL would keep out whoever was ejected once."""
    bench = PoolBench(1, 2, 3)
    bench.write(1, EJECTION, TRIAL)
    bench.pool.refresh()
    bench.pool.failed(bench.backend(1), BackendReset(), PAGE)
    assert bench.counted(1) == [0, 1, 0, 1, 0]
    for port in (2, 3, 1):
        bench.pool.failed(bench.backend(port), BackendReset(), BAD)
    assert bench.counted(1) == [0, 1, 0, 1, 0]


def test_good_answers_are_listened_to_while_something_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all backends, those that are new included; not for longer."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(outcome_counter, "monotonic", lambda: clock.now)
    bench = PoolBench(1, 2)
    bench.pool.failed(bench.backend(1), BackendReset(), BAD)
    bench.publish(1, 2, 3)
    bench.pool.refresh()
    assert [bench.backend(port).is_watched for port in (1, 2, 3)] == [True] * 3
    clock.now += REMEMBER_SECONDS
    bench.pool.answered(bench.backend(2), 200, 0.1, PAGE)
    assert [bench.backend(port).is_watched for port in (1, 2, 3)] == [False] * 3


def test_our_own_lack_of_descriptors_is_not_the_backends_fault() -> None:
    """Or one busy minute would eject half of the servers."""
    bench = PoolBench(1, 2)
    try:
        try:
            raise OSError(errno.EMFILE, "too many open files")
        except OSError as failure:
            raise ConnectFailed(str(failure)) from None
    except ConnectFailed as error:
        bench.pool.failed(bench.backend(1), error)
    assert bench.counted(1) == [0] * 5


def test_a_good_answer_ends_the_streaks() -> None:
    """The backend is watched only as long as there is something to end."""
    bench = PoolBench(1, 2)
    backend = bench.backend(1)
    bench.pool.failed(backend, ConnectFailed())
    bench.pool.answered(backend, 503, 0.1)
    assert bench.counted(1) == [1, 0, 1, 2, 0]
    assert backend.is_watched
    bench.pool.answered(backend, 200, 0.1)
    assert bench.counted(1) == [0, 0, 0, 2, 1]
    assert window(bench, 1) == (3, 2)
    for _ in range(outcome_bits.WINDOW - 2):
        assert backend.is_watched
        bench.pool.answered(backend, 200, 0.1)
    assert window(bench, 1) == (outcome_bits.WINDOW, 1)
    bench.pool.answered(backend, 200, 0.1)
    assert not backend.is_watched


@pytest.mark.parametrize("status", [200, 404, 499, 501, 505])
def test_statuses_that_are_not_the_servers_fault(status: int) -> None:
    """They are good answers."""
    bench = PoolBench(1, 2)
    bench.pool.failed(bench.backend(1), ConnectFailed())
    bench.pool.answered(bench.backend(1), status, 0.1)
    assert bench.counted(1) == [0, 0, 0, 1, 1]


def test_a_kind_that_is_switched_off_is_not_counted() -> None:
    """And then a 500 is an answer like any other."""
    bench = PoolBench(1, 2, outlier_detection={"server_errors": 0, "resets": 0})
    bench.pool.failed(bench.backend(1), BackendReset())
    assert bench.counted(1) == [0] * 5
    bench.pool.failed(bench.backend(1), ConnectFailed())
    bench.pool.answered(bench.backend(1), 500, 0.1)
    assert bench.counted(1) == [0, 0, 0, 1, 1]


def test_failures_far_apart_are_not_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is hardly used: one failure an hour is no streak."""
    clock = SimpleNamespace(now=100.0)
    for module in (algorithms, outcome_counter):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    bench = PoolBench(1, 2)
    for pause in (0.0, 10.0, 31.0):
        clock.now += pause
        bench.pool.failed(bench.backend(1), ConnectFailed())
    assert bench.counted(1) == [1, 0, 0, 3, 0]
    assert window(bench, 1) == (1, 1)


def test_outcomes_from_before_an_ejection_are_forgotten() -> None:
    """They say nothing about the server that came back."""
    bench = PoolBench(1, 2)
    for _ in range(4):
        bench.pool.failed(bench.backend(1), BackendReset())
    bench.write(1, EJECTION_MS, 77)
    assert window(bench, 1) == (0, 0)
    bench.pool.failed(bench.backend(1), BackendReset())
    assert window(bench, 1) == (1, 1)
