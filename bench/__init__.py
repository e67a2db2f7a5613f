"""The side-by-side bench: this balancer and its peers, on one machine, in one run.

Runs outside the product and knows it only as a command line, a config.json and a listening
port: the same three things it knows about every peer. Absolute figures move from machine to
machine and from hour to hour, so what is reported is the ratio to ours within one run, with its
spread over rounds. ``python -m bench --help`` lists the cases; README.md beside this file says
how each peer is set up.
"""
