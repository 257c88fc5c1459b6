"""Names of runs: when it began (UTC), its method, and six hexadecimal digits."""

import re
import uuid
from datetime import datetime

_BEGAN = "%Y%m%dT%H%M%S"
_RUN_ID = re.compile(r"\d{8}T\d{6}-.+-[0-9a-f]{6}")


def make_run_id(began: datetime, method: str) -> str:
    """A new run's name; what is no letter or digit of a method's name, as in module:name, is _ there."""
    return f"{began:{_BEGAN}}-{re.sub(r'[^a-zA-Z0-9_]', '_', method)}-{uuid.uuid4().hex[:6]}"


def began_before(name: str, moment: datetime) -> bool:
    """Whether it is the name of a run that began before then (UTC)."""
    return bool(_RUN_ID.fullmatch(name)) and name < moment.strftime(_BEGAN)
