"""Replays wire cases: written as files, played in memory, over sockets and against other proxies.

``corpus`` reads the files · ``messages`` reads what came out, strictly and independently of the product ·
``offline`` plays a case through a worker's connection on in-memory streams · ``online`` plays it over
sockets with a recording backend · ``judge`` compares · ``parsers`` has the readers of heads over both
of our parsers · ``peers`` prints the table of ours, nginx, HAProxy.
"""
