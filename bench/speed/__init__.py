"""The speed bench: throughput, CPU, latency and memory of this balancer and its peers, in interleaved rounds.

``cases`` says what is measured, ``lab`` on which cores and backends, ``results`` keeps the samples,
``tables`` and ``goals`` say what came out. ``python -m bench`` runs it.
"""
