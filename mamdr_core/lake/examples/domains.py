"""The vocabulary of domains, which is extended on the driver."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.vocabularies import TRIES, Growth, overtaken, read_known
from schemas import TABLES
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)


def update_domains(lake: Lake, seen: Iterable[Mapping[str, Any]]) -> tuple[Growth, dict[str, int]]:
    """Give new domains an index, in the order of their ids' hashes.

    Args:
        seen: domain (the id), `hash` of the id (unsigned), and first day `ds`.

    Returns:
        The vocabulary, with the indices of the seen domains, and the index of every domain by its id.

    Raises:
        MamdrError: other jobs kept adding domains.
    """
    ordered = sorted(seen, key=lambda row: (row["hash"], row["domain"]))
    for _ in range(TRIES):
        known = read_known(lake, TABLES["domains"])
        indices = {row["id"]: row["index"] for row in known.collect()} if known is not None else {}
        before = len(indices)
        new = [row for row in ordered if row["domain"] not in indices]
        entries = [(row["domain"], before + place, row["ds"]) for place, row in enumerate(new)]
        rows = local_frame(lake.spark, entries, spark_schema(TABLES["domains"])).coalesce(1)
        if new and not lake.append_to("domains", rows, rows_before=before):
            logger.info("domains: another job added ids first; numbering the new ids again")
            continue
        logger.info("domains: %d, %d of them new", before + len(new), len(new))
        indices |= {name: index for name, index, _ in entries}
        encoded = [(row["domain"], indices[row["domain"]]) for row in ordered]
        return Growth(len(indices), len(new), local_frame(lake.spark, encoded, "id string, index int")), indices
    raise overtaken(TABLES["domains"])
