"""Coverage-guided fuzzing with atheris: ``python tests/fuzz/fuzz.py [target …] --seconds 60``.

atheris is not among the requirements of development (it has wheels for few Pythons): pip install atheris.
Each target runs in a process of its own for its share of the time. A finding ends with status 1; the input
is kept in the folder given with --artifacts. ``--keep`` adds what brought new coverage to the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
os.environ["LB_COMPILED"] = "off"  # its branches are to be seen
sys.path[:0] = [str(HERE), str(HERE.parent / "wire"), str(ROOT)]
TARGETS = ("request", "response", "chunked", "forwarded", "proxy", "stream")
# Small enough that the corpus is read, not only stored.
KEEP = 60


def fuzz(target: str, arguments: list[str]) -> None:
    """In the child: hand over to libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["app.wire", "app.worker.client.http2"]):
        import targets
        from replay import parsers

        if parsers.HAS_C:
            parsers.readers("c")
            parsers.readers("python")

    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[target])
    atheris.Fuzz()


def run(target: str, seconds: int, artifacts: Path, keep: bool) -> int:
    """Fuzz one target in a process of its own; its exit status."""
    from seeds import CORPUS, seeds

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        work, start = Path(folder) / "work", Path(folder) / "start"
        work.mkdir()
        start.mkdir()
        for data in seeds(target):
            (start / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
        artifacts.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-max_total_time={seconds}",
            "-max_len=2048",
            "-timeout=5",
            "-print_final_stats=1",
        ]
        flags += [f"-artifact_prefix={artifacts}/{target}-", "-verbosity=0"]
        command = [sys.executable, str(HERE / "fuzz.py"), "--child", target, "--"]
        status = subprocess.run([*command, *flags, str(work), str(start)], check=False).returncode
        if keep and status == 0:
            # libFuzzer writes there what brought new coverage; all sizes are worth something.
            found = sorted(
                {path.read_bytes() for path in work.iterdir()}, key=lambda data: (len(data), data)
            )
            kept = found[:: max(1, -(-len(found) // KEEP))]
            destination = CORPUS / target
            destination.mkdir(parents=True, exist_ok=True)
            for data in kept:
                name = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]
                (destination / name).write_bytes(data)
    return status


def main() -> int:
    """Fuzz the targets named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--artifacts", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    names = options.targets or TARGETS
    share = max(1, options.seconds // len(names))
    statuses = [run(name, share, options.artifacts, options.keep) for name in names]
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2], sys.argv[4:])
    else:
        sys.exit(main())
