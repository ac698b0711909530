"""``report.html``: one file that opens offline, made from a results folder alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pagesim.errors import ConfigError
from pagesim.report import figures
from pagesim.report.cells import tables
from pagesim.report.hover import hover
from pagesim.report.knee import LIMIT
from pagesim.report.memory_view import as_json, memory_view
from pagesim.report.notes import notes
from pagesim.report.rows import Rows
from pagesim.report.style import inline_svg
from pagesim.report.table import legend, subject
from pagesim.report.verdict import verdict
from pagesim.results import Results, files, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE: Final = "page.html.j2"
SCRIPT: Final = "interactive.js"

CAPTIONS: Final = {
    "memory": "Shares of the KV cache by what their slots hold, averaged over time and seeds.",
    "throughput": "What is served, and how long it takes; bands or bars show the seeds. Against a load, a ring and the "
    f"number after a name give the knee: up to there normalized latency stays below {LIMIT:g} s/token.",
    "blocks": "Small blocks cost time, large ones memory.",
    "utilization": "Slots that hold a token that somebody needs. Of several seeds, the mean and their range.",
    "fragmentation": "The memory account of each allocator over its run; of several seeds, the mean.",
    "batch": "Requests that run at a time. Of several seeds, the mean and their range.",
    "latency": "Distribution over the measured requests of all seeds; dotted, the objectives.",
    "time": "What the device did: reading weights, attention to the KV cache, prompts, tokens computed again, copies "
    "of blocks, waits for swaps, overhead of a step, nothing. Mean over seeds.",
    "preemption": "How often requests lost their memory, and what it took to get it back; over whole runs.",
    "sharing": "Blocks that the same tables would hold without sharing, and are not held; what copies it takes.",
    "ideal": "Output tokens/s over those of the bound on memory; it may be passed by who is preempted less.",
}
"""What is to be seen, by kind of figure."""


def write(
    results: Results,
    path: Path | None = None,
    drawn: dict[str, Figure] | None = None,
    problems: list[str] | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        results: a results folder; of an unfinished one, what is done is shown.
        path: where to; by default ``report.html`` in the folder.
        drawn: all figures that can be drawn, by kind, if they have been drawn already.
        problems: sentences on those that cannot; more are added where other parts cannot be shown.

    Raises ConfigError if the folder's tables cannot be read or the page cannot be written.
    """
    path = path if path is not None else results.folder / layout.REPORT
    text = page(results, drawn, problems)
    try:
        files.write_text(path, text)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return path


def page(results: Results, drawn: dict[str, Figure] | None = None, problems: list[str] | None = None) -> str:
    """Return the page as HTML; arguments as ``write``. All text from files is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))
    rows = Rows.of(results)
    problems = problems if problems is not None else []
    shown = drawn if drawn is not None else figures.draw_all(results, problems)
    view = _memory_view(results, rows, problems)
    manifest = {"pagesim": "unknown", "started": "", **results.manifest}
    return template.render(
        name=results.name,
        question=_question(results),
        verdict=verdict(rows),
        subject=subject(rows),
        tables=tables(rows) if rows.names else [],
        notes=[*legend(rows), *notes(results, rows), *problems],
        memory=view,
        memory_json=Markup(as_json(view)) if view else "",
        hover_json=Markup(as_json({kind: hover(figure) for kind, figure in shown.items()})),
        script=Markup(Path(__file__).with_name(SCRIPT).read_text(encoding="utf-8")),
        figures=[(kind, CAPTIONS[kind], Markup(inline_svg(figure, kind))) for kind, figure in shown.items()],
        experiment=_experiment(results),
        facts=list(_facts(manifest)),
        manifest=manifest,
        manifest_text=json.dumps(results.manifest, indent=2, ensure_ascii=False),
        num_done=len(results.runs),
        num_runs=len(results.states),
    )


def _memory_view(results: Results, rows: Rows, problems: list[str]) -> dict[str, Any] | None:
    """Return what the memory view shows; where its files are damaged, add a sentence that says so."""
    try:
        return memory_view(results, rows)
    except ConfigError as error:
        problems.append(f"the memory view cannot be shown: {error}")
        return None


def _question(results: Results) -> str:
    try:
        return str(results.config.get("question") or "")
    except ConfigError:
        return ""


def _experiment(results: Results) -> str:
    try:
        return (results.folder / layout.EXPERIMENT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _facts(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a reader asks first about where results come from."""
    host, packages = manifest.get("host"), manifest.get("packages")
    yield "pagesim", " ".join(str(manifest[key]) for key in ("pagesim", "commit") if manifest.get(key))
    for key in ("command", "state", "started", "ended", "seeds", "python"):
        if (value := manifest.get(key)) not in (None, "", []):
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if isinstance(host, dict):
        yield "host", ", ".join(str(value) for value in host.values())
    if isinstance(packages, dict):
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
