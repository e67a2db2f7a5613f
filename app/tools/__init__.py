"""Run by people, never imported by the balancer."""
