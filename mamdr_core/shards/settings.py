"""Settings of reading shards."""

from typing import Literal

ReaderName = Literal["petastorm", "arrow"]
