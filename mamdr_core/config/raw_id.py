"""Type of raw ids in a configuration."""

from typing import Annotated

from pydantic import Field

RawId = Annotated[str, Field(coerce_numbers_to_str=True)]
"""Id of a domain or user as in the log. YAML parses numeric ids as numbers, which are converted back."""
