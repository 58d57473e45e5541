"""An S3 API on this machine for tests, and what they ask of it by way of boto3, AWS's own client."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "PLANTEDACCESSKEYID42", "AWS_SECRET_ACCESS_KEY": "planted-s3-secret-access-key"}


@dataclass(frozen=True)
class S3:
    """Its address; any keys are accepted."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """The environment in which every client of AWS uses it."""
        return KEYS | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        self._client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def list_buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self._client().list_buckets()["Buckets"]}

    def list_objects(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def read_object(self, bucket: str, name: str) -> bytes:
        return bytes(self._client().get_object(Bucket=bucket, Key=name)["Body"].read())

    def _client(self) -> Any:
        import boto3

        key, secret = KEYS.values()
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )


@contextlib.contextmanager
def serve_s3() -> Iterator[S3]:
    """Buckets in memory, behind moto's server on a free port of the loopback interface."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3(f"http://{host}:{port}")
    finally:
        server.stop()
