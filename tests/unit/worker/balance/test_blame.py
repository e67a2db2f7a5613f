"""Whose fault a failure is: the server's that it happened at, or the request's."""

from __future__ import annotations

import pytest

from app.worker.balance.blame import MOST_KINDS, REMEMBER_SECONDS, Asked, Blame, asked

BAD, PAGE, OTHER, THIRD = (asked(b"GET", target) for target in (b"/bad", b"/page", b"/o", b"/t"))


def failed(blame: Blame, kind: Asked, row: int, now: float = 1.0) -> int:
    """How many failures are counted against the server."""
    return len(blame.failed(kind, row, 7, now))


def test_kinds_are_method_and_target_without_digits() -> None:
    """An id in a path makes no other kind of request, another query does."""
    assert asked(b"GET", b"/orders/17?page=2").kind == asked(b"GET", b"/orders/4?page=10").kind
    assert (
        len({asked(b"GET", b"/a").kind, asked(b"PUT", b"/a").kind, asked(b"GET", b"/a?b").kind})
        == 3
    )


def test_a_request_that_fails_everywhere_is_nobodys_fault() -> None:
    """However often, in whatever order of servers."""
    blame = Blame()
    assert [failed(blame, BAD, row) for row in (0, 1, 2, 3) * 5] == [0] * 20
    assert blame.is_at_fault(BAD)


def test_a_failure_that_others_do_not_have_is_the_servers() -> None:
    """From the first one on: it is counted when another server's answer has proved it."""
    blame = Blame()
    assert failed(blame, PAGE, 0) == 0
    assert blame.answered(PAGE, 1) == [(0, 7)]
    assert blame.answered(PAGE, 1) == []
    assert [failed(blame, PAGE, 0) for _ in range(3)] == [1, 1, 1]
    assert not blame.is_at_fault(PAGE)


def test_two_servers_that_fail_are_both_to_blame_while_a_third_does_not() -> None:
    """Which of them failed first does not matter."""
    blame = Blame()
    assert [failed(blame, PAGE, row) for row in (0, 1)] == [0, 0]
    blame.answered(PAGE, 2)
    assert [failed(blame, PAGE, row) for row in (0, 1)] == [1, 1]


def test_one_id_that_fails_everywhere_is_nobodys_fault_though_others_are_answered() -> None:
    """Its kind is answered well: the very request is not, wherever it goes."""
    blame, well, ill = Blame(), asked(b"GET", b"/orders/1"), asked(b"GET", b"/orders/17")
    failed(blame, ill, 0)
    blame.answered(well, 1)
    assert [failed(blame, ill, row) for row in (1, 2, 0, 1)] == [0] * 4
    assert blame.is_at_fault(ill)
    blame.answered(ill, 2)
    assert failed(blame, ill, 0) == 1


def test_one_client_that_stays_at_its_server_proves_nothing_by_what_others_are_answered() -> None:
    """Whether it asks for one thing again and again or for something else each time."""
    blame = Blame()
    for number in range(20):
        letters = bytes(97 + int(digit) for digit in str(number))
        for target in (b"/orders/17", b"/random/" + letters):
            assert failed(blame, asked(b"GET", target, "10.0.0.1"), 0) == 0
        blame.answered(asked(b"GET", b"/orders/%d" % (number + 20), "10.0.0.2"), 1)


def test_what_such_a_client_has_met_is_proved_by_a_good_answer_to_the_very_request() -> None:
    """As a retry brings it; once is enough."""
    blame, page = Blame(), asked(b"GET", b"/page", "10.0.0.1")
    assert failed(blame, page, 0) == 0
    assert blame.answered(page, 1) == [(0, 7)]
    assert [failed(blame, page, 0) for _ in range(3)] == [1, 1, 1]


def test_two_clients_that_stay_at_a_server_are_believed() -> None:
    """As those that go to any."""
    blame = Blame()
    assert failed(blame, asked(b"GET", b"/orders/17", "10.0.0.1"), 0) == 0
    blame.answered(asked(b"GET", b"/orders/1", "10.0.0.3"), 1)
    counted = [failed(blame, asked(b"GET", b"/orders/%d" % n, f"10.0.0.{n}"), 0) for n in (2, 4, 2)]
    assert counted == [1, 1, 1]


def test_a_good_answer_of_the_server_to_one_of_them_begins_anew() -> None:
    """Then the next client is alone again."""
    blame = Blame()
    failed(blame, asked(b"GET", b"/a", "10.0.0.1"), 0)
    blame.answered(asked(b"GET", b"/b", "10.0.0.2"), 0)
    assert failed(blame, asked(b"GET", b"/c", "10.0.0.2"), 0) == 0


def test_what_begins_to_fail_everywhere_is_at_fault_from_then_on() -> None:
    """The last answer of each server counts."""
    blame = Blame()
    failed(blame, PAGE, 0)
    blame.answered(PAGE, 1)
    failed(blame, PAGE, 1)
    assert blame.is_at_fault(PAGE)
    assert failed(blame, PAGE, 0) == 0


def test_one_url_that_goes_to_one_server_alone_proves_nothing() -> None:
    """A sticky client, or one whose server follows from its path: nobody knows what others would say."""
    blame = Blame()
    assert [failed(blame, BAD, 0) for _ in range(10)] == [0] * 10


def test_several_kinds_that_fail_at_one_server_count_once_each() -> None:
    """That is more than a bad request; none of them counts twice while it is the only proof."""
    blame = Blame()
    kinds = (BAD, PAGE, PAGE, OTHER, THIRD, BAD)
    assert [failed(blame, kind, 0) for kind in kinds] == [0, 2, 0, 1, 1, 0]


def test_a_good_answer_of_the_server_begins_anew() -> None:
    """Then nothing is in a row."""
    blame = Blame()
    failed(blame, BAD, 0)
    blame.answered(OTHER, 0)
    assert failed(blame, PAGE, 0) == 0


def test_all_is_forgotten_some_time_after_the_last_failure() -> None:
    """Whether somebody asks for that or the next failure comes."""
    blame = Blame()
    failed(blame, PAGE, 0, 100.0)
    assert not blame.forget(99.0 + REMEMBER_SECONDS)
    assert blame.forget(100.0 + REMEMBER_SECONDS)
    failed(blame, PAGE, 0, 200.0)
    blame.answered(PAGE, 1)
    assert failed(blame, PAGE, 0, 200.0 + REMEMBER_SECONDS) == 0


def test_good_answers_are_wanted_while_a_kind_has_none() -> None:
    """They cost every request something: not for longer."""
    blame = Blame()
    assert not blame
    failed(blame, PAGE, 0)
    failed(blame, OTHER, 0)
    blame.answered(PAGE, 1)
    assert blame
    blame.answered(OTHER, 1)
    assert not blame
    failed(blame, PAGE, 0, 2.0)
    assert not blame
    failed(blame, PAGE, 1, 2.0)
    assert blame
    blame.forget(2.0 + REMEMBER_SECONDS)
    assert not blame


@pytest.mark.parametrize("client", ["", "10.0.0.1"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_client_that_invents_targets_fills_no_memory(rows: int, client: str) -> None:
    """Neither where all of them fail at one server, nor anywhere else."""
    blame = Blame()
    for number in range(10 * MOST_KINDS):
        letters = "".join(chr(97 + int(digit)) for digit in str(number))
        failed(blame, asked(b"GET", b"/" + letters.encode(), client), number % rows)
    assert repr(blame) == f"<Blame of {MOST_KINDS} kinds of requests>"
    held = sum(len(kinds) for kinds in blame._held.values())
    assert max(held, len(blame._very), len(blame._unproven)) <= MOST_KINDS
