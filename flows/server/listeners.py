"""Find out who listens on a port of this machine, and what a Prefect server there answers."""

import base64
import errno
import socket

import httpx
import psutil

from flows.server.process import HOST

QUERY_TIMEOUT_S = 10
FOUND = {200, 404}
"""the statuses that a server answers to a query if it can use its database"""


def query(port: int, credential: str) -> int:
    """Return the HTTP status of a query; 0 without an answer. It uses the database, as `/health` does not."""
    token = base64.b64encode(credential.encode()).decode()
    headers = {"Authorization": f"Basic {token}"} if credential else {}
    url = f"http://{HOST}:{port}/api/flows/name/cifarflow"
    try:
        return httpx.get(url, headers=headers, timeout=QUERY_TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def find_listening_ports(process: psutil.Process) -> set[int]:
    return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def find_listening_processes(port: int) -> list[psutil.Process]:
    """Return the processes of this machine that listen on the port; none if the system hides one of them."""
    try:
        sockets = [
            c
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
        ]
        return [] if any(c.pid is None for c in sockets) else [psutil.Process(c.pid) for c in sockets]
    except psutil.Error:
        return []


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # A server that may not use the port says so itself.
        return True


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
