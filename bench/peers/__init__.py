"""Who is measured: this balancer and its peers, a file each; here is who is in which bench."""

from __future__ import annotations

from bench.peers.aiohttp import Aiohttp, AiohttpUvloop
from bench.peers.caddy import Caddy
from bench.peers.candidate import Candidate
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy, HAProxyCopying
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours, OursInterpreted, OursStock, OursTuned

OURS = Ours.name
"""With whom the others are compared."""

SPEED: tuple[type[Candidate], ...] = (
    Ours,
    OursInterpreted,
    OursStock,
    Nginx,
    HAProxy,
    HAProxyCopying,
    Envoy,
    Caddy,
    Aiohttp,
    AiohttpUvloop,
)
"""In ``python -m bench``, in the order of its tables."""

FAILURES: tuple[type[Candidate], ...] = (Ours, OursTuned, Nginx, HAProxy, Envoy, Caddy)
"""In ``python -m bench.scenarios``."""
