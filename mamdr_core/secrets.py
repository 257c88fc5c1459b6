"""Passwords and keys: kept out of whatever is stored, sent to ranks or printed with a configuration."""

import re
from collections.abc import Mapping
from typing import Any

from mamdr_core.errors import MamdrError

HIDDEN = "***"
_OPTIONS, _OWN = "options", ("model", "train")
"""Where the options of a reader or writer are, and the sections whose options are those of users' own code instead."""
_SECRET_NAME = re.compile(r"secret|passw|pwd|token|credential|key|auth|sig", re.IGNORECASE)
# user:secret@, where a secret may have slashes but is no port; what stands alone before @ is a container's name in some
# stores, and a token elsewhere.
_IN_URL = re.compile(r"([\w+.-]+://)[^\s/@:]*:(?!\d+(?:/|$))[^\s@]*@|((?:s3[an]?|https?)://)[^\s/@]+@", re.IGNORECASE)

# Of a signed URL: ?sig=, &X-Amz-Signature=, &access_token=.
_IN_QUERY = re.compile(
    r"([?&](?:[\w-]*[-_])?(?:sig|signature|token|secret|passwd|password|pwd|(?:aws)?(?:access|api)?key(?:id)?|credential|auth)=)"
    r"[^&#\s]+",
    re.IGNORECASE,
)


def without_secrets(values: Any, section: str = "") -> Any:
    """A tree of a configuration's values in which readers' options that look secret are hidden.

    Example:
        >>> without_secrets({"input": {"options": {"header": "true", "password": "hunter2"}}})
        {'input': {'options': {'header': 'true', 'password': '***'}}}
    """
    if not isinstance(values, Mapping):
        return values
    return {
        key: _hidden(value) if _is_readers(key, section) and isinstance(value, Mapping) else without_secrets(value, key)
        for key, value in values.items()
    }


def _is_readers(key: str, section: str) -> bool:
    return key == _OPTIONS and section not in _OWN


def _hidden(options: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: _redacted(value) if isinstance(value, str) else value for name, value in options.items()}
    return {name: HIDDEN if _SECRET_NAME.search(name) else value for name, value in shown.items()}


def _redacted(value: str) -> str:
    """A value without the credentials of the URLs in it."""
    shown = _IN_URL.sub(rf"\1\2{HIDDEN}@", value)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", shown) if "://" in shown else shown


def refuse_secrets(values: Any, path: str = "") -> None:
    """Look for credentials in the URLs of a configuration's values, readers' options apart.

    Raises:
        MamdrError: there are some; the key is named.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not _is_readers(key, path):
                refuse_secrets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            refuse_secrets(value, f"{path}.{number}")
    elif isinstance(values, str) and (shown := _redacted(values)) != values:
        raise MamdrError(
            f"{path}: {shown} holds credentials, and would be stored with every run; give them to Spark by environment "
            "variables or --conf (docs/object_stores.md)"
        )
