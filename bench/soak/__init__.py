"""Ten minutes of everything at once: is there exactly one access line for each request, and does memory stay?

``python -m bench.soak``. Servers (servers.py) answer, fail, fall ill and get well; clients (http1_clients.py,
http2_clients.py) come by HTTP/1.1, TLS and HTTP/2, finish, hang up and send rubbish; the balancer is told to
reload. What was sent is written down (ledger.py) and compared with the balancer's log.
"""
