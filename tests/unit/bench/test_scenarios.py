"""What the scenario bench makes of a run: phases, shares after a repair, goals met and missed."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scenarios.figures import doubts, summarize
from bench.scenarios.goals import GOALS, Verdict
from bench.scenarios.scripts import ALL, SHORT, Scenario

TWO = Scenario(
    "two",
    "One of two is repaired at 2 s",
    8.0,
    ((0, "well"), (1, "one killed"), (2, "repaired")),
    (),
    servers=2,
    repaired=(0,),
    repair_at=2.0,
    until=8.0,
)


def columns(*requests: tuple[float, float, bool, str, int]) -> dict[str, Any]:
    """From (due, done, is a POST, outcome, server)."""
    due, done, post, outcome, server = (list(column) for column in zip(*requests, strict=True))
    return {
        "due": due, "sent": due, "done": done, "post": post, "outcome": outcome, "server": server,
        "connections": 1,
    }  # fmt: skip


def spread(
    start: float, end: float, servers: list[int]
) -> list[tuple[float, float, bool, str, int]]:
    """A hundred requests a second, the servers in turn, 4 ms each."""
    dues = [start + number / 100 for number in range(round((end - start) * 100))]
    return [
        (due, due + 0.004, False, "", servers[number % len(servers)])
        for number, due in enumerate(dues)
    ]


def test_a_request_belongs_to_the_phase_in_which_it_was_due() -> None:
    """Its failure too, however late; and the latency of a failed one counts."""
    result = summarize(
        TWO,
        columns(
            (0.5, 0.504, False, "", 0),
            (0.9, 2.9, False, "504", -1),
            (1.5, 1.6, True, "closed", -1),
        ),
        [(False, 0), (False, 1)],
        [],
    )
    first, second, third = result["phases"]
    assert first["errors"] == {"GET": {"504": 1}}
    assert first["max_ms"] == 2000
    assert (second["failed_post"], second["errors"]) == (1, {"POST": {"closed": 1}})
    assert third["requests"] == 0
    assert result["failed_posts_not_executed"] == 1


def test_posts_that_ran_twice_are_found() -> None:
    """A GET may run twice, a POST may not."""
    requests = columns((0.1, 0.2, True, "", 0), (0.1, 0.2, False, "", 1))
    executed = [(True, 0), (True, 0), (False, 1), (False, 1)]
    assert summarize(TWO, requests, executed, [])["posts_executed_twice"] == 1


def test_shares_are_judged_from_two_seconds_after_the_first_passed_check() -> None:
    """What a hung server finds in its sockets when it wakes is no check."""
    requests = [*spread(0, 3, [1]), *spread(3, 4.6, [0, 0, 0, 1]), *spread(4.6, 8, [0, 1])]
    result = summarize(TWO, columns(*requests), [], [(0, 1.0), (0, 2.01), (0, 2.6), (1, 2.2)])
    assert result["first_check_after_s"] == {0: 0.6}
    assert result["first_answer_after_s"] == {0: 1.0}
    assert result["settled_off"] == 0.0
    assert result["settled_requests"] == 340


def test_without_active_checks_the_first_answer_counts() -> None:
    """Of 300 requests from then on one server gets two thirds."""
    requests = [*spread(0, 3, [1]), *spread(3, 8, [0, 0, 1])]
    result = summarize(TWO, columns(*requests), [], [])
    assert result["first_check_after_s"] == {0: None}
    assert result["settled_requests"] == 300
    assert result["settled_off"] == pytest.approx(1 / 3, abs=1e-3)


def test_a_bench_that_does_not_work_is_noticed() -> None:
    """Nothing was acted upon, nobody answered, a phase without requests: that is no measurement."""
    good = summarize(
        TWO, columns(*spread(0, 8, [0, 1])), [(False, number) for number in range(800)], []
    )
    assert doubts(TWO, good) == []
    bad = summarize(TWO, columns((0.1, 0.2, False, "", 0), (0.2, 0.3, False, "500", 0)), [], [])
    assert doubts(TWO, bad) == [
        "1 requests failed while all was well",
        "a server got nothing while all was well",
        "phases without requests: one killed, repaired",
        "more requests were answered than the servers acted upon",
    ]


def whole(failed: int, gets: int, p99: float) -> dict[str, Any]:
    return {
        "all": {"failed": failed, "failed_get": gets, "p99_ms": p99},
        "algorithm": "round_robin",
        "settled_off": 0.01,
        "is_seen_by_checks": True,
    }


def slow(p99: float, algorithm: str) -> dict[str, Any]:
    return {"phases": [{"p99_ms": 9.0}, {"p99_ms": p99}], "algorithm": algorithm}


def verdicts(results: dict[str, Any], name: str = "ours") -> dict[str, Verdict]:
    return {goal.target: goal.judge(results, name) for goal in GOALS}


def test_goals_beside_the_best_peer() -> None:
    """Half of its failures and a quarter of its p99; a variant of ours is no peer."""
    combined = {
        "ours": whole(10, 0, 500.0),
        "ours-tuned": whole(0, 0, 1.0),
        "nginx": whole(20, 1, 2001.0),
        "envoy": whole(90, 1, 1900.0),
    }
    found = verdicts({"combined": combined})
    assert found["≤ half of the best peer"] == Verdict("10, best peer 20", True)
    assert found["≤ 1/4 of the best peer"] == Verdict("500 ms, best peer 1,900 ms", False)
    assert found["≤ 5 of 16,000"].is_met is False
    assert found["0"].is_met is True


def test_goals_without_peers_are_open() -> None:
    """The figure is shown, nothing is claimed; what was not measured has no figure."""
    found = verdicts({"combined": {"ours": whole(0, 0, 5.0)}})
    assert found["≤ half of the best peer"] == Verdict("0", None)
    assert str(found["p99 ≤ 1/5 of round robin's"]) == ""


def test_evenness_is_that_of_the_worst_scenario() -> None:
    """Only of round robin, others share by load; only where checks can see the fault and its repair."""
    bad = {**whole(0, 0, 1.0), "settled_off": 0.03}
    results = {"combined": {"ours": whole(0, 0, 1.0)}, "hang": {"ours": bad}}
    target = "within 2 % of equal, 2 s after the check"
    assert verdicts(results)[target] == Verdict("3.0% off (hang)", False)
    assert (
        verdicts({"errors": {"ours": {**bad, "is_seen_by_checks": False}}})[target].is_met is None
    )
    bad["algorithm"] = "peak_ewma"
    assert verdicts(results)[target].is_met is True


def test_a_slow_server_is_judged_beside_our_own_round_robin() -> None:
    """In the phase in which it is slow, by the better of the two algorithms."""
    rows = {
        "ours": slow(200.0, "round_robin"),
        "ours/peak_ewma": slow(40.0, "peak_ewma"),
        "ours/least_connections": slow(90.0, "least_connections"),
        "nginx": slow(1.0, "round_robin"),
        "ours-tuned": slow(41.0, "peak_ewma"),
    }
    target = "p99 ≤ 1/5 of round robin's"
    assert verdicts({"slow": rows})[target] == Verdict("40 ms of 200", True)
    assert verdicts({"slow": rows}, "ours-tuned")[target].is_met is False


@pytest.mark.parametrize("scenario", [*ALL, SHORT], ids=lambda scenario: scenario.name)
def test_scripts_are_sound(scenario: Scenario) -> None:
    """Phases in order from 0, orders and judging inside of the run, servers that exist."""
    starts = [start for start, _ in scenario.phases]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] < scenario.seconds
    for order in scenario.orders:
        assert 0 < order.at < scenario.seconds
        assert order.server < scenario.servers
    if scenario.repaired:
        assert scenario.repair_at + 3 < scenario.until <= scenario.seconds
