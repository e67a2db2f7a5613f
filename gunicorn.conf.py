"""gunicorn's settings, made from config.json, and its hooks.

Executed in the master, unpatched, at start and again at every HUP: no state here (modules of app.master
keep it), and nothing is imported that loads gevent or requests. Flags on gunicorn's command line win over it.
"""

import math
import os

from app.master import gunicorn_settings, hooks, preflight
from app.shared import descriptors

descriptors.fill_standard()
_config = preflight.load_config()

proc_name = "load-balancer"
bind = preflight.bind_address(_config)
backlog = 2048
# Each worker would have a queue of its own, and what waits in it is lost when that worker exits.
reuse_port = False

if _config.tls is not None:
    certfile = _config.tls.certificate
    keyfile = _config.tls.key
    ssl_context = hooks.ssl_context

if _config.proxy_protocol:
    # For gunicorn's own handlers; our worker reads these headers itself.
    proxy_protocol = "auto"
    proxy_allow_ips = ",".join(_config.proxy_protocol)

worker_class = "app.worker.process.Worker"
workers = _config.workers
# Keep-alive and limits, for gunicorn's own request handlers (-k gevent).
globals().update(gunicorn_settings.from_config(_config))
# The application is loaded after the fork, once gevent has patched the standard library.
preload_app = False
# A worker that has not beaten for so long is killed. It beats every second, whatever its requests do:
# this is for one whose loop is stuck, not for slow requests (those are config.json's "timeouts").
timeout = 30
# One second more than requests have: what is left then is cut and logged before the worker is killed.
graceful_timeout = math.ceil(_config.graceful_timeout) + 1
# Beats are file times: on a disk that is busy, setting them could block a worker's loop.
_memory = "/dev/shm"  # noqa: S108 - gunicorn makes an unlinked file there
worker_tmp_dir = _memory if os.access(_memory, os.W_OK) else None

logger_class = "app.telemetry.gunicorn.Logger"
loglevel = _config.logging.level
# Access lines are written by the worker, in JSON and in batches.
accesslog = None
# It is a thread in the master, and a fork while a thread holds a lock can leave a worker hanging.
control_socket_disable = True

on_starting = hooks.on_starting
when_ready = hooks.when_ready
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
child_exit = hooks.child_exit
worker_exit = hooks.worker_exit
on_reload = hooks.on_reload
pre_exec = hooks.pre_exec
on_exit = hooks.on_exit
