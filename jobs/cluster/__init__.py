"""A job on a Ray cluster, from a machine that reaches its head: submit, status, logs, stop."""
