"""A reload (HUP): everything is read, judged and opened before anything that works is let go.

Owns the way from one set of gunicorn's settings to the next. ``Arbiter.reload`` closes all listeners before
it opens others and ends the balancer when anything at all goes wrong on the way: what cannot be had here is
a ConfigError, after which everything is as it was. Called by app.master.supervisor (``Master.reload``, which
HUP reaches) with a configuration that was judged; its last step that can fail, the on_reload hook, has that
one published. Runs in the master, between its own steps, and forks no worker. Must never know what a
configuration means to a worker.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gunicorn import util as gunicorn_util
from gunicorn.pidfile import Pidfile

from app.config import Config, ConfigError, Problem
from app.master import gunicorn_settings, policy_trial, privileges
from app.master.listen_sockets import CannotListen, Change, in_words
from app.tls import clients as tls

# What policy_trial.require may take, and some.
REHEARSAL_SECONDS = policy_trial.LIMIT_SECONDS + 2.0
_MODULE = "__config__"  # as gunicorn names the file of its settings


def take_over(
    arbiter: Any, config: Config, bind: str, freed: set[int], undo: contextlib.ExitStack
) -> Callable[[], None]:
    """Have gunicorn read its settings again and open what they ask for. ConfigError if it cannot.

    ``bind`` is where ``config`` alone would listen. What was is restored by ``undo``. Returns what is left
    to do once nothing can fail any more; it adds to ``freed`` the ports that are let go.
    """
    before = arbiter.cfg
    _keep_process(undo, arbiter.app, before)
    cfg = _read_settings(arbiter)
    gunicorn_settings.require(cfg, config)
    if cfg.reuse_port != before.reuse_port:
        raise _refusal("reuse_port", "cannot change in a reload: restart instead")
    listeners = _open(arbiter, cfg, bind, freed)
    undo.callback(listeners.undo)
    # Both sets, so that a control process forked meanwhile lets go of all of them.
    undo.callback(setattr, arbiter, "LISTENERS", arbiter.LISTENERS)
    arbiter.LISTENERS = list(dict.fromkeys([*listeners.before, *listeners.now]))
    pidfile = _write_pidfile(arbiter, cfg)
    if pidfile is not None and pidfile is not arbiter.pidfile:
        undo.callback(pidfile.unlink)
    _rehearse(arbiter, cfg, config)
    undo.callback(_set_up_again, arbiter, before, arbiter.num_workers)
    _try("gunicorn", lambda: arbiter.setup(arbiter.app))
    _try("on_reload", lambda: cfg.on_reload(arbiter))

    def finish() -> None:
        arbiter._stats["reloads"] += 1
        is_moved = listeners.now != list(listeners.before)
        arbiter.LISTENERS = listeners.now
        freed.update(listeners.finish())
        if is_moved:
            arbiter.log.info("Listening at: %s", ",".join(map(str, listeners.now)))
        if arbiter.pidfile is not pidfile:
            if arbiter.pidfile is not None:
                arbiter.pidfile.unlink()
            arbiter.pidfile = pidfile
        gunicorn_util._setproctitle(f"master [{arbiter.proc_name}]")
        try:
            arbiter.log.reopen_files()
        except OSError:
            arbiter.log.exception("log files not opened again")

    return finish


def _keep_process(undo: contextlib.ExitStack, app: Any, cfg: Any) -> None:
    """Have all restored that a file of settings can change of the process by being read."""
    environ, path, folder = dict(os.environ), list(sys.path), os.getcwd()
    module = sys.modules.get(_MODULE)

    def restore() -> None:
        app.cfg = cfg
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        os.chdir(folder)
        if module is not None:
            sys.modules[_MODULE] = module

    undo.callback(restore)


def _read_settings(arbiter: Any) -> Any:
    """gunicorn's settings, from its command line, the environment and gunicorn.conf.py; all can be used."""
    for name in arbiter.cfg.env:  # raw_env of the last time, as gunicorn does
        if name in arbiter.cfg.env_orig:
            os.environ[name] = arbiter.cfg.env_orig[name]
        else:
            os.environ.pop(name, None)
    _try(arbiter.cfg.config, arbiter.app.reload)
    cfg = arbiter.app.cfg
    worker_class = _try("worker_class", lambda: cfg.worker_class)
    # gunicorn's settings give back the name of a class that its module has not.
    if not callable(worker_class):
        raise _refusal("worker_class", f"{worker_class}: there is no such class")
    if hasattr(worker_class, "check_config"):
        _try("worker_class", lambda: worker_class.check_config(cfg, arbiter.log))
    _try("bind", lambda: cfg.address)
    _try("raw_env", lambda: cfg.env)
    for name in ("certfile", "keyfile"):
        file = getattr(cfg, name)
        if file and not os.path.exists(file):
            raise _refusal(name, f"{file}: there is no such file")
    if cfg.worker_tmp_dir and not os.path.isdir(cfg.worker_tmp_dir):
        raise _refusal("worker_tmp_dir", f"{cfg.worker_tmp_dir}: there is no such folder")
    return cfg


def _open(arbiter: Any, cfg: Any, bind: str, freed: set[int]) -> Change:
    """The change to the new settings' addresses, already opened; none where they are the same."""
    change = Change(arbiter.LISTENERS)
    if cfg.address == arbiter.cfg.address:
        return change
    try:
        change.open(cfg, arbiter.log, freed)
    except CannotListen as error:
        raise _cannot_listen(error, cfg, bind) from None
    if cfg.reuse_port:
        change.undo()  # each worker opens its own: this was to see whether it can
    return change


def _cannot_listen(error: CannotListen, cfg: Any, bind: str) -> ConfigError:
    address, cause = error.address, error.cause
    if not isinstance(address, tuple):
        words = getattr(cause, "strerror", "") or cause
        return _refusal("bind", f"cannot listen on {address}: {words}: name another place")
    remedy = privileges.remedy_for_port(address[1]) or "name another"
    message = in_words(cause, *address, remedy)
    if cfg.bind != [bind]:  # from gunicorn's command line, or a gunicorn.conf.py of the user's own
        return _refusal("bind", message)
    is_port = getattr(cause, "errno", 0) in (errno.EADDRINUSE, errno.EACCES)
    return _refusal("port" if is_port else "host", message)


def _write_pidfile(arbiter: Any, cfg: Any) -> Any:
    """gunicorn's pidfile for the new settings: the old one where its name stays, None where none is named."""
    if cfg.pidfile == arbiter.cfg.pidfile:
        return arbiter.pidfile  # also with the ".2" of a second master
    if cfg.pidfile is None:
        return None
    pidfile = Pidfile(cfg.pidfile + (".2" if arbiter.master_pid else ""))
    _try("pidfile", lambda: pidfile.create(arbiter.pid))
    return pidfile


def _set_up_again(arbiter: Any, cfg: Any, workers: int) -> None:
    """Have gunicorn take back the settings of before."""
    arbiter.app.cfg = cfg
    arbiter.setup(arbiter.app)
    arbiter.num_workers = workers


def _rehearse(arbiter: Any, cfg: Any, config: Config) -> None:
    """As the user that workers run as (--user), where the master is another: can they read what they must?"""
    if (cfg.uid, cfg.gid) == (os.geteuid(), os.getegid()):
        return
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_rehearsed(arbiter, cfg, config, writer)
    os.close(writer)
    try:
        said = b""
        if select.select([reader], [], [], REHEARSAL_SECONDS)[0]:
            said = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    user = f"as user {cfg.uid}, whom workers run as"
    if not said:
        raise _refusal("user", f"could not be tried {user}")
    if problems := json.loads(said):
        raise ConfigError([Problem(path, f"{message} ({user})") for path, message in problems])


def _be_rehearsed(arbiter: Any, cfg: Any, config: Config, writer: int) -> None:
    """In the child; never returns."""
    try:
        for number in arbiter.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        problems: list[tuple[str, str]] = []
        try:
            gunicorn_util.set_owner_process(cfg.uid, cfg.gid, initgroups=cfg.initgroups)
            policy_trial.require(config)
            tls.require(config)
        except ConfigError as error:
            problems = [(problem.path, problem.message) for problem in error.problems]
        except OSError as error:
            problems = [("user", str(error))]
        os.write(writer, json.dumps(problems).encode())
    finally:
        os._exit(0)


def _try(name: str, action: Callable[[], Any]) -> Any:
    """What it returns; ConfigError at ``name`` with the cause if it raises, or would end the process."""
    try:
        return action()
    except ConfigError:
        raise
    except BaseException as error:  # also SystemExit or CancelledError: no signal raises any here
        raise _refusal(name, cause_of(error, name)) from error


def cause_of(error: BaseException, file: str) -> str:
    """Why reading ``file`` failed, in one line; gunicorn makes a SystemExit of all that it raises."""
    cause = error
    if isinstance(error, SystemExit) and error.__context__ is not None:
        cause = error.__context__
    line = cause.lineno if isinstance(cause, SyntaxError) else _line_in(file, cause)
    first, *more = str(cause).strip().splitlines() or [""]
    text = f": {first}" if first else ""
    if more:
        text += f" … {more[-1].strip(' ]')}"
    return type(cause).__name__ + text + (f" (line {line})" if line else "")


def _line_in(file: str, error: BaseException) -> int:
    """The last line of ``file`` that was executed; 0 if none was."""
    name = os.path.basename(file)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.basename(frame.filename) == name:
            return frame.lineno or 0
    return 0


def _refusal(path: str, message: str) -> ConfigError:
    return ConfigError([Problem(path, message)])
