"""Plugins: users' structures and methods, named `my_package.my_module:MyModel`, and identified by their source."""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from mamdr_core.runtime.errors import MamdrError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", re.ASCII)
_SHOWN = 8
"""Maximum number of names in a message."""


class PluginImportError(MamdrError):
    """The module of a plugin cannot be imported in this process."""


def is_plugin(name: str) -> bool:
    """Whether a name refers to a plugin rather than to something that this package registers.

    Example:
        >>> is_plugin("click_models.residual:Residual"), is_plugin("mlp")
        (True, False)
    """
    return ":" in name


@dataclass(frozen=True)
class Plugin:
    """A structure or method of the user.

    Attributes:
        key: configuration key that names it.
        name: name of the form `module:attribute`.

    Raises:
        MamdrError: the name has another form.
    """

    key: str
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise MamdrError(f"{self.key} is {self.name!r}; expected my_package.my_module:Name")

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return self.name.partition(":")[0]

    def load(self) -> Any:
        """Import the object of this name.

        Raises:
            PluginImportError: the module cannot be imported.
            MamdrError: the module has no such attribute.
        """
        module, attribute = self._import(), self.name.partition(":")[2]
        if not hasattr(module, attribute):
            names = [name for name, value in vars(module).items() if _is_defined_in(module, value)]
            known = f"it defines {', '.join(names[:_SHOWN])}" if names else "it defines no class or function"
            raise MamdrError(f"{self.key} is {self.name}: module {self.module} has no {attribute}; {known}")
        return getattr(module, attribute)

    def load_class(self, base: type) -> Any:
        """Import the class of this name.

        Args:
            base: required base class.

        Raises:
            MamdrError: as `load`, or it is not a subclass of `base`.
        """
        found = self.load()
        if not (isinstance(found, type) and issubclass(found, base)):
            raise MamdrError(
                f"{self.key} is {self.name}: expected a class of {_full_name(base)}, found {_what_is(found)}"
            )
        return found

    def load_instance(self, kind: type) -> Any:
        """Import the instance of this name.

        Args:
            kind: required class.

        Raises:
            MamdrError: as `load`, or it is not an instance of `kind`.
        """
        found = self.load()
        if not isinstance(found, kind):
            raise MamdrError(f"{self.key} is {self.name}: expected a {_full_name(kind)}, found {_what_is(found)}")
        return found

    def defining(self) -> list[str]:
        """Names of the modules that define it: that of a class, or those of the functions that an object contains.

        Raises:
            MamdrError: as `load`.
        """
        found = self.load()
        if isinstance(found, type):
            return [found.__module__]
        held = {getattr(value, "__module__", None) for value in vars(found).values() if callable(value)}
        return sorted({name for name in held if name and name.partition(".")[0] != "mamdr_core"} or {self.module})

    def source_hash(self) -> str:
        """SHA-256 of the concatenated source files of `defining`, which may be in a zip file.

        Raises:
            MamdrError: as `load`, or a module has no source file, so that other processes could not import it.
        """
        digest = hashlib.sha256()
        for name in self.defining():
            module = sys.modules[name]
            loader: Any = getattr(module.__spec__, "loader", None)
            file = getattr(module, "__file__", None)
            if not (file and hasattr(loader, "get_data")):
                raise MamdrError(f"{self.key} is {self.name}: module {name} has no source file; define it in a file")
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
    """Parse the options of a plugin into the class that it declares for them; None if it declares none.

    Args:
        key: configuration key of the values.
        declared: class with the decorator `mamdr_core.config.settings.settings`; None: there are no options.
        values: configured values.

    Raises:
        MamdrError: an unknown option, a value of the wrong type, or any option if none is declared.
    """
    if declared is None:
        if values:
            raise MamdrError(f"{key} has {', '.join(values)}, but no options are declared: remove it")
        return None
    from pydantic import TypeAdapter, ValidationError  # not needed if no options are declared

    try:
        return TypeAdapter(declared).validate_python(dict(values))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, (key, *found["loc"])))
        message = found["msg"].removeprefix("Value error, ")
        if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            known = ", ".join(getattr(declared, "__annotations__", {}))
            message = f"there is no such option; {declared.__name__} has {known}"
        elif found["type"] not in ("missing", "value_error"):
            message = f"{message}, got {str(found['input'])[:80]!r}"
        raise MamdrError(" ".join(f"{where}: {message}".split())) from None


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__qualname__")


def _what_is(found: Any) -> str:
    """Description of an object for an error message."""
    return f"the class {_full_name(found)}" if isinstance(found, type) else f"an object of {_full_name(type(found))}"


def _full_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
