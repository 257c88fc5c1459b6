"""Plugins in a run: users' structures and methods are checked on the driver and all ranks, and recorded by source."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mamdr_core.config.job_config import Config
from mamdr_core.learning.methods import find_method
from mamdr_core.models.checking import vmap_error
from mamdr_core.models.structures import build_model, declare_inputs, find_structure
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import Plugin, PluginImportError, is_plugin, parse_options
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.choices import gather_trouble

logger = logging.getLogger(__name__)


def plugins_of(config: Config) -> list[Plugin]:
    """The plugins that a configuration names."""
    names = {"model.name": config.model.name, "train.method": config.train.method}
    return [Plugin(key, name) for key, name in names.items() if is_plugin(name)]


def modules_of(plugins: Iterable[Plugin]) -> list[str]:
    """Names of the modules that plugins are imported from and defined in.

    Raises:
        MamdrError: a plugin cannot be imported.
    """
    return [name for plugin in plugins for name in (plugin.module, *plugin.defining())]


def sources_of(config: Config) -> dict[str, str]:
    """SHA-256 of the source file that defines each plugin on this machine, by name of the plugin.

    Raises:
        MamdrError: a plugin cannot be imported, or has no source file.
    """
    return {plugin.name: plugin.source_hash() for plugin in plugins_of(config)}


def check_own_names(config: Config) -> None:
    """Check the names of the structure and the method, and their options.

    Raises:
        MamdrError: an unknown name or option, or a plugin that cannot be imported or is of another class.
    """
    try:
        find_method(config.train.method).settle(config.train.learning)
        parse_options(
            "model.options", getattr(find_structure(config.model.name), "Options", None), config.model.options
        )
    except PluginImportError as error:
        raise MamdrError(f"{error}, on the driver") from error
    except ValueError as error:
        raise MamdrError(str(error)) from None


def try_structure(config: Config, pinned: PinnedExamples) -> str:
    """Run a structure that is a plugin on two rows; returns why the fast engine cannot run it, empty if it can.

    Raises:
        MamdrError: it does not return one logit per row, has layers that no engine can run, or unknown options.
    """
    if not is_plugin(config.model.name):
        return ""
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    trouble = vmap_error(build_model(config.model, inputs))
    return f"{config.model.name} runs one trajectory at a time: {trouble}" if trouble else ""


def check_on_ranks(config: Config, sources: Mapping[str, str], collective: Collective) -> None:
    """Check that all ranks import plugins from the driver's source (`sources_of`); all ranks must call this.

    Raises:
        MamdrError: a rank cannot, or has another source; the same error on all ranks.
    """
    if not plugins_of(config):
        return
    own = ""
    try:
        found = sources_of(config)
        if differing := [name for name, source in sources.items() if found[name] != source]:
            own = f"{', '.join(differing)} has other source code than on the driver: install the same everywhere"
    except MamdrError as error:
        own = str(error)
    trouble = gather_trouble(collective, own)
    if trouble.text:
        raise MamdrError(trouble.text if trouble.is_partial else f"{trouble.text} (every rank)")


def check_served(config: Config, metrics: Mapping[str, Any], folder: str) -> None:
    """Check that a package's structure can be imported here if it is a plugin.

    If its source has changed since training, this is only logged: the structure may have been corrected. The method is
    not checked, since predictions do not need it.

    Raises:
        MamdrError: the structure cannot be imported, or is not a structure.
    """
    if not is_plugin(config.model.name):
        return
    try:
        find_structure(config.model.name)
        found = Plugin("model.name", config.model.name).source_hash()
    except MamdrError as error:  # keeps the class: callers handle a missing module differently
        raise type(error)(f"package {folder} needs a plugin: {error}") from error
    trained = (metrics.get("plugins") or {}).get(config.model.name)
    if trained and trained != found:
        logger.warning(
            "package %s was trained with other source code of %s (SHA-256 %s, here %s): predictions may differ",
            folder, config.model.name, trained[:12], found[:12],
        )  # fmt: skip
