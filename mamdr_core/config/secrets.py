"""Keeps passwords and keys out of configurations that are stored, sent to ranks or printed."""

import re
from collections.abc import Mapping
from typing import Any

from mamdr_core.runtime.errors import MamdrError

HIDDEN = "***"
_OPTIONS, _OWN = "options", ("model", "train")
"""Key of the options of a reader or writer, and the sections in which it has the options of plugins instead."""
_SECRET_NAME = re.compile(r"secret|passw|pwd|token|credential|key|auth|sig", re.IGNORECASE)
# user:secret@, where the secret may contain slashes but is not a port. A single part before @ is the name of a
# container in some stores, and a token elsewhere.
_IN_URL = re.compile(r"([\w+.-]+://)[^\s/@:]*:(?!\d+(?:/|$))[^\s@]*@|((?:s3[an]?|https?)://)[^\s/@]+@", re.IGNORECASE)

# Signed URLs: ?sig=, &X-Amz-Signature=, &access_token=.
_IN_QUERY = re.compile(
    r"([?&](?:[\w-]*[-_])?(?:sig|signature|token|secret|passwd|password|pwd|(?:aws)?(?:access|api)?key(?:id)?|credential|auth)=)"
    r"[^&#\s]+",
    re.IGNORECASE,
)


def without_secrets(values: Any, section: str = "") -> Any:
    """A tree of configuration values in which options of readers that look like secrets are hidden.

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
    """A value without credentials in URLs."""
    shown = _IN_URL.sub(rf"\1\2{HIDDEN}@", value)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", shown) if "://" in shown else shown


def refuse_secrets(values: Any, path: str = "") -> None:
    """Check that URLs in a configuration contain no credentials, except in options of readers.

    Raises:
        MamdrError: a URL contains credentials; the message names the key.
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
            f"{path}: {shown} contains credentials, which would be stored with every run; pass them to Spark by "
            "environment variables or --conf (docs/object_stores.md)"
        )
