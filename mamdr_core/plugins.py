"""Users' own structures and methods, named `my_package.my_module:MyModel`: found, checked and identified by source."""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mamdr_core.errors import MamdrError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", re.ASCII)
_SHOWN = 8
"""Names that a message lists at most."""


class PluginImportError(MamdrError):
    """The module of a plug-in cannot be imported in this process."""


def is_plugin(name: str) -> bool:
    """Whether a name is that of a user's own code, rather than of what this package registers.

    Example:
        >>> is_plugin("click_models.residual:Residual"), is_plugin("mlp")
        (True, False)
    """
    return ":" in name


@dataclass(frozen=True)
class Plugin:
    """A user's own structure or method.

    Attributes:
        key: configuration key that names it.
        name: `module:attribute`.

    Raises:
        MamdrError: it is no such name.
    """

    key: str
    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        if not _NAME.fullmatch(self.name):
            raise MamdrError(f"{self.key} is {self.name!r}; expected my_package.my_module:Name")

    @property
    def module(self) -> str:
        """The module's name, with dots."""
        return self.name.partition(":")[0]

    def load(self) -> Any:
        """What the name stands for.

        Raises:
            PluginImportError: its module cannot be imported.
            MamdrError: the module has nothing of that name.
        """
        module, attribute = self._import(), self.name.partition(":")[2]
        if not hasattr(module, attribute):
            names = [name for name, value in vars(module).items() if _is_defined_in(module, value)]
            known = f"it defines {', '.join(names[:_SHOWN])}" if names else "it defines no class or function"
            raise MamdrError(f"{self.key} is {self.name}: module {self.module} has no {attribute}; {known}")
        return getattr(module, attribute)

    def load_class(self, base: type) -> Any:
        """The class that the name stands for.

        Args:
            base: what it must be a class of.

        Raises:
            MamdrError: as `load`, or it is no such class.
        """
        found = self.load()
        if not (isinstance(found, type) and issubclass(found, base)):
            raise MamdrError(
                f"{self.key} is {self.name}: expected a class of {_full_name(base)}, found {_what_is(found)}"
            )
        return found

    def load_instance(self, kind: type) -> Any:
        """The object that the name stands for.

        Args:
            kind: its class.

        Raises:
            MamdrError: as `load`, or it is of another class.
        """
        found = self.load()
        if not isinstance(found, kind):
            raise MamdrError(f"{self.key} is {self.name}: expected a {_full_name(kind)}, found {_what_is(found)}")
        return found

    def defining(self) -> list[str]:
        """Names of the modules that define it: a class's own, or those of the functions that an object holds.

        Raises:
            MamdrError: as `load`.
        """
        found = self.load()
        if isinstance(found, type):
            return [found.__module__]
        held = {getattr(value, "__module__", None) for value in vars(found).values() if callable(value)}
        return sorted({name for name in held if name and name.partition(".")[0] != "mamdr_core"} or {self.module})

    def source_hash(self) -> str:
        """SHA-256 of the source files of `defining`, one after another, also inside a zip file.

        Raises:
            MamdrError: as `load`, or a module has no source file, so that no other process could import it.
        """
        digest = hashlib.sha256()
        for name in self.defining():
            module = sys.modules[name]
            loader: Any = getattr(module.__spec__, "loader", None)
            file = getattr(module, "__file__", None)
            if not (file and hasattr(loader, "get_data")):
                raise MamdrError(f"{self.key} is {self.name}: module {name} has no source file; put it into one")
            digest.update(loader.get_data(file))
        return digest.hexdigest()

    def _import(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            reason = " ".join(str(error).split())[:200]
            raise PluginImportError(
                f"{self.key} is {self.name}: module {self.module} cannot be imported ({reason}); ship it with "
                "spark-submit --py-files, or install it (docs/extending.md)"
            ) from error


def parse_options(key: str, declared: type | None, values: Mapping[str, Any]) -> Any:
    """A plug-in's own settings: an instance of the class that it declares for them; None where it declares none.

    Args:
        key: configuration key of the values.
        declared: the class, made by `mamdr_core.settings.settings` as those of this package; None: there are no
            options.
        values: as configured.

    Raises:
        MamdrError: an unknown option, one of the wrong kind, or any where none is declared.
    """
    if declared is None:
        if values:
            raise MamdrError(f"{key} has {', '.join(values)}, and what is configured declares no options: leave it out")
        return None
    from pydantic import TypeAdapter, ValidationError  # not needed where torch alone is installed and nothing declared

    try:
        return TypeAdapter(declared).validate_python(dict(values))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, (key, *found["loc"])))
        said = found["msg"].removeprefix("Value error, ")
        if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = ", ".join(getattr(declared, "__annotations__", {}))
            said = f"there is no such option; {declared.__name__} has {known}"
        elif found["type"] not in ("missing", "value_error"):
            said = f"{said}, got {str(found['input'])[:80]!r}"
        raise MamdrError(" ".join(f"{where}: {said}".split())) from None


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__qualname__")


def _what_is(found: Any) -> str:
    """What an object is, for an error."""
    return f"the class {_full_name(found)}" if isinstance(found, type) else f"an object of {_full_name(type(found))}"


def _full_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
