"""Detects CSV files that are read line by line although some of their records span several lines."""

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
"""Maximum length of a field, so that an unclosed quote does not turn the rest of a file into one field."""


def refuse_pieces(spark: SparkSession, settings: InputSettings, raw: DataFrame, checked: DataFrame) -> None:
    """Check that no record spans several lines, by reading files with quotes in malformed lines again as multi-line
    CSV.

    Otherwise pieces of such a record that look like complete lines would become clicks. A stray quote proves nothing: a
    field that spans lines counts only if it ends with its closing quote.

    Args:
        raw: result of `read_input`.
        checked: result of `apply_rules`, with malformed lines.

    Raises:
        MamdrError: one of the first `CHECKED_FILES` of these files has a record that spans lines.
    """
    options = {name.lower(): value for name, value in settings.options.items()}
    quote = str(options.get("quote", '"'))
    names = [field.name for field in raw.schema if field.name != CORRUPT and isinstance(field.dataType, T.StringType)]
    if settings.format != "csv" or not quote or not names or {"multiline", "linesep"} & set(options):
        return
    # The rule is a condition as well, because Spark rejects a query of the column of malformed lines alone.
    malformed = checked.where((F.col(RULE) == RECORD_WELL_FORMED.name) & F.contains(MALFORMED, F.lit(quote)))
    suspects = malformed.select(SOURCE_FILE).distinct().orderBy(SOURCE_FILE)
    # Spark's detection of line separators would join lines of a file with mixed ones, so "\n" is given. A header may
    # then end with "\r", so headers, which have been compared before, are not compared again.
    options |= {"multiline": True, "linesep": "\n", "enforceschema": True, "maxcharspercolumn": LONGEST_FIELD}
    records = read_input(spark, replace(settings, options=options), raw.schema)
    # In a field that does not end with its closing quote, Spark keeps the opening quote.
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
        return False  # a field is too long, and no earlier record spans lines
