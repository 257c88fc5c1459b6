"""Access to files of local folders and object stores alike, through Hadoop's FileSystem API."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from mamdr_core.config.yaml_values import one_line, shorten
from mamdr_core.lake.core.java import java_class
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import SCHEME, variables_of


class Files:
    """The file system of one root folder.

    Args:
        spark: the session whose Hadoop configuration applies.
        root: local path or URI (s3a://...); relative paths are to the working directory.

    Raises:
        MamdrError: the root is not a valid path, or Spark does not support or cannot reach the store.
    """

    def __init__(self, spark: SparkSession, root: str) -> None:
        self._spark = spark
        self._make_path = java_class(spark, "org.apache.hadoop.fs.Path")
        with reaching(root):
            path = self._make_path(root)
            self._system = path.getFileSystem(spark._jsc.hadoopConfiguration())
            qualified = self._system.makeQualified(path)
        # Path.toString() is not percent-encoded, unlike its URI, so the root can be parsed again unchanged.
        local = qualified.toUri().getScheme() == "file"
        self.root: str = qualified.toUri().getPath() if local else qualified.toString()

    def share_settings(self) -> None:
        """Give Spark's settings of an object store to Python, here and in Spark's tasks."""
        if self.root.startswith(SCHEME):
            variables = variables_of(self._system.getConf())
            os.environ.update(variables)
            self._spark.sparkContext.environment.update(variables)

    def path(self, *names: str) -> str:
        """The path of a file below the root."""
        return "/".join((self.root.rstrip("/"), *names))

    def exists(self, *names: str) -> bool:
        """Whether the file or folder exists."""
        return bool(self._system.exists(self._make_path(self.path(*names))))

    def is_file(self, *names: str) -> bool:
        """Whether the path is a file."""
        path = self._make_path(self.path(*names))
        return bool(self._system.exists(path) and self._system.getFileStatus(path).isFile())

    def children(self, *names: str) -> list[str]:
        """Names of the files and folders in a folder; empty if it does not exist."""
        if not self.exists(*names):
            return []
        return [path.rpartition("/")[2] for path in self._paths(self._make_path(self.path(*names)), "listStatus")]

    def modified(self, *names: str) -> int | None:
        """Modification time of a file in milliseconds since 1970; None if it does not exist."""
        if not self.exists(*names):
            return None
        return int(self._system.getFileStatus(self._make_path(self.path(*names))).getModificationTime())

    def matches(self) -> list[str]:
        """Sorted paths that match the root as a glob."""
        with reaching(self.root):
            return sorted(self._paths(self._make_path(self.root), "globStatus"))

    def _paths(self, path: Any, listing: str) -> list[str]:
        """Paths in a listing of the file system, fetched by one call to the JVM instead of one for each file."""
        found = getattr(self._system, listing)(path)
        if not found:
            return []
        find = partial(java_class, self._spark)
        wrap = find("scala.collection.immutable.ArraySeq").unsafeWrapArray
        # The array that S3 returns has another class, whose methods py4j does not find.
        status = find("java.lang.Class").forName("org.apache.hadoop.fs.FileStatus")
        statuses = wrap(found).toArray(find("scala.reflect.ClassTag").apply(status))
        return str(wrap(find("org.apache.hadoop.fs.FileUtil").stat2Paths(statuses)).mkString("\0")).split("\0")

    def lines(self, *names: str) -> Iterator[str]:
        """Yield the lines of a text file as they are needed; none if it does not exist."""
        if not self.exists(*names):
            return
        opened = self._system.open(self._make_path(self.path(*names)))
        stream = java_class(self._spark, "java.io.InputStreamReader")(opened, "UTF-8")
        with closing(java_class(self._spark, "java.io.BufferedReader")(stream)) as reader:
            while (line := reader.readLine()) is not None:
                yield line

    def read_bytes(self, *names: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        if not self.exists(*names):
            return None
        with closing(self._system.open(self._make_path(self.path(*names)))) as stream:
            return bytes(stream.readAllBytes())

    def write_bytes(self, content: bytes, *names: str) -> None:
        """Write a file that fits into memory; an existing one is replaced."""
        with closing(self._system.create(self._make_path(self.path(*names)), True)) as stream:
            stream.write(bytearray(content))

    def write_text(self, text: str, *names: str) -> None:
        """Write a small text file; an existing one is replaced."""
        self.write_bytes(text.encode("utf-8"), *names)

    def delete(self, *names: str) -> None:
        """Delete a file, or a folder with its content."""
        self._system.delete(self._make_path(self.path(*names)), True)


@contextmanager
def reaching(root: str) -> Iterator[None]:
    """Turn errors about an invalid path, missing JARs, credentials or buckets into MamdrError."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        reason = error.java_exception.toString() if isinstance(error, Py4JJavaError) else str(error).split("\n")[0]
        if "ClassNotFoundException" in str(error) or "No FileSystem for scheme" in reason:
            problem = "the JARs of such a store are not on Spark's class path; for s3a:// run `make setup`"
        elif "://" in root:
            problem = f"it cannot be reached ({one_line(reason)[:300]}); see docs/object_stores.md"
        else:
            problem = f"no path that Spark can open ({one_line(reason)[:200]})"
        raise MamdrError(f"{shorten(root)}: {problem}") from None
