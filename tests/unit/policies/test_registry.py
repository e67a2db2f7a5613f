from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.policies
from app.policies import POLICIES, KeyMissing, make
from tests.unit.policies.samples import sample

DOCS = Path(__file__).parents[3] / "docs" / "algorithms.md"
pools = st.lists(
    st.tuples(st.integers(1, 300), st.integers(0, 50), st.floats(0, 5), st.integers(0, 60)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("name", POLICIES)
@given(pool=pools, seed=st.integers(), key=st.none() | st.binary(max_size=20))
def test_every_pick_is_an_index(name: str, pool: list[tuple], seed: int, key: bytes) -> None:
    """Whatever the weights, loads, latencies, capacities and keys."""
    weights, load, latency, capacity = zip(*pool, strict=True)
    inputs = sample(
        weights,
        load=load.__getitem__,
        latency=latency.__getitem__,
        capacity=capacity,
        seed=seed,
    )
    policy = make(name, {}, inputs)
    for _ in range(3):
        index = policy.pick(key)
        assert type(index) is int
        assert 0 <= index < len(weights)


def test_left_out_options_have_their_defaults() -> None:
    """hash without options: round robin for a missing key."""
    assert make("hash", {}, sample([1, 1])).pick() == 0


def test_given_options_win() -> None:
    """hash that refuses a missing key."""
    with pytest.raises(KeyMissing):
        make("hash", {"missing_key": "none"}, sample([1, 1])).pick()


def test_an_unknown_policy_is_a_key_error() -> None:
    """The configuration is checked before; this is a mistake in the program."""
    with pytest.raises(KeyError):
        make("fastest", {}, sample([1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing_key": "nobody"}, "must be one of round_robin, random, none, got 'nobody'"),
        ({"missing_key": 3}, "must be a string, got 3"),
        ({"balance_factor": "2"}, "must be a number, got '2'"),
        ({"balance_factor": True}, "must be a number, got True"),
        ({"balance_factor": 0.5}, "must be 0 (off) or from 1 to 10, got 0.5"),
        ({"balance_factor": 11}, "must be 0 (off) or from 1 to 10, got 11"),
        ({"balance_factor": float("nan")}, "must be 0 (off) or from 1 to 10, got nan"),
        ({"factor": 2}, "is not an option of hash"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    """Each with the option's name and what it should have been."""
    assert POLICIES["hash"].problems(options) == [(next(iter(options)), message)]


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.25, 10])
def test_right_options_are_accepted(value: float) -> None:
    """0 is off; whole numbers are numbers."""
    options = {"balance_factor": value, "missing_key": "random"}
    assert POLICIES["hash"].problems(options) == []


def test_every_default_is_valid() -> None:
    """The table obeys its own rules."""
    for definition in POLICIES.values():
        defaults = {option.name: option.default for option in definition.options}
        assert definition.problems(defaults) == []


def test_the_documentation_has_every_policy_and_option() -> None:
    """One heading a policy, and each option with its line, as the table says it."""
    text = " ".join(DOCS.read_text("utf-8").split())
    for definition in POLICIES.values():
        assert f"### `{definition.name}`" in text
        assert definition.summary in text.lower()
        for option in definition.options:
            assert f"`{option.name}`" in text
            assert option.summary in text


@pytest.mark.parametrize("name", app.policies.__all__)
def test_public_names_exist(name: str) -> None:
    """What the package promises can be imported."""
    assert getattr(app.policies, name)


@pytest.mark.parametrize("name", POLICIES)
def test_live_values_are_read_only_as_declared(name: str) -> None:
    """``reads`` is true: what it leaves out is never asked for, at build or at a pick."""
    reads = POLICIES[name].reads

    def forbidden(index: int) -> int:
        raise AssertionError(f"{name} reads what it does not declare")

    inputs = sample(
        [3, 2, 1],
        load=(lambda index: 2) if "in_flight" in reads else forbidden,
        latency=(lambda index: 0.1) if "latency" in reads else forbidden,
    )
    for options in ({}, {"balance_factor": 1.5}) if name == "hash" else ({},):
        policy = make(name, options, inputs)
        for number in range(50):
            policy.pick(b"%d" % number)
