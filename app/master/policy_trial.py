"""Trying a user's own algorithm before it is trusted, in a process of its own.

A class named in config.json is foreign code: importing it may load gevent, start threads or never return,
none of which the master survives (it forks). So master and ``load_balancer.py check`` start a fresh
interpreter that imports the class, makes some thousand picks with it and says in one line what is wrong;
only workers import it in earnest. The child's exit status means nothing: gunicorn may reap it first.
Runs in the master at start and reload, only when the configuration names a class.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from app.config import Config, ConfigError, Problem
from app.policies import PolicyError, check_custom, load_custom

# An interpreter, the user's imports (a large framework may need seconds) and 1,000 picks of 1 ms at most.
LIMIT_SECONDS = 15.0
_PASSED = "passed"


def require(config: Config) -> None:
    """ConfigError with the reason if the configuration names a class that cannot be trusted."""
    algorithm = config.algorithm
    if algorithm.is_custom and (reason := _try(algorithm.name, dict(algorithm.options))):
        raise ConfigError([Problem("algorithm", f"{algorithm.name}: {reason}")])


def _try(name: str, options: dict[str, object]) -> str:
    """Why the class cannot be trusted, "" if it can."""
    # Found where the workers will find it: gunicorn puts its directory on the path, -m the current one.
    places = [place or os.getcwd() for place in sys.path]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "app.master.policy_trial", name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            # Not as an argument: one of them may be a secret, and all users of the machine see those.
            input=json.dumps(options).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"was not imported and tried within {LIMIT_SECONDS:g} s"
    verdict = done.stdout.decode("utf-8", "replace").strip()
    return "" if verdict == _PASSED else verdict or "ended the process that tried it"


def main(name: str) -> None:
    """In the child: one line on what was standard output, where the class cannot reach it.

    The class's options come by standard input.
    """
    options = json.load(sys.stdin)
    verdict = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        check_custom(load_custom(name), options, time.monotonic)
    except PolicyError as error:
        verdict.write(" ".join(str(error).split()))
    else:
        verdict.write(_PASSED)
    verdict.flush()
    os._exit(0)  # threads of the class must not keep us


if __name__ == "__main__":
    main(*sys.argv[1:])
