"""Balancing policies: one algorithm a file, pure; weights, key and load in, an index out.

This package is the one place that knows which policies exist: ``POLICIES`` is the table that
the configuration is validated against, the documentation is checked against and ``make`` builds
from. Runs in the workers, once for each snapshot, and in the master when the configuration is
checked; imports neither gevent nor requests nor anything of the application above it.
"""

from __future__ import annotations

from app.policies.custom import Guard, PolicyError, check_custom, load_custom
from app.policies.protocol import Inputs, KeyMissing, Policy
from app.policies.registry import POLICIES, Definition, Option, make

__all__ = [
    "POLICIES",
    "Definition",
    "Guard",
    "Inputs",
    "KeyMissing",
    "Option",
    "Policy",
    "PolicyError",
    "check_custom",
    "load_custom",
    "make",
]
