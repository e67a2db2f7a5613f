"""The backend of the upload case: reads a body to its end, answers with the bytes it counted.

The kernel throws the bytes away (MSG_TRUNC on a TCP socket copies nothing), so that the core
shared with the load tool is left to the load tool. A web server that answers before it has read
the body would make proxies differ in how they abandon uploads, which is not what the case is
about.
Run as ``python -m bench.backends.sink PORT``; loopback only; understands Content-Length, nothing else.
"""

from __future__ import annotations

import re
import socket
import sys
import threading

CHUNK_BYTES = 1 << 20
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=converse, args=(client,), daemon=True).start()


def converse(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer, scratch = b"", bytearray(CHUNK_BYTES)
    with client:
        while True:
            while b"\r\n\r\n" not in buffer:
                more = client.recv(65536)
                if not more:
                    return
                buffer += more
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            found = LENGTH.search(head)
            length = int(found[1]) if found else 0
            if CONTINUE.search(head):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = length - len(buffer)
            while left > 0:
                count = client.recv_into(scratch, min(left, CHUNK_BYTES), socket.MSG_TRUNC)
                if not count:
                    return
                left -= count
            buffer = buffer[length:]
            answer = b"%d\n" % length
            client.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
                % (len(answer), answer)
            )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
