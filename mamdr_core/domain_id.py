"""A domain's raw id in a configuration."""

from typing import Annotated

from pydantic import Field

DomainId = Annotated[str, Field(coerce_numbers_to_str=True)]
"""YAML reads the ids of numbered domains as numbers."""
