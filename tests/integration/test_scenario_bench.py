"""The scenario bench itself: it runs against the balancer of this tree, and its figures make sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
RESULTS = PROJECT / "build" / "bench" / "scenarios" / "quick" / "failures.json"


def test_the_quick_run_measures_what_it_says() -> None:
    """The whole of it, half a minute: it ends well, servers were killed, hung and repaired by real
    signals, and what must hold on any machine does."""
    RESULTS.unlink(missing_ok=True)
    command = (sys.executable, "-m", "bench.scenarios", "--quick", "--offline")
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| goal " in done.stdout
    result = json.loads(RESULTS.read_text())["results"]["short"]["ours"]
    well, killed, hung, _, repaired, _ = result["phases"]
    assert well["failed"] <= 1, well  # one that was under way when the first server was killed
    assert killed["shares"][0] < 0.05, killed
    assert hung["shares"][1] < 0.25, hung
    assert min(repaired["shares"]) > 0.05, repaired
    assert result["posts_executed_twice"] == 0
    assert all(after is not None for after in result["first_check_after_s"].values()), result
