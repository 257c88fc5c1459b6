"""A real S3 server on this machine, and a lake in it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import BotoCoreError
from pyspark.sql import SparkSession

KEYS = {"AWS_ACCESS_KEY_ID": "lake-access-key", "AWS_SECRET_ACCESS_KEY": "lake-secret-key"}
BUCKET = "mamdr"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Endpoint of a server that has the bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            client(endpoint).create_bucket(Bucket=BUCKET)
            break
        except BotoCoreError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield endpoint
    process.terminate()
    process.wait()


def client(endpoint: str):
    """Amazon's own client of the server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )


@pytest.fixture(scope="session")
def store(server: str) -> Iterator[str]:
    """The endpoint, which Python finds in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server, "AWS_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module", autouse=True)
def own_environment(store: str) -> Iterator[None]:
    """Restore the store settings that a lake has set in Python after the module."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def configure(spark: SparkSession, bucket: str, endpoint: str, **more: str) -> None:
    """Have Spark reach a bucket: only by Hadoop's settings, since its JVM may have been up before the server."""
    settings = {
        "endpoint": endpoint,
        "path.style.access": "true",
        "access.key": KEYS["AWS_ACCESS_KEY_ID"],
        "secret.key": KEYS["AWS_SECRET_ACCESS_KEY"],
        "endpoint.region": "us-east-1",
    }
    for name, value in {**settings, **more}.items():
        spark._jsc.hadoopConfiguration().set(f"fs.s3a.bucket.{bucket}.{name}", value)


@pytest.fixture(scope="session")
def s3_root(spark: SparkSession, store: str) -> str:
    """A folder in the store that Spark reaches by its settings, and Python by what these say."""
    configure(spark, BUCKET, store)
    for name in (*KEYS, "AWS_ENDPOINT_URL"):
        os.environ.pop(name)
    return f"s3a://{BUCKET}"
