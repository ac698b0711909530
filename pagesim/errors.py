"""Every error that pagesim raises on purpose. The command line prints them without a traceback."""

from __future__ import annotations


class PagesimError(Exception):
    """Base class: catch this to catch all of them."""


class ConfigError(PagesimError):
    """The command or the experiment file is wrong: what, where, and what is allowed."""


class TraceError(ConfigError):
    """A trace is missing or malformed: names file, line and column."""


class PluginError(ConfigError):
    """A policy named in the experiment cannot be found, built or called."""


class InvariantError(PagesimError):
    """A numbered invariant of the semantics is broken: a bug in a policy or in pagesim itself."""


class BackendError(PagesimError):
    """A backend cannot be had on this machine, or failed while executing a step."""
