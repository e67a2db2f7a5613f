"""``make compile``: the request path as C extensions, in app/_compiled (docs/decisions/0010).

Compiles a copy of the sources with mypyc, so that nothing is left beside them, and puts the result into
its place in one step: who starts meanwhile sees the old or the new, and running processes keep theirs.
Needs mypy, setuptools, a C compiler and Python's headers, all of them here only.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["LB_COMPILED"] = "off"

from app import compiled  # noqa: E402


def main() -> int:
    """Compile, and replace what is there; the exit status."""
    if compiled.problem_of(compiled.FOLDER) == "":
        print("compiled already")
        return 0
    with tempfile.TemporaryDirectory(prefix="lb-compile-") as name:
        scratch = Path(name)
        stamp = compiled.stamp()
        shutil.copytree(
            compiled.PACKAGE,
            scratch / "app",
            ignore=shutil.ignore_patterns("_compiled", "__pycache__"),
        )
        out = build(scratch)
        missing = [str(file) for file in compiled.files(out).values() if not file.is_file()]
        if missing:
            print("not compiled:", *missing, sep="\n  ", file=sys.stderr)
            return 1
        (out / compiled.STAMP).write_text(stamp + "\n", encoding="ascii")
        put_into_place(out)
    print(f"compiled {len(compiled.MODULES)} modules into {compiled.FOLDER}")
    return 0


def build(scratch: Path) -> Path:
    """Compile the package in ``scratch``; where the extensions are."""
    try:
        from mypyc.build import mypycify
        from setuptools import setup
    except ImportError as error:
        raise SystemExit(
            f"{error}: pip install -r requirements-dev.lock, or make compile"
        ) from None

    out = scratch / "out"
    os.chdir(scratch)  # mypyc names modules by their paths from here
    sources = [f"app/{name.replace('.', '/')}.py" for name in compiled.MODULES]
    extensions = mypycify(
        ["--config-file", str(ROOT / "pyproject.toml"), *sources], group_name=compiled.GROUP
    )
    arguments = [
        "--quiet",
        "build_ext",
        "--build-lib",
        str(out),
        "--build-temp",
        str(scratch / "temp"),
    ]
    setup(name=compiled.GROUP, packages=[], ext_modules=extensions, script_args=arguments)
    return out


def put_into_place(out: Path) -> None:
    """Move the finished folder beside its place, then swap."""
    new, old = (compiled.FOLDER.with_name(f"_compiled.{part}") for part in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(out, new)
    if compiled.FOLDER.exists():
        compiled.FOLDER.rename(old)
    new.rename(compiled.FOLDER)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
