"""What the soak says of a log: every way in which lines and requests can fail to match."""

from __future__ import annotations

import json

from bench.soak.ledger import Ledger, judge


def access(request_id: str) -> str:
    return json.dumps({"logger": "access", "level": "info", "request_id": request_id})


def ledger_of(certain: int, possible: int = 0) -> tuple[Ledger, list[str]]:
    ledger = Ledger()
    names = [ledger.new("get") for _ in range(certain + possible)]
    for name in names[:certain]:
        ledger.sent(name)
    return ledger, names


def test_one_line_for_each_is_well() -> None:
    ledger, names = ledger_of(3)
    findings = judge(ledger, map(access, names))
    assert (findings.lines, findings.misses()) == (3, [])


def test_a_certain_request_without_a_line_is_missed() -> None:
    ledger, names = ledger_of(2)
    assert judge(ledger, [access(names[0])]).without_line == [f"{names[1]} (get)"]


def test_one_torn_off_may_have_a_line_or_none() -> None:
    ledger, names = ledger_of(0, possible=2)
    assert judge(ledger, [access(names[0])]).misses() == []


def test_two_lines_are_too_many_for_any() -> None:
    ledger, names = ledger_of(1, possible=1)
    assert len(judge(ledger, [access(name) for name in names * 2]).with_several) == 2


def test_lines_of_strangers_do_not_matter() -> None:
    ledger, names = ledger_of(1)
    assert judge(ledger, [access(names[0]), access("made-by-the-balancer")]).misses() == []


def test_mixed_lines_errors_and_dropped_lines_are_found() -> None:
    ledger, _ = ledger_of(0)
    text = [
        '{"logger": "access", {"logger"',
        "3",
        json.dumps({"logger": "worker", "level": "error", "message": "broken"}),
        json.dumps({"logger": "log", "level": "warning", "message": "lost", "dropped": 4}),
    ]
    findings = judge(ledger, text)
    assert (len(findings.not_json), findings.errors, findings.dropped) == (2, ["broken"], 4)
    assert len(findings.misses()) == 3
