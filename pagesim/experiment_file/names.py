"""Do the names of an experiment stand for something? Imports the policies that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path as FilePath

from pagesim import plugins
from pagesim.config import AllocatorConfig, DistributionConfig, ExperimentConfig
from pagesim.config_types import Path
from pagesim.errors import ConfigError
from pagesim.experiment_file import ExperimentFile, file_at, points

Check = tuple[Path, Callable[[], object]]


def check_names(file: ExperimentFile) -> None:
    """Look up the model, the device and every policy, and the options that rows give theirs.

    Raises ConfigError with every problem at its place, at all points of the sweep.
    """
    found: dict[str, None] = {}
    for point in points(file.config):
        here = file_at(file, point)
        for path, check in _checks(here.config, here.base_dir):
            try:
                with here.locate(*path):
                    check()
            except ConfigError as error:
                found[str(error)] = None
    if found:
        raise ConfigError("\n".join(found))


def _checks(config: ExperimentConfig, folder: FilePath) -> Iterator[Check]:
    from pagesim import catalog

    yield ("model",), partial(catalog.model, config.model, folder)
    yield ("device",), partial(catalog.device, config.device, folder)
    backend: Path = ("backend",) if isinstance(config.backend, str) else ("backend", "name")
    yield backend, partial(plugins.resolve, "backend", config.backend_name, folder)
    scheduler = config.scheduler
    yield ("scheduler", "policy"), partial(plugins.resolve, "scheduler", scheduler.policy, folder)
    yield ("scheduler", "victim"), partial(plugins.resolve, "victim", scheduler.victim, folder)
    yield from _workload_checks(config, folder)
    for name, row in config.allocators.items():
        yield ("allocators", name), partial(_check_row, row, folder)
        if row.victim is not None:
            yield ("allocators", name, "victim"), partial(plugins.resolve, "victim", row.victim, folder)


def _workload_checks(config: ExperimentConfig, folder: FilePath) -> Iterator[Check]:
    from pagesim import catalog

    arrivals, lengths = config.workload.arrivals, config.workload.lengths
    if arrivals is not None:
        yield ("workload", "arrivals", "process"), partial(plugins.resolve, "arrivals", arrivals.process, folder)
    if lengths is None:
        return
    if lengths.dataset is not None:
        yield ("workload", "lengths", "dataset"), partial(catalog.lengths_entry, lengths.dataset)
    for key, part in (("prompt", lengths.prompt), ("output", lengths.output)):
        if part is not None:
            yield ("workload", "lengths", key), partial(_check_distribution, part, folder)


def _check_distribution(part: DistributionConfig, folder: FilePath) -> None:
    with _about("distribution"):
        cls = plugins.resolve("lengths", part.distribution, folder)
    with _about("options"):
        plugins.check_options(cls, part.options)


def _check_row(row: AllocatorConfig, folder: FilePath) -> None:
    with _about("policy"):
        cls = plugins.resolve("allocator", row.policy, folder)
    plugins.check_options(cls, row.options, num_positional=1, given=plugins.given("allocator"))


@contextlib.contextmanager
def _about(key: str) -> Iterator[None]:
    """Say which key an error is about, by its beginning (see ``ExperimentFile.locate``)."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(f"{key}: {error}") from (error.__cause__ or error)
