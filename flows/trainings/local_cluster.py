"""Start the Dask cluster of one command, which nobody else on the machine can use.

Whoever reaches a scheduler or a worker of Dask can run code in it, and loopback is open to every user. So its
connections are TLS, and both ends show the certificate that is made for this cluster and kept in memory. It
has no web server. The folder from which Dask imports, and to which it writes, is open to its owner only.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Nanny, Scheduler, Security, SpecCluster, Worker

LOOPBACK = "127.0.0.1"


class _NoWebServer:
    def start_http_server(self, *_arguments: object, **_keywords: object) -> None:
        """Dask starts one even without its dashboard, and it asks nobody for a certificate."""


class LocalScheduler(_NoWebServer, Scheduler):
    pass


# A worker's process imports this module before it has the environment that its nanny sets, and Prefect reads
# that when it is imported: no import here may lead to Prefect.
class LocalWorker(_NoWebServer, Worker):
    pass


@contextmanager
def start_local_cluster(jobs: int, worker_environment: dict[str, str]) -> Iterator[SpecCluster]:
    """Start a scheduler in this process and `jobs` worker processes, which end with the `with` block."""
    security = Security.temporary()  # type: ignore[no-untyped-call]
    node = {"host": LOOPBACK, "protocol": "tls://", "security": security, "dashboard": False}
    worker = {
        **node,
        "nthreads": 1,
        "memory_limit": 0,  # PyTorch's memory is not what Dask measures
        "silence_logs": "CRITICAL",
        "env": worker_environment,
        "worker_class": LocalWorker,
    }
    with tempfile.TemporaryDirectory(prefix="cifarflow-dask-", ignore_cleanup_errors=True) as folder:
        config = {
            # Dask's own default is a folder of a fixed name below /tmp, which another user may have made; all
            # of its processes look there first for what they import.
            "temporary-directory": folder,
            # Dask would have malloc give memory back at every free: a training would take a third longer.
            "distributed.nanny.pre-spawn-environ": {},
        }
        with (
            dask.config.set(config),
            SpecCluster(  # type: ignore[no-untyped-call]
                scheduler={"cls": LocalScheduler, "options": node},
                workers={number: {"cls": Nanny, "options": worker} for number in range(jobs)},
                security=security,
                silence_logs="CRITICAL",
            ) as cluster,
        ):
            yield cluster
