"""Proposals -> instances: each takes its most probable label, and each object stays once."""
