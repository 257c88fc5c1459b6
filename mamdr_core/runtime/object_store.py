"""Access to an object store from Python, with the interface of pathlib and the settings of Spark.

Credentials and endpoint are never part of a configuration. They come from AWS environment variables, profile files or
the role of the machine, or from Spark's settings fs.s3a.*, which the driver copies to its own environment variables,
inherited by ranks under Horovod, and to those of Spark's Python workers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyarrow import fs

from mamdr_core.runtime.errors import MamdrError

SCHEME = "s3a://"
_CENTRAL = "s3.amazonaws.com"
_VARIABLES = {
    "fs.s3a.access.key": "AWS_ACCESS_KEY_ID",
    "fs.s3a.secret.key": "AWS_SECRET_ACCESS_KEY",
    "fs.s3a.session.token": "AWS_SESSION_TOKEN",
    "fs.s3a.endpoint": "AWS_ENDPOINT_URL",
    "fs.s3a.endpoint.region": "AWS_REGION",
}
"""Settings of Hadoop, and the corresponding environment variables."""


def is_remote(path: str) -> bool:
    """Whether a path is in an object store.

    Raises:
        MamdrError: it is in a store other than S3.
    """
    if "://" in path and not path.startswith(SCHEME):
        raise MamdrError(f"{path}: models and checkpoints need a folder on a disk or in S3 (s3a://bucket/folder)")
    return path.startswith(SCHEME)


def as_path(path: str) -> "AnyPath":
    """A path on a disk or in the store."""
    return StorePath(path.rstrip("/")) if is_remote(path) else Path(path)


def variables_of(hadoop: Any) -> dict[str, str]:
    """Environment variables with which Python accesses a store like Spark.

    Args:
        hadoop: the configuration of a bucket's file system (a JVM object).
    """
    variables = {}
    for setting, variable in _VARIABLES.items():
        found = hadoop.getPassword(setting)  # also looks into Hadoop's credential files
        value = "".join(found) if found is not None else ""
        if setting == "fs.s3a.endpoint":
            value = _url(value, hadoop.getBoolean("fs.s3a.connection.ssl.enabled", True))
        if value:
            variables[variable] = value
    return variables


def _url(endpoint: str, secure: bool) -> str:
    if not endpoint or endpoint.rstrip("/").endswith(f"//{_CENTRAL}") or endpoint == _CENTRAL:
        return ""  # the region of each bucket is looked up
    return endpoint if "://" in endpoint else f"{'https' if secure else 'http'}://{endpoint}"


def file_system(bucket: str) -> fs.S3FileSystem:
    """File system of a bucket, configured by the environment variables."""
    return _file_system(bucket, *(os.environ.get(variable, "") for variable in _VARIABLES.values()))


@lru_cache(maxsize=8)
def _file_system(bucket: str, access: str, secret: str, token: str, endpoint: str, region: str) -> fs.S3FileSystem:
    scheme, _, host = endpoint.rpartition("://")
    if not region and not endpoint:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        access_key=access or None,
        secret_key=secret or None,
        session_token=token or None,
        region=region or "us-east-1",
        scheme=scheme or "https",
        endpoint_override=host or None,
    )


@dataclass(frozen=True)
class StorePath:
    """A file or folder in an object store, with the subset of pathlib's methods that is used here.

    A file appears complete once it has been written, and replaces an existing one. Folders exist if they contain files.

    Attributes:
        url: s3a://bucket/..., without a trailing slash.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        """A file or folder in this folder."""
        return StorePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "StorePath":
        """The containing folder."""
        return StorePath(self.url.rpartition("/")[0])

    @property
    def key(self) -> str:
        """Bucket and path, the key in the file system."""
        return self.url.removeprefix(SCHEME)

    @property
    def system(self) -> fs.S3FileSystem:
        """The file system."""
        return file_system(self.key.partition("/")[0])

    def _is(self, *kinds: fs.FileType) -> bool:
        return self.system.get_file_info(self.key).type in kinds

    def exists(self) -> bool:
        """Whether the file or folder exists."""
        return self._is(fs.FileType.File, fs.FileType.Directory)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._is(fs.FileType.File)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self._is(fs.FileType.Directory)

    def iterdir(self) -> Iterator["StorePath"]:
        """Files and folders in this folder; none if it does not exist."""
        found = self.system.get_file_info(fs.FileSelector(self.key, allow_not_found=True))
        return (self / info.base_name for info in found)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder exists if it contains files."""

    def touch(self) -> None:
        """Write an empty file."""
        self.write_text("")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        if not (missing_ok and not self.is_file()):
            self.system.delete_file(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read a text file."""
        with self.system.open_input_stream(self.key) as stream:
            return bytes(stream.read()).decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write a text file atomically."""
        with self.system.open_output_stream(self.key) as stream:
            stream.write(text.encode(encoding))


AnyPath = Path | StorePath
