"""What drives a proxy, in three kinds, because they measure different things.

- ``closed_loop``: wrk, h2load and curl ask again when they have been answered: throughput and cost.
- ``open_loop``: requests at a high constant rate on a fixed set of connections, whatever the answers:
  latency. It spends some 40 µs a request, so it keeps nothing of a request but its latency.
- ``recorded``: requests as real clients send them while servers fail (a few hundred a second, some of them
  POSTs, new connections where old ones break); of each it is recorded what became of it.

``schedule`` is what the two open loops share, ``single`` asks one thing at a time.
"""
