"""What we ask of the client packages of remote stores, by URL scheme."""

from typing import Any

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
}
"""The pip extra that brings a scheme's client."""


def options(protocol: str) -> dict[str, Any]:
    """Return what makes a client fail within a minute or two where its server is silent or gone."""
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        # The client's own limit of 300 s for a whole file would cut long downloads.
        patience = ClientTimeout(total=None, sock_connect=20, sock_read=60)
        return {"client_kwargs": {"trust_env": True, "timeout": patience}}  # proxies, too
    if protocol in ("s3", "s3a"):
        client = {
            "connect_timeout": 20,
            "read_timeout": 60,
            "max_pool_connections": 32,
            "retries": {"mode": "standard", "max_attempts": 2},
        }
        # One request at a time a file: otherwise each read of an image asks for its size first.
        return {"max_concurrency": 1, "config_kwargs": client}
    return {}
