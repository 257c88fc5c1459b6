"""Reads and writes tables of a lake by their Delta logs and Parquet files alone: a query of Spark takes far longer."""

import json
import time
import uuid
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from mamdr_core.lake.core.declared import table_properties
from schemas import TABLES
from schemas.spark import spark_schema


class State(NamedTuple):
    """A version of a table: the log's entries of its files by path, its metadata and its protocol."""

    files: dict
    metadata: dict
    protocol: dict

    @property
    def schema(self):
        return to_arrow_schema(StructType.fromJson(json.loads(self.metadata["schemaString"])))


def state_of(root, table, version=None):
    """A version of a table; None: the newest."""
    files, found = {}, {}
    commits = sorted(Path(root, table).glob("_delta_log/*.json"))
    for number, commit in enumerate(commits[: None if version is None else version + 1]):
        assert int(commit.stem) == number, "the log was cleaned"
        for action in map(json.loads, commit.read_text().splitlines()):
            found |= action
            if "remove" in action:
                files.pop(action["remove"]["path"], None)
            elif "add" in action:
                assert not action["add"].get("deletionVector")
                files[action["add"]["path"]] = action["add"]
    assert number == (len(commits) - 1 if version is None else version), "there is no such version"
    return State(files, found["metaData"], found["protocol"])


def stored(root, table, version=None):
    """The rows of a version of a table (None: the newest) as an Arrow table, in no order."""
    state = state_of(root, table, version)
    parts = []
    for path, added in state.files.items():
        read, columns = pq.ParquetFile(Path(root, table, unquote(path))).read(), []
        for field in state.schema:
            if field.name in added["partitionValues"]:
                columns.append(pa.array([added["partitionValues"][field.name]] * len(read)).cast(field.type))
            elif field.name in read.column_names:
                columns.append(read[field.name].cast(field.type))
            else:
                columns.append(pa.nulls(len(read), field.type))
        parts.append(pa.table(columns, schema=state.schema))
    return pa.concat_tables(parts) if parts else state.schema.empty_table()


def rows_of(root, table, version=None):
    """The rows as dictionaries."""
    return stored(root, table, version).to_pylist()


def sorted_rows(rows, *left_out):
    """The rows of an Arrow table without some columns, sorted, so that tables of the same rows give the same list."""
    return sorted(rows.drop_columns([name for name in left_out if name in rows.column_names]).to_pylist(), key=repr)


def commit(root, table, rows, note=None, replaced=lambda added: False):
    """Write a commit as a job does: rows, a file for each partition, instead of the files that `replaced` chooses.

    Args:
        table: declaration of the table, which is created unless it exists.
        rows: dictionaries of its columns.
        replaced: function of a file's entry in the log.

    Returns:
        The paths of the new files.
    """
    folder, schema, now = Path(root, table.name), to_arrow_schema(spark_schema(table)), int(time.time() * 1000)
    log = folder / "_delta_log"
    log.mkdir(parents=True, exist_ok=True)
    version = len(list(log.glob("*.json")))
    if version:
        state, actions = state_of(root, table.name), []
    else:
        metadata = {"id": str(uuid.uuid4()), "format": {"provider": "parquet", "options": {}}, "createdTime": now}
        metadata |= {"schemaString": spark_schema(table).json(), "partitionColumns": list(table.partition_by)}
        metadata |= {"configuration": table_properties(table)}
        state = State({}, metadata, {"minReaderVersion": 1, "minWriterVersion": 3})
        actions = [{"metaData": metadata}, {"protocol": state.protocol}]
    gone = {
        path: {"deletionTimestamp": now, "dataChange": True} for path, added in state.files.items() if replaced(added)
    }
    actions += [{"remove": {"path": path, **fields}} for path, fields in gone.items()]
    parts = {}
    for row in rows:
        assert row.keys() <= set(schema.names)
        parts.setdefault(tuple(row[name] for name in table.partition_by), []).append(row)
    for values, part in parts.items():
        at = {
            name: None if value is None else str(value) for name, value in zip(table.partition_by, values, strict=True)
        }
        folders = (f"{name}={value or '__HIVE_DEFAULT_PARTITION__'}" for name, value in at.items())
        path = "/".join([*folders, f"part-{uuid.uuid4()}.parquet"])
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        columns = pa.Table.from_pylist(part, schema)
        assert not any(columns[field.name].null_count for field in schema if not field.nullable)
        pq.write_table(columns.drop_columns(list(at)), folder / path)
        added = {"path": path, "partitionValues": at, "size": (folder / path).stat().st_size, "modificationTime": now}
        actions.append({"add": added | {"dataChange": True, "stats": json.dumps({"numRecords": len(part)})}})
    done = {"timestamp": now, "operation": "WRITE", "operationParameters": {"mode": "Overwrite"}}
    done |= {"operationMetrics": {"numRemovedFiles": str(len(gone))}, "userMetadata": json.dumps(note or {})}
    text = "".join(json.dumps(action) + "\n" for action in [{"commitInfo": done}, *actions])
    (log / f"{version:020}.json").write_text(text)
    files = state_of(root, table.name).files.values()
    sums = {"tableSizeBytes": sum(added["size"] for added in files), "numFiles": len(files), "numMetadata": 1}
    sums |= {"numProtocol": 1, "setTransactions": [], "domainMetadata": []}
    checksum = json.dumps({**sums, "metadata": state.metadata, "protocol": state.protocol})
    (log / f"{version:020}.crc").write_text(checksum)
    return [action["add"]["path"] for action in actions if "add" in action]


def filled_clicks(rows):
    """Rows (user, item, domain, label, time, true probability, day) from (user, item, domain[, label[, day]]).

    A row's number is its minute.
    """
    for number, (user, item, domain, *rest) in enumerate(rows):
        label, ds = (*rest, *(1, "2026-01-01")[len(rest) :])
        yield user, item, domain, label, f"{ds} {number // 60 % 24:02d}:{number % 60:02d}:00", None, ds


def write_clicks(root, rows, replaced=lambda added: True):
    """Write rows that the fixture `make_clicks` makes of the same tuples, instead of all clicks of a lake (or some)."""
    clicks = []
    for user, item, domain, label, at, _, day in filled_clicks(rows):
        row = {"user": user, "item": item, "domain": domain, "label": label, "load": 0}
        clicks.append(row | {"event_time": datetime.fromisoformat(f"{at}+00:00"), "ds": date.fromisoformat(day)})
    commit(root, TABLES["clicks"], clicks, replaced=replaced)
