"""Ids of runs: start time (UTC), method, and six hexadecimal digits."""

import re
import uuid
from datetime import datetime

_BEGAN = "%Y%m%dT%H%M%S"
_RUN_ID = re.compile(r"\d{8}T\d{6}-.+-[0-9a-f]{6}")


def make_run_id(began: datetime, method: str) -> str:
    """Create the id of a run; characters of the method other than letters and digits, as in module:name, become _."""
    return f"{began:{_BEGAN}}-{re.sub(r'[^a-zA-Z0-9_]', '_', method)}-{uuid.uuid4().hex[:6]}"


def began_before(name: str, moment: datetime) -> bool:
    """Whether a name is the id of a run that started before a moment (UTC)."""
    return bool(_RUN_ID.fullmatch(name)) and name < moment.strftime(_BEGAN)
