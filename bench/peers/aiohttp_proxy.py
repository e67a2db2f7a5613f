"""A reverse proxy as a good aiohttp user would write it: the Python peer of the bench.

Fair to aiohttp: its C parsers, the low-level server without router or middlewares, one pooled
client session, no cookie jar, no decompression, no redirects, bodies streamed both ways unless
they are small, one JSON access line a request through orjson into a buffered file. Round robin,
forwarding headers, 502 when the backend fails. No health checks, no retries, no limits: it does
less than the balancers do.
Runs in the bench's own environment, as ``python -I aiohttp_proxy.py SETTINGS.json`` (``peers/aiohttp.py``
beside it says why ``-I``).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from typing import BinaryIO

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-connection",
    )
)
SMALL_BYTES = 64 << 10
CHUNK_BYTES = 256 << 10
FLUSH_SECONDS = 0.1


class Proxy:
    def __init__(self, backends: list[str], log: BinaryIO, keepalive: float) -> None:
        self._turn = itertools.cycle(f"http://{backend}" for backend in backends)
        self._log = log
        # No limit: the other candidates have none either at the sizes used here.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=keepalive, use_dns_cache=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=60),
            read_bufsize=CHUNK_BYTES,
        )

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        start = time.perf_counter()
        backend = next(self._turn)
        headers = CIMultiDict(
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in HOP_BY_HOP
        )
        request_id = os.urandom(16).hex()
        headers["X-Request-Id"] = request_id
        headers["X-Forwarded-For"] = request.remote or ""
        headers["X-Forwarded-Proto"] = "http"
        headers["Via"] = "1.1 aiohttp"
        body = None
        if request.body_exists:
            length = request.content_length
            small = length is not None and length <= SMALL_BYTES
            body = await request.read() if small else request.content.iter_any()
        response: web.StreamResponse
        try:
            async with self._session.request(
                request.method,
                # As it came: yarl would decode and quote it anew, which costs and changes it.
                URL(backend + request.raw_path, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as answer:
                kept = CIMultiDict(
                    (name, value)
                    for name, value in answer.headers.items()
                    if name.lower() not in HOP_BY_HOP
                )
                length = answer.content_length
                if length is not None and length <= SMALL_BYTES:
                    response = web.Response(
                        status=answer.status, headers=kept, body=await answer.read()
                    )
                else:
                    response = web.StreamResponse(status=answer.status, headers=kept)
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
        except (aiohttp.ClientError, TimeoutError) as problem:
            response = web.Response(status=502, text=f"{type(problem).__name__}\n")
        self._log.write(
            orjson.dumps(
                {
                    "timestamp": time.time(),
                    "logger": "access",
                    "request_id": request_id,
                    "client_ip": request.remote,
                    "method": request.method,
                    "host": request.headers.get("Host"),
                    "target": request.raw_path,
                    "status": response.status,
                    "backend": backend,
                    "duration_ms": (time.perf_counter() - start) * 1e3,
                    "user_agent": request.headers.get("User-Agent"),
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )
        return response

    async def flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._log.flush()


async def serve(settings: dict[str, object]) -> None:
    with open(str(settings["log"]), "ab", 64 << 10) as log:  # noqa: ASYNC230 -- once, at start
        backends = settings["backends"]
        assert isinstance(backends, list)
        proxy = Proxy(backends, log, float(str(settings["keepalive"])))
        runner = web.ServerRunner(
            web.Server(proxy, keepalive_timeout=float(str(settings["keepalive"])), access_log=None)
        )
        await runner.setup()
        site = web.TCPSite(
            runner, "127.0.0.1", int(str(settings["port"])), backlog=4096, reuse_port=True
        )
        await site.start()
        await proxy.flush_for_ever()


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    children = []
    for _ in range(settings["workers"] - 1):
        if pid := os.fork():
            children.append(pid)
        else:
            children.clear()
            break
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if settings["uvloop"]:
            import uvloop

            uvloop.run(serve(settings))
        else:
            asyncio.run(serve(settings))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    main()
