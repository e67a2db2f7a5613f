"""What Python's ssl module has no word for, said to the OpenSSL that it uses.

By ctypes, on the library that ``_ssl`` itself was linked with: keys of session tickets, a list of curves, the
cache of sessions. ``is_reachable`` says whether that is possible here; if not, each caller has another way or
a message. Runs in the master, in ``check``, in workers and in the control process.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys
from typing import Any

# openssl/ssl.h; SSL_CTRL_... numbers are part of its ABI.
_SET_SESSION_CACHE_MODE = 44
_SET_TICKET_KEYS = 59
_SET_GROUPS_LIST = 92
_VERSION_TEXT = 0  # of OpenSSL_version

# Where PySSLContext is { PyObject_HEAD; SSL_CTX *ctx; … } (Modules/_ssl.c): looked up for each of them.
_KNOWN = (3, 10) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == "cpython"


def _find() -> Any:
    """SSL_CTX_ctrl of the very library that ssl uses; None if it cannot be had."""
    if not _KNOWN:
        return None
    try:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        version = library.OpenSSL_version
        control = library.SSL_CTX_ctrl
    except (OSError, AttributeError):  # linked in, and nothing of it is exported
        return None
    version.argtypes, version.restype = [ctypes.c_int], ctypes.c_char_p
    text = version(_VERSION_TEXT)
    if text is None or text.decode() != ssl.OPENSSL_VERSION:
        return None  # another one that some package has loaded
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    control.restype = ctypes.c_long
    return control


_control = _find()


def is_reachable() -> bool:
    """Whether OpenSSL can be told what the ssl module cannot."""
    return _control is not None


def set_ticket_keys(context: ssl.SSLContext, keys: bytes) -> bool:
    """Have ``context`` write and read its session tickets with these 80 bytes; whether it does now."""
    return _tell(context, _SET_TICKET_KEYS, len(keys), keys) == 1


def set_curves(context: ssl.SSLContext, names: str) -> bool:
    """The groups for the key exchange, "X25519:P-256", first ones first; False if one is not known."""
    return _tell(context, _SET_GROUPS_LIST, 0, names.encode()) == 1


def keep_no_sessions(context: ssl.SSLContext) -> bool:
    """Have ``context`` keep no sessions in memory; whether it does so now."""
    return _tell(context, _SET_SESSION_CACHE_MODE, 0, None) is not None


def _tell(context: ssl.SSLContext, command: int, number: int, data: bytes | None) -> int | None:
    """What SSL_CTX_ctrl returns, None if it is not reachable. 0.3 to 3 µs."""
    if _control is None:
        return None
    at = id(context) + object.__basicsize__
    result: int = _control(ctypes.c_void_p.from_address(at), command, number, data)
    return result
