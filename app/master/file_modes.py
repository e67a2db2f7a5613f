"""Who may read and change the files that a configuration names, and the file itself.

Owns two questions: what other users of the machine can do (``exposed``, asked by ``check``), and what workers
that have given up root's rights cannot read (``unreadable``, asked at a start). By owner and mode, of the
files and of all folders above them; whatever else the kernel may know (ACLs) is left out, so nothing is
refused for it. Runs in the master and in ``check``. Opens nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator

from app.config import Config, Problem

Look = Callable[[str], os.stat_result]

ROOT_UID = 0


def exposed(config: Config, path: str, look: Look = os.stat) -> Iterator[Problem]:
    """Warnings about what others may do with the files of the configuration in the file ``path``."""
    secrets = [(key, file) for key, file in _files(config) if key in _SECRET]
    if _has_secrets(config):
        secrets.append((path, path))
    for key, file in secrets:
        if _may(file, None, (), stat.S_IROTH, look):
            yield Problem(key, f"{file}: every user of this machine can read it: chmod o-r")
    for key, file in [*_files(config), (path, path)]:
        if _may(file, None, (), stat.S_IWOTH, look):
            yield Problem(key, f"{file}: every user of this machine can change it: chmod o-w")


def unreadable(
    config: Config, uid: int, gids: Collection[int], look: Look = os.stat
) -> Iterator[Problem]:
    """The files that workers with these ids could not read: they do so when they start, and later again."""
    for key, file in _files(config):
        # Read by the master alone, and published.
        if key != "sticky.secret_file" and not _may(file, uid, gids, stat.S_IROTH, look):
            yield Problem(
                key, f"{file}: cannot be read by the workers' user: check its owner and mode"
            )


_SECRET = frozenset(("tls.key", "backend_tls.key", "sticky.secret_file"))


def _has_secrets(config: Config) -> bool:
    """Whether the file itself has some: headers of checks are credentials, mostly."""
    sticky, check = config.sticky, config.health_check
    in_sticky = sticky is not None and sticky.secret is not None and sticky.secret_file is None
    return in_sticky or (check is not None and bool(check.headers))


def _files(config: Config) -> Iterator[tuple[str, str]]:
    tls, backend, sticky = config.tls, config.backend_tls, config.sticky
    named = [
        ("tls.certificate", tls and tls.certificate),
        ("tls.key", tls and tls.key),
        ("tls.client_ca", tls and tls.client_ca),
        ("backend_tls.ca", backend.ca),
        ("backend_tls.certificate", backend.certificate),
        ("backend_tls.key", backend.key),
        ("sticky.secret_file", sticky and sticky.secret_file),
    ]
    return ((key, file) for key, file in named if file)


def _may(path: str, uid: int | None, gids: Collection[int], bit: int, look: Look) -> bool:
    """Whether who has these ids may do that, ``bit`` being that of the others; None: who has nothing here."""
    path = os.path.realpath(path)
    try:
        if not _has(look(path), uid, gids, bit):
            return False
        while (folder := os.path.dirname(path)) != path:
            path = folder
            if not _has(look(path), uid, gids, stat.S_IXOTH):
                return False
    except OSError:
        return False  # gone meanwhile, or not for us to see
    return True


def _has(status: os.stat_result, uid: int | None, gids: Collection[int], bit: int) -> bool:
    if uid == ROOT_UID:
        return True
    if uid == status.st_uid:
        return bool(status.st_mode & bit << 6)
    if status.st_gid in gids:
        return bool(status.st_mode & bit << 3)
    return bool(status.st_mode & bit)
