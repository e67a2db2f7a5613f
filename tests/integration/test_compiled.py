"""The compiled request path through the front door; with ``--compiled`` all other tests run on it too."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import MODULE, ROOT, Backend, Balancer, environment, run

IMPORT_ALL = """
from gevent import monkey; monkey.patch_all()
import importlib, pkgutil, app
from app import compiled
names = [m.name for m in pkgutil.walk_packages(app.__path__, "app.") if "__main__" not in m.name]
for name in names:
    if "_compiled" not in name:
        importlib.import_module(name)
for name in compiled.MODULES:
    assert "_compiled" in importlib.import_module(f"app.{name}").__file__, name
"""


def test_all_of_the_package_goes_with_it(pytestconfig: pytest.Config) -> None:
    """A class that is not compiled cannot be made from one that is: such a module would not import."""
    if not pytestconfig.getoption("--compiled"):
        pytest.skip("needs make compile, and --compiled")
    subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=ROOT,
        env=environment(LB_COMPILED="required"),
        check=True,
    )


@pytest.fixture(name="stale")
def _stale(tmp_path: Path) -> Path:
    """The program, with something compiled that is not of its sources."""
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("_compiled"))
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path)
    (tmp_path / "app" / "_compiled").mkdir()
    return tmp_path


def test_what_is_stale_is_not_used(stale: Path, backend: Backend) -> None:
    """The sources run, and a line says so."""
    with Balancer([backend], root=stale, env={"LB_COMPILED": "auto"}) as balancer:
        assert balancer.get("/").status == 200
        line = balancer.log.wait_for(logger="compiled")[0]
        assert (line["level"], line["remedy"]) == (
            "warning",
            "make compile, or remove app/_compiled",
        )


def test_who_requires_it_is_not_started_without(stale: Path) -> None:
    """And hears what to do."""
    done = run(MODULE, None, root=stale, LB_COMPILED="required")
    assert done.returncode != 0
    assert "LB_COMPILED=required, but" in done.stdout + done.stderr
