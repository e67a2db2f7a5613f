"""app.worker.memory: when a worker gives memory back."""

from __future__ import annotations

from app.worker.memory import CHANGED_BYTES, GROWN_BYTES, LOOK_SECONDS, Trim, resident


class Process:
    """One whose memory a test sets: ``used`` it needs, ``size`` it has."""

    def __init__(self, size: int) -> None:
        self.size = self.used = size
        self.asked = 0
        self.now = 100.0
        self.trim = Trim(lambda: self.size, self.give_back)
        self.trim.look(self.now)

    def give_back(self) -> None:
        self.asked += 1
        self.size = self.used

    def later(self, size: int, used: int) -> int:
        """How often it was asked when it has had that for a while."""
        self.size, self.used = size, used
        for _ in range(5):
            self.now += LOOK_SECONDS
            self.trim.look(self.now)
        return self.asked


def test_what_was_needed_once_is_given_back() -> None:
    """Not what is little, and not again and again where it is needed."""
    process = Process(30 << 20)
    assert process.later((30 << 20) + GROWN_BYTES - 1, 30 << 20) == 0
    assert process.later(90 << 20, 80 << 20) == 1
    assert process.size == 80 << 20
    assert process.later((80 << 20) + CHANGED_BYTES - 1, 80 << 20) == 1, (
        "it has nothing more to give"
    )
    assert process.later(90 << 20, 40 << 20) == 2
    assert process.later(40 << 20, 30 << 20) == 2


def test_it_is_not_asked_at_every_tick() -> None:
    """A look is a system call."""
    process = Process(30 << 20)
    process.size = 90 << 20
    process.trim.look(process.now + LOOK_SECONDS / 2)
    assert process.asked == 0
    process.trim.look(process.now + LOOK_SECONDS)
    assert process.asked == 1


def test_the_process_s_own_memory_is_read_and_given_back() -> None:
    """As the system tells it."""
    assert resident() > 1 << 20
    trim = Trim()
    trim.look(100.0)
    trim._first = 1
    trim.look(200.0)
    assert trim._left > 0
