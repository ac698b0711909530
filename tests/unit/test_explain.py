"""The walk through a small batch: what it shows is what the scheduler and the allocator did."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pagesim.errors import ConfigError
from pagesim.explain import batch, cases, page, picture, show, terminal, words
from pagesim.explain.batch import Batch
from pagesim.explain.frames import Frame, Walk
from pagesim.explain.observer import Window
from pagesim.poolmap import CACHED, EXTERNAL, FREE, INTERNAL, LIVE, RESERVED, WRITTEN

HERE = Path(__file__).parent


def alike(count: int, prompt: int = 10, output: int = 6, **options: int | str) -> Batch:
    """Return a batch of equal requests that all arrive at step 0."""
    return Batch((prompt,) * count, (output,) * count, (0,) * count, **options)  # type: ignore[arg-type]


def texts(frame: Frame) -> list[str]:
    return [event.text for event in frame.events]


def drawn(walk: Walk, frame: Frame) -> list[str]:
    """Return the pool as lines of characters, blocks apart."""
    letters = picture.Letters([walk])
    return [
        "|".join("".join(cell.mark for cell in group) for group in row.groups)
        for row in picture.rows(walk, frame, letters, walk.block_size, 16)
    ]


def test_a_request_waits_for_blocks_that_the_watermark_keeps() -> None:
    walk = batch.walk(alike(4), "paged", HERE)
    first = walk.frames[0]
    assert texts(first)[-1] == "request 3 waits: needs 3 blocks, 3 free, 1 kept by the watermark"
    assert [request.id for request in first.waiting] == [3]
    assert first.prefills == (("0", 10, 0), ("1", 10, 0), ("2", 10, 0))
    assert texts(walk.frames[3])[:-1] == [
        f"{name} has filled its last block: block {block} becomes its logical block 3"
        for name, block in ((0, 9), (1, 10), (2, 11))
    ]
    assert (walk.num_steps, walk.is_complete) == (12, True)
    assert [event.text for event in walk.ending] == ["request 3 has all of its tokens: its 4 blocks are given back"]


def test_a_contiguous_run_is_drawn_beside_it_on_the_same_memory() -> None:
    walk = batch.walk(alike(3), "contiguous", HERE)
    assert texts(walk.frames[0])[-1] == "request 2 waits: needs 24 slots, 0 free"
    assert picture.account(walk.frames[0]) == {
        "free": 0, "external": 0, "internal": 18, "reserved": 10, "written": 20, "live": 0, "cached": 0,
    }  # fmt: skip
    letters = picture.Letters([walk])
    lines = ["".join(c.mark for g in r.groups for c in g) for r in picture.rows(walk, walk.frames[1], letters, 4, 16)]
    assert lines == ["AAAAAAAAAA+....x", "xxxxxxxxBBBBBBBB", "BB+....xxxxxxxxx"]


def test_the_pool_shows_each_slot_of_each_block() -> None:
    walk = batch.walk(alike(1), "paged", HERE)
    assert drawn(walk, walk.frames[0]) == ["++++|++++|++..|____", "____|____|____|____", "____|____|____|____"]
    assert drawn(walk, walk.frames[3])[0] == "AAAA|AAAA|AAAA|+..x"


def test_buddies_hand_out_more_than_is_asked_for() -> None:
    walk = batch.walk(alike(1), "pow2", HERE)
    assert texts(walk.frames[0])[1] == (
        "request 0 is admitted: its 10 tokens get slots 0 to 31: 18 slots are asked for and 32 slots handed out"
    )
    counts = picture.account(walk.frames[0])
    assert (counts["reserved"], counts["internal"], counts["external"], counts["free"]) == (5, 3, 14, 16)


def test_holes_that_are_too_small_are_told() -> None:
    sizes = Batch((12, 12, 12, 20), (2, 4, 2, 10), (0, 0, 0, 0), num_slots=48, max_model_len=48)
    walk = batch.walk(sizes, "oracle", HERE)
    assert texts(walk.frames[0])[-1] == "request 3 waits: needs 32 slots, 0 free"
    assert (
        texts(walk.frames[2])[-1] == "request 3 waits: needs 32 slots, 32 free, but no more than 16 of them in one run"
    )


def test_the_address_of_a_token_is_where_it_is_written() -> None:
    walk = batch.walk(alike(4), "paged", HERE)
    for frame in walk.frames:
        sequence = next(s for s in frame.sequences if s.writes)
        position = sequence.stored + sequence.writes - 1
        told = words.address(sequence, position, walk.block_size)
        slot = int(told.rsplit(" ", 1)[1])
        assert frame.slots.kind[slot] == WRITTEN
        assert frame.sequences[int(frame.slots.owner[slot])] is sequence
    assert words.address(walk.frames[3].sequences[0], 12, 4) == (
        "token 12 of 0: 12 // 4 = logical block 3, 12 % 4 = offset 0; block table[3] = 9; 9 * 4 + 0 = slot 36"
    )
    run = batch.walk(alike(2), "contiguous", HERE).frames[0].sequences[1]
    assert words.address(run, 9, 1) == "token 9 of 1: its run begins at slot 24; 24 + 9 = slot 33"


def test_copy_on_write_shares_the_prompt_and_copies_the_block_that_is_written() -> None:
    walk = batch.walk(alike(1, num_samples=3, num_slots=64), "copy_on_write", HERE)
    second = walk.frames[1]
    assert texts(second) == [
        "0.1 goes on from the prompt of 0.0 and shares blocks 0 and 1, and has a copy in block 4",
        "0.2 goes on from the prompt of 0.0 and shares blocks 0 and 1",
        "0.0 is to write into block 2, which others hold too: it gets a copy of its own, block 3",
    ]
    assert [list(s.table) for s in second.sequences] == [[0, 1, 3], [0, 1, 4], [0, 1, 2]]
    assert [list(s.sharers) for s in second.sequences] == [[3, 3, 1]] * 3
    assert list(terminal.moves(second, 4)) == ["copy block 2 to block 3", "copy block 2 to block 4"]
    assert drawn(walk, second)[:2] == ["&&&&|&&&&|CC+.|AA+.", "BB+.|____|____|____"]


def test_a_beam_that_dies_is_replaced_by_a_continuation_of_another() -> None:
    walk = batch.walk(alike(1, beam_width=3, num_slots=64), "copy_on_write", HERE)
    told = [event for frame in walk.frames for event in frame.events if event.kind == "beam"]
    assert told[0].text == "beam 0.2 has died; a continuation of beam 0.0 takes its place and shares blocks 0 and 1"
    assert [list(s.table) for s in walk.frames[2].sequences] == [[0, 1, 2], [0, 1, 4], [0, 1, 3]]


def test_a_victim_goes_to_the_host_and_comes_back() -> None:
    walk = batch.walk(alike(3, num_slots=40, host_slots=40), "swapping", HERE)
    out = next(frame for frame in walk.frames if frame.swapped)
    assert (
        texts(out)[0] == "request 1 needs a block and finds none: request 2 is preempted, its 3 blocks move to the host"
    )
    assert next(event for event in out.events if event.kind == "swapped_out").by == 1
    assert (out.num_host_held, [list(s.host) for s in out.sequences if s.host]) == (3, [[0, 1, 2]])
    assert texts(walk.frames[out.number + 1])[0] == (
        "request 2 waits on the host: needs 3 blocks, 2 free, 1 kept by the watermark"
    )
    back = [event.text for frame in walk.frames for event in frame.events if event.kind == "swapped_in"]
    assert back == ["request 2 comes back from the host, to blocks 3 to 6"]


def test_a_victim_is_computed_again() -> None:
    walk = batch.walk(alike(3, num_slots=40), "copy_on_write", HERE)
    told = [event for frame in walk.frames for event in frame.events if event.kind == "preempted"]
    assert [(event.request, event.by) for event in told] == [(2, 1)]
    assert told[0].text.endswith("its 3 blocks are given back and its 12 tokens will be computed again")
    again = [prefill for frame in walk.frames for prefill in frame.prefills if prefill[2]]
    assert again == [("2", 13, 12)]


def test_a_prefix_is_there_already() -> None:
    walk = batch.walk(Batch((14,) * 2, (4,) * 2, (0, 1), prefix_tokens=8), "copy_on_write", HERE)
    assert texts(walk.frames[1])[1] == (
        "request 1 is admitted: its 14 tokens get blocks 0, 1, 4 and 5, of which 2 with 8 tokens are there already"
    )
    assert walk.frames[1].prefills == (("1", 6, 0),)
    ends = [event.text for frame in walk.frames for event in frame.events if event.kind == "finished"]
    assert ends[0] == "request 0 has all of its tokens: its 3 blocks are given back, 2 blocks stay with others"


def test_a_static_batch_keeps_the_memory_of_those_that_have_ended() -> None:
    walk = batch.walk(Batch((4, 4), (2, 5), (0, 0), scheduler="static"), "paged", HERE)
    frame = walk.frames[2]
    assert texts(frame)[0] == "request 0 has all of its tokens; its memory stays held until the batch ends"
    assert [s.name for s in frame.sequences if s.retired] == ["0"]
    assert picture.account(frame)["internal"] >= 4


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (
            Batch((4, 4), (4, 4), (0, 0), max_num_seqs=1),
            "request 1 waits: needs 1 seat, 1 of max_num_seqs 1 are taken",
        ),
        (
            Batch((4, 4), (4, 4), (0, 0), scheduler="mixed", max_num_batched_tokens=7, max_model_len=8),
            "request 1 waits: needs 4 tokens in a step, 3 of max_num_batched_tokens 7 are left",
        ),
    ],
)
def test_other_limits_are_told_too(sizes: Batch, sentence: str) -> None:
    assert texts(batch.walk(sizes, "paged", HERE).frames[0])[-1] == sentence


def test_slots_are_accounted_for_once_and_wholly() -> None:
    for policy in ("paged", "contiguous", "pow2", "copy_on_write", "ideal"):
        walk = batch.walk(alike(4, num_samples=2, num_slots=90), policy, HERE)
        for frame in walk.frames:
            assert sum(picture.account(frame).values()) == 90
            held = np.isin(frame.slots.kind, [INTERNAL, RESERVED, WRITTEN, LIVE, CACHED])
            assert not (held & (frame.slots.sharers == 0)).any()
            assert not ((frame.slots.kind == FREE) & (frame.slots.sharers > 0)).any()
            size = frame.slots.kind[: frame.num_blocks * walk.block_size].reshape(frame.num_blocks, -1)
            assert (size != FREE).any(axis=1).sum() == frame.num_held
            assert (frame.slots.kind[frame.num_blocks * walk.block_size :] == EXTERNAL).all()


def test_a_user_s_allocator_is_walked_through(tmp_path: Path) -> None:
    starter = Path(batch.__file__).parents[1] / "templates" / "starter_allocator.py"
    (tmp_path / "mine.py").write_text(starter.read_text())
    walk = batch.walk(alike(1), "mine.py:Doubling", tmp_path)
    assert walk.policy == "Doubling"
    assert texts(walk.frames[3]) == [
        "0 has filled its last block: blocks 3 to 5 become its logical blocks 3 to 5",
    ]


def test_a_window_keeps_its_steps_only() -> None:
    walk = batch.walk(alike(4), "paged", HERE, Window(3, 5))
    assert [frame.number for frame in walk.frames] == [3, 4]
    assert not walk.is_complete
    with pytest.raises(ConfigError, match="--window: paged has no step there; it needs 12 steps"):
        batch.walk(alike(4), "paged", HERE, Window(50, 60))


def test_watching_changes_nothing() -> None:
    sizes = alike(4, num_slots=40)
    whole = batch.walk(sizes, "copy_on_write", HERE)
    parts = [
        frame
        for start in range(0, 12, 3)
        for frame in batch.walk(sizes, "copy_on_write", HERE, Window(start, start + 3)).frames
    ]
    assert [(f.number, f.start, f.prefills, f.decodes) for f in parts] == [
        (f.number, f.start, f.prefills, f.decodes) for f in whole.frames[: len(parts)]
    ]


def test_a_life_says_why_a_request_waited_and_who_preempted_it() -> None:
    told = batch.life(alike(4, num_slots=40), "copy_on_write", HERE, 2)
    assert [(moment.kind, moment.time // batch.STEP) for moment in told.moments] == [
        ("arrives", 0), ("runs", 0), ("first_token", 1), ("preempted", 3), ("waits", 3), ("waits", 4), ("runs", 6),
        ("finished", 9),
    ]  # fmt: skip
    assert told.moments[5].text == "request 2 waits: needs 4 blocks, 2 free, 1 kept by the watermark"
    assert told.moments[5].until == 6 * batch.STEP
    assert dict(told.summary)["preempted"] == "1 time to be computed again"
    assert dict(told.summary)["end to end"] == "9 steps"
    behind = batch.life(alike(4), "contiguous", HERE, 3)
    assert behind.moments[1].text == (
        "waits behind 1 request; the first of them: request 2 waits: needs 24 slots, 0 free"
    )
    with pytest.raises(ConfigError, match="the batch has requests 0 to 3"):
        batch.life(alike(4), "paged", HERE, 4)


def test_a_request_that_never_fits_has_a_short_life() -> None:
    told = batch.life(alike(1, num_slots=8), "paged", HERE, 0)
    assert [moment.kind for moment in told.moments] == ["arrives", "refused"]
    assert told.moments[1].text == "is refused: never fits: an empty pool does not admit 10 tokens"


@pytest.mark.parametrize("name", list(cases.CASES))
def test_every_case_shows_what_it_is_about(name: str) -> None:
    made = cases.make(name, cases.Sizes())
    walks = [batch.walk(made, policy, HERE) for policy in cases.CASES[name].rows]
    assert all(walk.is_complete for walk in walks)
    kinds = [{event.kind for frame in walk.frames for event in frame.events} for walk in walks]
    wanted = {"batch": "waits", "fork": "fork", "beam": "beam", "swap": "swapped_out", "prefix": "admitted"}
    assert wanted[name] in kinds[1]
    held = [max(frame.num_held * walk.block_size for frame in walk.frames) for walk in walks]
    steps = [walk.num_steps for walk in walks]
    assert {"batch": steps[0] > steps[1], "fork": held[0] > held[1], "beam": held[0] > held[1],
            "swap": "preempted" in kinds[0], "prefix": steps[0] > steps[1]}[name]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (cases.Sizes(max_model_len=15), "--max-model-len 15: the longest request has 16 tokens, and would be refused"),
        (cases.Sizes(prompts=(90_000,)), "a small batch has 65,536 at most"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(sizes: cases.Sizes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cases.make("batch", sizes)
    with pytest.raises(ConfigError, match="--prefix 10: the shortest prompt has 10 tokens"):
        cases.make("prefix", cases.Sizes(prefix_tokens=10))


def test_lengths_are_numbers() -> None:
    assert cases.lengths("--prompt", "10,7, 5") == (10, 7, 5)
    for wrong in ("", "x", "10,", "0", "-3", "1.5"):
        with pytest.raises(ConfigError, match="write a number of tokens from 1"):
            cases.lengths("--prompt", wrong)


def told(story: show.Story, width: int = 100, *, every_step: bool = False) -> str:
    stream = StringIO()
    console = Console(file=stream, width=width, highlight=False)
    terminal.show(console, story.walks, story.headings, every_step=every_step, unit=story.unit)
    return stream.getvalue()


def test_the_terminal_shows_allocators_side_by_side() -> None:
    story = show.small("batch", cases.Sizes(), (), None, None, HERE)
    text = told(story)
    assert "\x1b" not in text
    assert "waiting 2 3 4 | running 0 1 | swapped -" in text
    assert "  block 0 |AAAA|AAAA|AAAA|BBBB|BBBB|BBBB|CCCC|" in text
    assert "steps" not in text.split("step 0")[0]
    assert text.count("each running sequence stores one token more") == 5
    assert told(story, every_step=True).count("each running sequence stores one token more") == 0
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_page_says_the_same_and_escapes_all() -> None:
    story = show.small("fork", cases.Sizes(), (), None, None, HERE)
    text = page.page(story)
    for walk in story.walks:
        for frame in walk.frames:
            for event in frame.events:
                assert event.text in text
    assert text.count("<section") == 7
    evil = "<script>alert(1)</script>"
    escaped = page.page(show.Story(evil, (evil,), story.walks, unit=story.unit))
    assert evil not in escaped
    assert "http" not in escaped.replace("http-equiv", "")


def test_words_are_counted_and_listed() -> None:
    assert words.count(1, "block") == "1 block"
    assert words.count(1200, "slot") == "1,200 slots"
    assert words.listed([]) == "none"
    assert words.listed([1, 2, 3]) == "1, 2 and 3"
    assert words.listed(range(20), most=3) == "0, 1, 2 and 17 more"
    assert words.places([4], 4) == "block 4"
    assert words.places(range(24), 1) == "slots 0 to 23"
    assert words.places([0, 1, 5, 6, 7, 3], 16) == "blocks 0, 1, 5 to 7 and 3"
