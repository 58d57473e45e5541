"""Keep proxies, which are for other machines, away from servers on this machine."""

import os
import sys
from importlib.util import find_spec
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


def exclude_loopback_from_proxies() -> None:
    """Let no client in this process, or in one that it starts, ask a server on loopback through a proxy."""
    # The lower case counts first, as in urllib.
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(
        [*hosts, *(h for h in LOOPBACK if h not in hosts)]
    )


def drop_unusable_proxies() -> None:
    """Take proxies away that Prefect's client fails with when it is made, even for a server on loopback."""
    known = {"http", "https", *(("socks5", "socks5h") if find_spec("socksio") else ())}
    for name in [name for name in os.environ if name.lower() in VARIABLES]:
        try:
            parts = urlsplit(os.environ[name] if "://" in os.environ[name] else f"http://{os.environ[name]}")
            usable = not os.environ[name] or (parts.scheme in known and bool(parts.hostname or parts.port))
        except ValueError:
            usable = False
        if not usable:
            del os.environ[name]
            kinds = ", ".join(sorted(known))
            print(
                f"cifarflow: {name} is left out; the schemes of proxies that can be used: {kinds}",
                file=sys.stderr,
            )
