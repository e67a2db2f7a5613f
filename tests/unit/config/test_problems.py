"""Problems as they are told."""

from __future__ import annotations

import json

import pytest

from app.config import (
    ConfigError,
    Problem,
    parse,
)
from tests.unit.config.refusals import refusals


def test_a_long_value_is_cut_in_the_message() -> None:
    """A message stays readable whatever the file holds."""
    message = refusals(json.dumps({"port": "x" * 5000}))[0]
    assert message == f'port: must be a whole number, got "{"x" * 58}…'


def test_a_number_of_thousands_of_digits_is_out_of_range() -> None:
    """Python's own limit on the digits of an int does not surface."""
    assert refusals('{"port": ' + "9" * 10_000 + "}")[0].startswith("port: must be ≤ 65535, got 9")


def test_the_error_prints_one_problem_a_line() -> None:
    """str() of the error is what an operator reads."""
    with pytest.raises(ConfigError) as caught:
        parse('{"port": 0, "workers": 0}')
    assert str(caught.value) == "port: must be ≥ 1, got 0\nworkers: must be ≥ 1, got 0"
    assert caught.value.problems[0] == Problem("port", "must be ≥ 1, got 0")
