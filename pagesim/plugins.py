"""A name, ``module:Class`` or ``file.py:Class`` -> the class. The one place where policies are named.

A name is looked up among those that come with pagesim, then among the entry points that installed
packages declare (groups ``pagesim.allocators``, ``pagesim.schedulers``, ...). ``module:Class`` is
looked up beside the experiment file first, then among what is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from pagesim import plugin_modules
from pagesim.errors import PagesimError, PluginError
from pagesim.suggestions import nearest

__all__ = [
    "BUILTIN",
    "Listing",
    "accepts",
    "available",
    "build",
    "check_name",
    "check_options",
    "given",
    "nearest",
    "resolve",
]

BUILTIN: Final[dict[str, dict[str, str]]] = {
    "allocator": {
        "contiguous": "pagesim.allocators.contiguous:Contiguous",
        "paged": "pagesim.allocators.paged:Paged",
        "copy_on_write": "pagesim.allocators.copy_on_write:CopyOnWrite",
        "swapping": "pagesim.allocators.swapping:Swapping",
        "ideal": "pagesim.allocators.ideal:Ideal",
    },
    "scheduler": {
        "chunked": "pagesim.schedulers.chunked:Chunked",
        "prefill_first": "pagesim.schedulers.prefill_first:PrefillFirst",
        "mixed": "pagesim.schedulers.mixed:Mixed",
        "static": "pagesim.schedulers.static:Static",
    },
    "victim": {
        "youngest": "pagesim.schedulers.victims:Youngest",
        "least_computed": "pagesim.schedulers.victims:LeastComputed",
        "fewest_outputs": "pagesim.schedulers.victims:FewestOutputs",
        "longest_remaining": "pagesim.schedulers.victims:LongestRemaining",
    },
    "backend": {
        "cost_model": "pagesim_backends.cost_model:CostModel",
        "reference": "pagesim_backends.reference:Reference",
        "cuda": "pagesim_backends.cuda.backend:Cuda",
    },
    "arrivals": {
        "poisson": "pagesim.workload.arrivals:Poisson",
        "gamma": "pagesim.workload.arrivals:Gamma",
        "constant": "pagesim.workload.arrivals:Constant",
        "closed_loop": "pagesim.workload.arrivals:ClosedLoop",
        "trace": "pagesim.workload.arrivals:Trace",
    },
    "lengths": {
        "lognormal": "pagesim.workload.lengths:Lognormal",
        "gamma": "pagesim.workload.lengths:Gamma",
        "uniform": "pagesim.workload.lengths:Uniform",
        "constant": "pagesim.workload.lengths:Constant",
        "quantiles": "pagesim.workload.lengths:Quantiles",
    },
}

_GROUPS: Final = {
    "allocator": "pagesim.allocators",
    "scheduler": "pagesim.schedulers",
    "victim": "pagesim.victims",
    "backend": "pagesim.backends",
    "arrivals": "pagesim.arrivals",
    "lengths": "pagesim.lengths",
}

_METHODS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "allocator": {"allocate": ("sequence", "num_tokens"), "free": ("sequence",)},
    "scheduler": {"add": ("request",), "schedule": ("now",), "commit": ("step", "now")},
    "victim": {"choose": ("candidates",)},
    "backend": {"execute": ("step",)},
    "lengths": {"sample": ("count", "rng")},
}
"""What a class must have, with the arguments that pagesim calls it with."""

_EITHER: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "arrivals": {"sample": ("count", "rng"), "clients": ("count", "rng")},
}
"""Methods of which a class must have one: an open process has the first, a closed one the second."""

_GIVEN: Final[dict[str, frozenset[str]]] = {"allocator": frozenset({"pool", "max_model_len"})}
"""Arguments that pagesim itself gives a class, so that an experiment must not."""


class Listing(NamedTuple):
    """One line of ``pagesim list``: a name, where it comes from and what it is."""

    name: str
    origin: str
    summary: str


@dataclass(frozen=True)
class _Target:
    """``module:Class``, taken apart."""

    module: str
    class_name: str

    @classmethod
    def parse(cls, kind: str, text: str) -> _Target:
        module, colon, class_name = text.rpartition(":")
        if not colon or not module.strip() or not class_name.isidentifier():
            raise PluginError(f"{text!r} is no {kind}; write module:Class or file.py:Class")
        is_file = module.endswith(".py")
        if not is_file and not all(part.isidentifier() for part in module.split(".")):
            raise PluginError(f"{text!r}: {module!r} is no module's name; write module:Class or file.py:Class")
        return cls(module, class_name)


def resolve(kind: str, name: str, base_dir: Path) -> type:
    """Return the class that ``name`` stands for.

    Args:
        kind: allocator, scheduler, victim, backend, arrivals or lengths.
        name: a known name, ``module:Class`` or ``file.py:Class``.
        base_dir: the folder of the experiment file; modules beside it come before installed ones.

    Raises PluginError if there is no such name, file, module or class, if the file raises while it is
    imported, or if the class lacks a method that its kind needs.
    """
    check_name(kind, name)
    builtin = BUILTIN[kind].get(name)
    if builtin is not None:
        found = _builtin(kind, name, builtin)
    elif name in (entries := _entry_points(kind)):
        found = _entry_point(kind, name, entries[name])
    else:
        target = _Target.parse(kind, name)
        module = plugin_modules.load(target.module, base_dir.resolve())
        found = _class(kind, name, module, target.class_name)
    _check_methods(kind, name, found)
    return found


def check_name(kind: str, name: str) -> None:
    """Raise PluginError unless ``name`` is known or has the form ``module:Class``. Imports nothing."""
    if kind not in BUILTIN:
        raise PluginError(f"there are no {kind!r} policies; known kinds: {', '.join(BUILTIN)}")
    if name in BUILTIN[kind]:
        return
    if ":" in name:
        _Target.parse(kind, name)
        return
    known = [*BUILTIN[kind], *_entry_points(kind)]
    if name in known:
        return
    hint = f" (did you mean {name}:Class?)" if name.endswith(".py") else nearest(name, known)
    raise PluginError(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}; or write module:Class")


def build(cls: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return ``cls(*args, **kwargs)``; a class method that makes one of its class will do.

    Raises PluginError if a keyword is unknown or missing, or if the class raises; errors of pagesim's
    own pass unchanged.
    """
    check_options(cls, kwargs, num_positional=len(args))
    missing = [
        name
        for index, (name, parameter) in enumerate(_parameters(cls).items())
        if index >= len(args)
        and name not in kwargs
        and parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if missing:
        raise PluginError(
            f"{_name(cls)} needs {_listed(missing)}, which {'is' if len(missing) == 1 else 'are'} not given"
        )
    try:
        return cls(*args, **kwargs)
    except PagesimError:
        raise
    except Exception as error:
        place = plugin_modules.last_line(error, inspect.getsourcefile(cls))
        raise PluginError(f"{_name(cls)} cannot be built: {plugin_modules.describe(error)}{place}") from error


def accepts(cls: Callable[..., Any], name: str) -> bool:
    """Return whether the class can be built with the keyword ``name``."""
    parameters = _parameters(cls)
    return name in parameters or _takes_any(parameters)


def check_options(
    cls: Callable[..., Any], options: Iterable[str], *, num_positional: int = 0, given: Iterable[str] = ()
) -> None:
    """Raise PluginError if the class does not take one of these keywords.

    Args:
        cls: a policy's class.
        options: names of keyword arguments.
        num_positional: how many arguments it is given by position before them.
        given: names that pagesim gives, which an experiment therefore cannot.
    """
    parameters = _parameters(cls)
    given = set(given)
    allowed = [
        name
        for index, (name, parameter) in enumerate(parameters.items())
        if index >= num_positional
        and name not in given
        and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    ]
    for name in options:
        if name in given:
            raise PluginError(f"{name}: is given to {_name(cls)} by pagesim; it cannot be set here")
        if name not in allowed and not _takes_any(parameters):
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes no options"
            raise PluginError(f"{name}: {_name(cls)} takes no {name!r}{nearest(name, allowed)}; {takes}")


def given(kind: str) -> frozenset[str]:
    """Return the names of arguments that pagesim gives every class of a kind."""
    return _GIVEN.get(kind, frozenset())


def available(kind: str) -> list[Listing]:
    """Return what can be named, with where it comes from and the first line of its docstring.

    Nothing heavy is imported: docstrings are read from the source.
    """
    if kind not in BUILTIN:
        raise PluginError(f"there are no {kind!r} policies; known kinds: {', '.join(BUILTIN)}")
    rows = []
    for name, target in BUILTIN[kind].items():
        module, _, class_name = target.partition(":")
        summary = plugin_modules.summary(module, class_name)
        if summary is not None:
            rows.append(Listing(name, "pagesim", summary))
    for name, entry in sorted(_entry_points(kind).items()):
        module, _, class_name = entry.value.partition(":")
        origin = entry.dist.name if entry.dist is not None else module
        rows.append(Listing(name, origin, plugin_modules.summary(module, class_name) or ""))
    return rows


def _builtin(kind: str, name: str, target: str) -> type:
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            have = [listing.name for listing in available(kind)]
            raise PluginError(
                f"{kind} {name!r} is not in this version of pagesim; it has: {', '.join(have) or 'none'}"
            ) from None
        raise PluginError(
            f"{kind} {name!r} needs the package {error.name!r}, which is not installed (see the extras in the README)"
        ) from None
    return _class(kind, name, module, class_name)


def _entry_points(kind: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUPS[kind])}


def _entry_point(kind: str, name: str, entry: importlib.metadata.EntryPoint) -> type:
    try:
        found = entry.load()
    except Exception as error:
        raise PluginError(
            f"{kind} {name!r} ({entry.value}) cannot be loaded: {plugin_modules.describe(error)}"
        ) from error
    if not inspect.isclass(found):
        raise PluginError(f"{kind} {name!r} ({entry.value}) is no class")
    return found


def _class(kind: str, name: str, module: ModuleType, class_name: str) -> type:
    found = getattr(module, class_name, None)
    where = getattr(module, "__file__", None) or module.__name__
    if found is None:
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        has = f"it has {', '.join(classes)}" if classes else "it has no class"
        raise PluginError(
            f"{kind} {name!r}: {Path(where).name} has no {class_name!r}{nearest(class_name, classes)}; {has}"
        )
    if not inspect.isclass(found):
        raise PluginError(f"{kind} {name!r}: {class_name!r} in {Path(where).name} is no class")
    return found


def _check_methods(kind: str, name: str, cls: type) -> None:
    if inspect.isabstract(cls):
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        raise PluginError(f"{kind} {name!r}: {cls.__name__} leaves {_listed(missing)} of its base class to be written")
    either = _EITHER.get(kind, {})
    present = {method: arguments for method, arguments in either.items() if hasattr(cls, method)}
    if either and not present:
        expected = " or ".join(_expected(method, arguments) for method, arguments in either.items())
        raise PluginError(f"{kind} {name!r}: {cls.__name__} has neither {' nor '.join(either)}; expected: {expected}")
    for method, arguments in {**_METHODS.get(kind, {}), **present}.items():
        _check_method(f"{kind} {name!r}: {cls.__name__}", cls, method, arguments)


def _expected(method: str, arguments: tuple[str, ...]) -> str:
    return f"{method}(self, {', '.join(arguments)})"


def _check_method(where: str, cls: type, method: str, arguments: tuple[str, ...]) -> None:
    expected, function = _expected(method, arguments), inspect.getattr_static(cls, method, None)
    if function is None:
        raise PluginError(f"{where} has no method {method}; expected: {expected}")
    bound = getattr(cls, method)
    if not callable(bound):
        raise PluginError(f"{where}.{method} is no method; expected: {expected}")
    is_plain = not isinstance(function, staticmethod | classmethod)
    try:
        signature = inspect.signature(bound)
        signature.bind(*([None] if is_plain else []), *[None] * len(arguments))
    except TypeError:
        raise PluginError(f"{where}.{method}{signature} has the wrong arguments; expected: {expected}") from None
    except ValueError:  # a method without a signature, written in C
        return


def _name(made: Callable[..., Any]) -> str:
    """Return the name of a class, also where one of its class methods is called."""
    return str(getattr(getattr(made, "__self__", made), "__name__", made))


def _parameters(cls: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(cls).parameters)
    except ValueError:  # a class without a signature, written in C
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
