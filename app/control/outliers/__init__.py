"""Servers judged by real traffic: rules and their agents, the ejector and the stall detector."""
