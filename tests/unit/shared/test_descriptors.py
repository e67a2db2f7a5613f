"""The limit of descriptors: raised to what is allowed, and no reason to fail."""

from __future__ import annotations

import os

import pytest

from app.shared import descriptors


@pytest.mark.parametrize("closed", [(), (1,), (0, 2), (0, 1, 2)])
def test_standard_descriptors_are_never_free(closed: tuple[int, ...]) -> None:
    """What was closed is /dev/null, also for who is executed from here; what was open stays."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for number in (0, 1, 2):
                os.dup2(os.open("/dev/zero", os.O_RDWR), number)
            for number in closed:
                os.close(number)
            descriptors.fill_standard()
            names = ["null" if number in closed else "zero" for number in (0, 1, 2)]
            found = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
            inherited = all(map(os.get_inheritable, (0, 1, 2)))
            status = 0 if inherited and found == [f"/dev/{name}" for name in names] else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


class Limits:
    """Takes the place of the kernel's."""

    def __init__(self, soft: int, hard: int, refusal: Exception | None = None) -> None:
        self.soft, self.hard = soft, hard
        self.refusal = refusal
        self.calls = 0

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == descriptors.resource.RLIMIT_NOFILE
        return self.soft, self.hard

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == descriptors.resource.RLIMIT_NOFILE
        self.calls += 1
        if self.refusal is not None:
            raise self.refusal
        self.soft, self.hard = limits


def raised(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> Limits:
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(descriptors.resource, name, getattr(limits, name))
    descriptors.raise_limit()
    return limits


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hard one stays: only root could have it back."""
    limits = raised(monkeypatch, Limits(1024, 524_288))
    assert (limits.soft, limits.hard) == (524_288, 524_288)


def test_a_limit_that_is_raised_already_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked for that is here."""
    assert raised(monkeypatch, Limits(4096, 4096)).calls == 0


@pytest.mark.parametrize("refusal", [OSError(1, "not permitted"), ValueError("above the maximum")])
def test_a_refusal_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    """The control process would not start, and be started again for ever."""
    limits = raised(monkeypatch, Limits(1024, 524_288, refusal))
    assert (limits.soft, limits.calls) == (1024, 1)
