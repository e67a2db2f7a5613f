"""The scenario bench: this balancer and its peers while their servers fail.

Requests come on schedule whatever the answers, to real backend processes that get real signals; the
same load and the same script for every candidate. ``python -m bench.scenarios --help`` lists the
scenarios; docs/failures.md says how it measures and what came out.
"""
