"""CSV files that are read line by line although some of their records span several lines."""

from dataclasses import replace
from functools import reduce
from operator import or_
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from mamdr_core.config.lake import InputSettings
from mamdr_core.lake.core.sources import CORRUPT, read_input
from mamdr_core.lake.ingest.clicks import MALFORMED, RULE, SOURCE_FILE
from mamdr_core.runtime.errors import MamdrError
from schemas.clicks import RECORD_WELL_FORMED

CHECKED_FILES = 20
LONGEST_FIELD = 1 << 20
"""Characters of a field at most, so that a quote that is never closed does not make the rest of a file one field."""


def refuse_pieces(spark: SparkSession, settings: InputSettings, raw: DataFrame, judged: DataFrame) -> None:
    """Read files that have malformed lines with quotes again, as CSV whose records may span lines.

    Lines that are whole on their own may be pieces of such a record, and would become clicks. A quote that is lost is
    no proof: a field that spans lines counts only if its closing quote ends it.

    Args:
        spark: the session.
        settings: of the log.
        raw: from `read_input`.
        judged: from `judge_rows`, with malformed lines.

    Raises:
        MamdrError: a record of one of the first `CHECKED_FILES` of these files spans lines.
    """
    options = {name.lower(): value for name, value in settings.options.items()}
    quote = str(options.get("quote", '"'))
    names = [field.name for field in raw.schema if field.name != CORRUPT and isinstance(field.dataType, T.StringType)]
    if settings.format != "csv" or not quote or not names or {"multiline", "linesep"} & set(options):
        return
    # By the rule too: Spark refuses a query of malformed lines alone.
    malformed = judged.where((F.col(RULE) == RECORD_WELL_FORMED.name) & F.contains(MALFORMED, F.lit(quote)))
    suspects = malformed.select(SOURCE_FILE).distinct().orderBy(SOURCE_FILE)
    # Lines end with "\n", since the line ends that Spark guesses would join lines where a file mixes them. A header may
    # then end with "\r": headers, which were compared before, are not compared again.
    options |= {"multiline": True, "linesep": "\n", "enforceschema": True, "maxcharspercolumn": LONGEST_FIELD}
    records = read_input(spark, replace(settings, options=options), raw.schema)
    # Spark leaves the opening quote in a field whose closing quote does not end it.
    texts = (F.col(f"`{name}`") for name in names)
    spans = (F.contains(text, F.lit("\n")) & ~F.startswith(text, F.lit(quote)) for text in texts)
    spanning = records.where(F.col(CORRUPT).isNull() & reduce(or_, spans))
    for (file,) in suspects.limit(CHECKED_FILES).collect():
        if _holds_any(spanning.where(F.col("_metadata.file_path") == file)):
            raise MamdrError(
                f"input.path: {unquote(file)} has records that span several lines, which would be read in pieces: set "
                "input.options.multiLine: true"
            )


def _holds_any(records: DataFrame) -> bool:
    try:
        return not records.isEmpty()
    except (PySparkException, Py4JJavaError) as error:
        if "TextParsingException" not in str(error):
            raise
        return False  # a field is too long, and no record before it spans lines
