"""``pagesim explain``: a small batch, or a window of a real run, step by step."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagesim.commands.options import Debug, Sets
from pagesim.errors import ConfigError

if TYPE_CHECKING:
    from pagesim.explain.show import Story


class Case(enum.StrEnum):
    """Small batches that show one thing each."""

    BATCH = "batch"
    FORK = "fork"
    BEAM = "beam"
    SWAP = "swap"
    PREFIX = "prefix"


def explain(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT.yaml|RESULTS]",
            help="Explain a window of this experiment instead of a small batch.",
            show_default=False,
        ),
    ] = None,
    case: Annotated[Case, typer.Option("--case", help="What the small batch shows.")] = Case.BATCH,
    prompt: Annotated[str, typer.Option("--prompt", metavar="N[,N...]", help="Prompt lengths, in tokens.")] = "10",
    output: Annotated[str, typer.Option("--output", metavar="N[,N...]", help="Output lengths, in tokens.")] = "6",
    block_size: Annotated[int, typer.Option("--block-size", min=1, metavar="N", help="Tokens of a block.")] = 4,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, max=1000, metavar="N", help="How many.", show_default=False)
    ] = None,
    blocks: Annotated[
        int | None, typer.Option("--blocks", min=1, metavar="N", help="Blocks of the pool.", show_default=False)
    ] = None,
    watermark: Annotated[
        int | None,
        typer.Option("--watermark", min=0, metavar="N", help="Blocks kept free on admission.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, max=64, metavar="N", help="Samples, or beams, of a request.", show_default=False
        ),
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option("--prefix", min=1, metavar="N", help="Tokens of the shared prefix.", show_default=False),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option("--max-model-len", min=2, metavar="N", help="Longest sequence, in tokens.", show_default=False),
    ] = None,
    scheduler: Annotated[str, typer.Option("--scheduler", metavar="POLICY", help="Of the small batch.")] = "chunked",
    allocators: Annotated[
        list[str] | None,
        typer.Option(
            "--allocator",
            metavar="NAME",
            help="A policy, max, pow2, oracle, or file.py:Class; of an experiment, a row. May be repeated.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Which run of the experiment.", show_default=False)
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window", metavar="START:END", help="Iterations, or times such as '10 s:10.5 s'.", show_default=False
        ),
    ] = None,
    request: Annotated[
        int | None, typer.Option("--request", min=0, metavar="ID", help="Tell one request's life.", show_default=False)
    ] = None,
    every_step: Annotated[bool, typer.Option("--every-step", help="Show steps too in which nothing happens.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page.", show_default=False)
    ] = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Walk through a small batch step by step: queues, block tables, the pool, and why requests wait.

    With an experiment or its results: a window of a run, which is simulated again.
    """
    from pagesim.explain import cases, show

    if source is None:
        if run is not None or sets:
            raise ConfigError(f"--{'run' if run is not None else 'set'} belongs to an experiment: name its file first")
        sizes = cases.Sizes(
            prompts=cases.lengths("--prompt", prompt),
            outputs=cases.lengths("--output", output),
            block_size=block_size,
            num_requests=requests,
            num_blocks=blocks,
            watermark=watermark,
            num_samples=samples,
            max_model_len=max_model_len,
            prefix_tokens=prefix,
            scheduler=scheduler,
        )
        story = show.small(case.value, sizes, allocators or (), window, request, Path.cwd())
    else:
        story = show.real(source, sets or (), allocators or (), run, window, request)
    _tell(story, every_step=every_step, html=html)


def _tell(story: Story, *, every_step: bool, html: Path | None) -> None:
    if html is not None:
        from pagesim.explain import page

        typer.echo(page.write(story, html))
        return
    from rich.console import Console

    from pagesim.explain import terminal

    console = Console(highlight=False)
    if story.lives:
        terminal.tell(console, story.lives, story.headings, unit=story.unit)
    else:
        terminal.show(console, story.walks, story.headings, every_step=every_step, unit=story.unit)
