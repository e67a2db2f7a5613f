"""User's policies that break one promise each."""

from __future__ import annotations

from app.policies import Inputs, KeyMissing

NOT_A_CLASS = 7


class Base:
    def __init__(self, inputs: Inputs) -> None:
        self.size = len(inputs.weights)


class Raises(Base):
    def pick(self, key: bytes | None = None) -> int:
        raise RuntimeError("boom")


class OutOfRange(Base):
    def pick(self, key: bytes | None = None) -> int:
        return self.size


class Negative(Base):
    def pick(self, key: bytes | None = None) -> int:
        return -1


class Truth(Base):
    def pick(self, key: bytes | None = None) -> int:
        return False


class Text(Base):
    def pick(self, key: bytes | None = None) -> int:
        return "0"  # type: ignore[return-value]


class CannotBeBuilt(Base):
    def __init__(self, inputs: Inputs) -> None:
        raise ValueError("no")

    def pick(self, key: bytes | None = None) -> int:
        return 0


class NeedsAKey(Base):
    def pick(self, key: bytes | None = None) -> int:
        if key is None:
            raise KeyMissing
        return key[0] % self.size


class NoPick(Base):
    pass


class Good(Base):
    def pick(self, key: bytes | None = None) -> int:
        return self.size - 1
