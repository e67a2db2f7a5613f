"""What stands behind the proxies: ``fast`` for the speed bench, ``failing`` for the scenarios.

The first (nginx, with ``sink`` for uploads) is there to be no bottleneck; the second is there to be killed,
hung and slowed down, and keeps books. They have nothing to share.
"""
