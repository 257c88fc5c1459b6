"""A raw id in a configuration."""

from typing import Annotated

from pydantic import Field

RawId = Annotated[str, Field(coerce_numbers_to_str=True)]
"""The id of a domain or a user, as in the log. YAML reads ids that are numbers as numbers."""
