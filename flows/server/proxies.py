"""Proxies are for other machines."""

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def exclude_loopback_from_proxies() -> None:
    """Let no client in this process, or in one that it starts, ask a server on loopback through a proxy."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # as urllib: the lower case first
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(
        [*hosts, *(h for h in LOOPBACK if h not in hosts)]
    )
