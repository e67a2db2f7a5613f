#!/usr/bin/env python3
"""The command line: run the balancer, check a configuration, show a demo.

Owns what a person types. `run` is `gunicorn -c gunicorn.conf.py app:application` from this directory,
inside this process. The configuration is config.json here, or the file that LB_CONFIG names.
Knows nothing of requests, health or the shared table, and writes on standard output only what was
asked for: the balancer's own lines there are JSON.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import app
from app import config
from app.master import file_modes, listen_sockets, policy_trial
from app.master.exit_status import EX_CONFIG, EX_FAILED
from app.shared import descriptors
from app.tls import clients as tls

ROOT = Path(__file__).resolve().parent

DESCRIPTION = "An HTTP load balancer on gunicorn, gevent and requests."
EPILOG = """\
environment:
  LB_CONFIG         configuration file (default: config.json beside this program)
  LB_HOST, LB_PORT  listen here, whatever the file says
  WEB_CONCURRENCY   number of workers, whatever the file says

exit status:
  0   ended as asked, or the configuration is valid
  1   could not start: the port is taken, a package is missing
  78  the configuration is refused; every problem is listed, nothing was started

`run` is the same as: gunicorn -c gunicorn.conf.py app:application
Settings for gunicorn go after `--`:  load_balancer.py run -- --max-requests 100000
"""


def main(arguments: Sequence[str]) -> int:
    """Do what was asked; the exit status."""
    descriptors.fill_standard()
    if list(arguments[:1]) == ["-c"]:  # only gunicorn says so: see run()
        return _gunicorn()
    mine, extra = split(arguments)
    asked = parser().parse_args(mine or ["run"])
    if extra and asked.command != "run":
        return fail("only `run` takes settings for gunicorn after --")
    if asked.command == "check":
        return check(Path(asked.file).absolute() if asked.file else config_path(), asked.quiet)
    enter_root()
    return demo() if asked.command == "demo" else run(extra)


def parser() -> argparse.ArgumentParser:
    """What can be typed."""
    top = argparse.ArgumentParser(
        prog="load_balancer.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"load_balancer {app.__version__}")
    commands = top.add_subparsers(dest="command", title="commands", metavar="")
    commands.add_parser("run", help="start the balancer (the default)")
    checking = commands.add_parser(
        "check", help="validate the configuration and print it with every default filled in"
    )
    checking.add_argument("file", nargs="?", help="another file than the one `run` would use")
    checking.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print problems only: nothing where there is none",
    )
    commands.add_parser(
        "demo", help="start demo backends on the ports of the configuration, and run"
    )
    return top


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ours, and what comes after `--`."""
    if "--" not in arguments:
        return list(arguments), []
    cut = list(arguments).index("--")
    return list(arguments[:cut]), list(arguments[cut + 1 :])


def run(extra: Sequence[str]) -> int:
    """Become gunicorn, unless something plainly stands in the way."""
    try:
        settings = config.load(config.path_from(os.environ), os.environ)
    except config.ConfigError:
        return refuse()
    if not extra and (problem := cannot_listen(settings.host, settings.port)):
        return fail(problem)
    # USR2 starts `python` with these arguments again. `-m gunicorn` would not survive that: gunicorn's
    # directory comes first on sys.path then, and its `http` package hides the standard library's.
    program = str(ROOT / "load_balancer.py")
    sys.argv = [program, "-c", "gunicorn.conf.py", "app:application", *extra]
    return _gunicorn()


def refuse() -> int:
    """Say it in the log as gunicorn.conf.py does. gunicorn itself fails on a WEB_CONCURRENCY that is no
    number, before it reads that file, so it is not asked.
    """
    try:
        from app.master import preflight
    except ImportError as error:
        return fail(not_installed(error))
    preflight.load_config()
    return EX_CONFIG


def check(path: Path, is_quiet: bool = False) -> int:
    """Print the effective configuration, or every problem with it. Secrets are not told in either."""
    try:
        settings = config.load(str(path), os.environ)
        policy_trial.require(settings)
        tls.require(settings)
    except config.ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EX_CONFIG
    if is_quiet:
        return 0
    for warning in (*config.warnings(settings), *file_modes.exposed(settings, str(path))):
        print(f"warning: {warning}", file=sys.stderr)
    print(config.describe(settings), end="")
    return 0


def demo() -> int:
    """The balancer with something behind it."""
    from app.tools.demo import local_servers
    from app.tools.demo import run as run_demo

    try:
        settings = config.load(config.path_from(os.environ), os.environ)
    except config.ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return EX_CONFIG
    servers = local_servers(settings)
    if not servers:
        return fail("the demo needs a server such as http://127.0.0.1:8001 in the configuration")
    if problem := cannot_listen(settings.host, settings.port):
        return fail(problem)
    for server in servers:
        if problem := cannot_listen(server.host, server.port, "the demo backend's "):
            return fail(problem)
    return run_demo(settings, [sys.executable, str(ROOT / "load_balancer.py"), "run"], sys.stderr)


def cannot_listen(host: str, port: int, whose: str = "") -> str:
    """What keeps a program from listening there and what to do about it, or ""."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return in_words(error, host, port, whose)
    return ""


def in_words(error: OSError, host: str, port: int, whose: str) -> str:
    """Why, and the remedy."""
    elsewhere = (
        "change its url in the configuration" if whose else f"set LB_PORT, as in LB_PORT={port + 1}"
    )
    return listen_sockets.in_words(error, host, port, elsewhere, whose)


def config_path() -> Path:
    """The file that `run` reads, seen from anywhere."""
    named = os.environ.get("LB_CONFIG")
    return Path(named).absolute() if named else ROOT / config.DEFAULT_FILE


def enter_root() -> None:
    """gunicorn finds its settings and `app` here; a relative LB_CONFIG keeps its meaning."""
    if named := os.environ.get("LB_CONFIG"):
        os.environ["LB_CONFIG"] = str(Path(named).absolute())
    os.chdir(ROOT)


def fail(message: str) -> int:
    """Say why nothing was started."""
    print(f"load_balancer: {message}", file=sys.stderr)
    return EX_FAILED


def not_installed(error: ImportError) -> str:
    """Which package, for which Python, and the remedy; or what one of our own modules says."""
    if error.name is None:
        return str(error)
    return (
        f"{error.name} is not installed for {sys.executable}: "
        "use `make run`, or pip install -r requirements.txt"
    )


def _gunicorn() -> int:
    try:
        from gunicorn.app.wsgiapp import run as run_gunicorn
    except ImportError as error:
        return fail(not_installed(error))
    run_gunicorn(prog="gunicorn")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
