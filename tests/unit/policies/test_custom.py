from __future__ import annotations

import pytest

from app.policies import Guard, KeyMissing, PolicyError, check_custom, load_custom
from app.policies.custom import SLOW_IN_A_ROW
from tests.unit.policies import broken_policies
from tests.unit.policies.samples import sample

MODULE = "tests.unit.policies.broken_policies"
SPOILERS = ["Raises", "OutOfRange", "Negative", "Truth", "Text"]


class Clock:
    """Advances by ``step`` seconds each time it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.step = step
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def guard(name: str, clock: Clock, reports: list[tuple[str, str]]) -> Guard:
    factory = getattr(broken_policies, name)
    return Guard(factory, {}, clock, lambda *report: reports.append(report))


@pytest.mark.parametrize("path", [f"{MODULE}.Good", f"{MODULE}:Good"])
def test_a_class_is_loaded_by_its_path(path: str) -> None:
    """A dot or a colon before the class."""
    assert load_custom(path).__name__ == "Good"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("Good", "not of the form"),
        ("no.such_module.Good", "cannot import"),
        (f"{MODULE}.Absent", "no class"),
        (f"{MODULE}.NOT_A_CLASS", "no class"),
        (f"{MODULE}.NoPick", "no method pick"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path: str, message: str) -> None:
    """With the reason, for whoever wrote the configuration."""
    with pytest.raises(PolicyError, match=message):
        load_custom(path)


@pytest.mark.parametrize("name", ["Good", "NeedsAKey"])
def test_a_policy_that_keeps_its_promises_is_accepted(name: str) -> None:
    """KeyMissing is a promised answer."""
    check_custom(load_custom(f"{MODULE}.{name}"), {}, Clock())


@pytest.mark.parametrize("name", [*SPOILERS, "CannotBeBuilt"])
def test_a_broken_policy_is_refused_at_start(name: str) -> None:
    """Each kind of nonsense is found before the first request."""
    with pytest.raises(PolicyError):
        check_custom(load_custom(f"{MODULE}.{name}"), {}, Clock())


def test_an_unknown_option_is_refused_at_start() -> None:
    """Options are the class's keyword arguments."""
    with pytest.raises(PolicyError, match="unexpected keyword"):
        check_custom(load_custom(f"{MODULE}.Good"), {"colour": "red"}, Clock())


def test_a_policy_that_is_slow_is_refused_at_start() -> None:
    """2 ms a pick is over the limit of 1 ms."""
    with pytest.raises(PolicyError, match="ms a pick"):
        check_custom(load_custom(f"{MODULE}.Good"), {}, Clock(step=0.002))


def test_a_good_policy_is_asked_every_time() -> None:
    """The guard changes no answer."""
    reports: list[tuple[str, str]] = []
    watch = guard("Good", Clock(), reports)
    policy = watch.build(sample([1] * 3))
    assert [policy.pick() for _ in range(4)] == [2, 2, 2, 2]
    assert not watch.failures
    assert not reports


@pytest.mark.parametrize("name", SPOILERS)
def test_a_spoiled_pick_is_made_by_round_robin(name: str) -> None:
    """Counted each time, reported once, in turn."""
    reports: list[tuple[str, str]] = []
    watch = guard(name, Clock(), reports)
    policy = watch.build(sample([1] * 3))
    assert [policy.pick() for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert watch.failures.total() == 6
    assert [reason for reason, _ in reports] == list(watch.failures)


def test_a_new_snapshot_does_not_report_again() -> None:
    """The guard outlives snapshots."""
    reports: list[tuple[str, str]] = []
    watch = guard("Raises", Clock(), reports)
    for _ in range(3):
        watch.build(sample([1, 1])).pick()
    assert watch.failures == {"raised": 3}
    assert reports == [("raised", "RuntimeError: boom")]


def test_a_policy_that_cannot_be_built_is_replaced() -> None:
    """Round robin for that snapshot, and counted."""
    reports: list[tuple[str, str]] = []
    watch = guard("CannotBeBuilt", Clock(), reports)
    policy = watch.build(sample([1, 1]))
    assert [policy.pick(), policy.pick()] == [0, 1]
    assert reports == [("build_failed", "ValueError: no")]


def test_slow_picks_in_a_row_switch_it_off() -> None:
    """After three it is not asked any more, in later snapshots neither."""
    reports: list[tuple[str, str]] = []
    clock = Clock(step=0.5)
    watch = guard("Good", clock, reports)
    policy = watch.build(sample([1] * 3))
    for _ in range(10):
        policy.pick()
    assert watch.off
    assert watch.failures == {"too_slow": SLOW_IN_A_ROW}
    assert len(reports) == 1
    asked = clock.now
    assert watch.build(sample([1] * 3)).pick() == 0
    assert clock.now == asked


def test_a_single_slow_pick_is_forgiven() -> None:
    """A collection of garbage now and then is not the policy's fault."""
    clock = Clock()
    watch = guard("Good", clock, [])
    policy = watch.build(sample([1] * 3))
    for number in range(30):
        clock.step = 0.5 if number % 3 else 0.0
        policy.pick()
    assert not watch.off
    assert watch.failures == {"too_slow": 20}


def test_a_missing_key_is_an_answer_not_a_failure() -> None:
    """KeyMissing passes through the guard uncounted."""
    watch = guard("NeedsAKey", Clock(), [])
    policy = watch.build(sample([1] * 3))
    assert policy.pick(b"\x04") == 1
    with pytest.raises(KeyMissing):
        policy.pick()
    assert not watch.failures


def test_repr_tells_state_and_counts() -> None:
    """For operators and failed assertions."""
    watch = guard("Raises", Clock(), [])
    watch.build(sample([1])).pick()
    assert repr(watch) == "<Guard on: {'raised': 1}>"
