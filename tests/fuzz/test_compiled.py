"""Compiled code reads every message as its sources do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

READINGS = Path(__file__).with_name("readings.py")
COUNT = 20_000


def test_both_forms_read_the_same(pytestconfig: pytest.Config, rng: random.Random) -> None:
    """Twenty thousand mutated messages, each read by both: one meaning, one refusal, no other exception."""
    if not pytestconfig.getoption("--compiled"):
        pytest.skip("needs make compile, and --compiled")
    seed = str(rng.randrange(2**32))
    running = {
        form: subprocess.Popen(
            [sys.executable, str(READINGS), seed, str(COUNT)],
            env={**os.environ, "LB_COMPILED": asked},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for form, asked in (("sources", "off"), ("compiled", "required"))
    }
    readings = {}
    for form, process in running.items():
        out, problems = process.communicate()
        assert process.returncode == 0, problems
        assert problems == ""
        first, *readings[form] = out.splitlines()
        assert first == form
    assert len(readings["sources"]) == COUNT
    assert readings["sources"] == readings["compiled"]
