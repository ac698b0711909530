"""The cost model: hand-computed prices, laws that they keep, and the coefficients behind them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim import catalog
from pagesim.backend import Chunk, Machine, Step, StepResult
from pagesim.blocks import BlockOps, Copy, SwapIn, SwapOut
from pagesim.catalog import DeviceSpec, ModelSpec
from pagesim.errors import ConfigError
from pagesim.sequence import Request, Sequence
from pagesim.units import TICKS_PER_SECOND
from pagesim_backends.coefficients import PAGED_FACTORS, Coefficients, attention_factor, coefficients
from pagesim_backends.cost_model import CostModel

MICROSECOND = 10**6
MILLISECOND = 10**9

OPT_13B = ModelSpec(
    name="opt-13b",
    num_layers=40,
    num_heads=40,
    num_kv_heads=40,
    head_dim=128,
    hidden_size=5120,
    ffn_size=20480,
    vocab_size=50272,
    num_parameters=13_000_000_000,
    max_position=2048,
    source="a round number of parameters",
)
A100 = DeviceSpec(
    name="a100-40gb",
    memory_bytes=40 * 2**30,
    bandwidth_bytes_per_s=1_555_000_000_000,
    flops_fp16_per_s=312_000_000_000_000,
    host_link_bytes_per_s=32_000_000_000,
    source="its data sheet",
)

# Absurd for a device and easy by hand: 1 s reads the weights, 10 ms compute a token, 1 ms reads a token of
# context, and a pair of prompt tokens takes 1 us.
SIMPLE = Coefficients(
    weight_bytes=1000,
    bandwidth=2000,
    bandwidth_share=0.5,
    flops=2e6,
    flops_share=0.5,
    flops_per_token=1e4,
    attention_flops_per_pair=1,
    kv_bytes_per_token=1,
    block_size=4,
    attention_factor=1,
    table_entry=7,
    iteration=300,
    sequence=20,
    copy_share=0.25,
    copy_launch=11,
    link_bandwidth=10,
    link_share=0.8,
    transfer=13,
    transfers_per_block=2,
    swap_overlap=0,
    tensor_parallel=1,
    all_reduces=0,
    all_reduce_latency=0,
    all_reduce_bytes_per_token=0,
    all_reduce_bandwidth=1,
)


def derive(*, block_size: int = 16, contiguous: bool = False, tensor_parallel: int = 1, **options: Any) -> Coefficients:
    return coefficients(
        OPT_13B,
        A100,
        tensor_parallel=tensor_parallel,
        dtype_bytes=2,
        block_size=block_size,
        contiguous=contiguous,
        **options,
    )


def sequence(stored: int = 0) -> Sequence:
    made = Request(0, 0, prompt_tokens=max(stored, 1) + 1000, output_tokens=10).sequences[0]
    made.num_stored = stored
    return made


def decodes(num_decodes: int, context_tokens: int = 0, table_entries: int = 0, **counts: Any) -> Step:
    return Step(num_decodes=num_decodes, context_tokens=context_tokens, table_entries=table_entries, **counts)


def price(step: Step, given: Coefficients = SIMPLE) -> StepResult:
    return CostModel(given).execute(step)


def test_a_decode_step_by_hand() -> None:
    result = price(decodes(3, context_tokens=50, table_entries=14))
    assert result == StepResult(
        duration=TICKS_PER_SECOND + 50 * MILLISECOND + 300 + 3 * 20 + 14 * 7,
        weights=TICKS_PER_SECOND,
        attention=50 * MILLISECOND,
        overhead=300 + 60 + 98,
    )


def test_a_large_batch_is_bound_by_arithmetic() -> None:
    assert price(decodes(100)).weights == TICKS_PER_SECOND
    assert price(decodes(101)).weights == 1010 * MILLISECOND


def test_a_prompt_alone_reads_the_weights_and_adds_its_arithmetic() -> None:
    result = price(Step(prefills=[Chunk(sequence(), 200)], table_entries=50))
    pairs = 200 * 201 // 2
    assert result.weights == TICKS_PER_SECOND
    # Reading its 200 tokens of context takes 0.2 s, longer than 20,100 pairs at 1 us.
    assert pairs * MICROSECOND < 200 * MILLISECOND
    assert result.prefill == (2000 - 1000) * MILLISECOND + 200 * MILLISECOND
    assert result.overhead == 300 + 20 + 50 * 7


def test_a_long_chunk_is_bound_by_its_pairs() -> None:
    result = price(Step(prefills=[Chunk(sequence(stored=1000), 2000)]))
    pairs = 2000 * 1000 + 2000 * 2001 // 2
    assert pairs * MICROSECOND > 3000 * MILLISECOND
    assert result.prefill == (20_000 - 1000) * MILLISECOND + pairs * MICROSECOND


def test_a_prompt_that_rides_on_the_read_of_the_weights_is_nearly_free() -> None:
    alone = price(decodes(10))
    both = price(decodes(10, prefills=[Chunk(sequence(), 90)]))
    assert both.weights == alone.weights
    assert both.prefill == 90 * MILLISECOND  # only its attention
    more = price(decodes(10, prefills=[Chunk(sequence(), 91)]))
    assert more.prefill == 91 * MILLISECOND + 10 * MILLISECOND


def test_recomputed_tokens_take_their_share_of_the_prompts() -> None:
    first = price(Step(prefills=[Chunk(sequence(), 200)]))
    again = price(Step(prefills=[Chunk(sequence(), 200, 150)]))
    assert again.duration == first.duration
    assert again.recompute == first.prefill * 3 // 4
    assert again.prefill == first.prefill - again.recompute
    assert price(Step(prefills=[Chunk(sequence(), 200, 200)])).prefill == 0


def test_only_the_recomputed_chunk_counts_as_recomputed() -> None:
    result = price(decodes(0, prefills=[Chunk(sequence(), 150), Chunk(sequence(), 50, 50)]))
    assert result.recompute == 1000 * MILLISECOND // 4 + 50 * MILLISECOND


def test_padding_is_computed() -> None:
    assert price(decodes(60, padding_tokens=50)).weights == 1100 * MILLISECOND
    prompts = price(Step(prefills=[Chunk(sequence(), 60)], padding_tokens=50))
    assert (prompts.weights, prompts.prefill) == (TICKS_PER_SECOND, 100 * MILLISECOND + 60 * MILLISECOND)


def test_copies_move_each_byte_twice_in_one_launch() -> None:
    result = price(decodes(1, ops=BlockOps([Copy(0, 5), Copy(1, 6, num_blocks=3)])))
    # 4 blocks of 4 B, read and written: 32 B at 500 B/s.
    assert result.copies == 64 * MILLISECOND + 11
    assert result.swaps == 0


def test_swaps_pay_for_bytes_and_for_each_piece() -> None:
    result = price(Step(ops=BlockOps([SwapOut(0, 0), SwapOut(1, 1), SwapIn(2, 2)])))
    # 3 blocks of 4 B at 8 B/s, in 2 pieces each.
    assert result.swaps == 1500 * MILLISECOND + 3 * 2 * 13
    assert result.copies == 0
    assert result.weights == 0  # nothing is computed
    assert result.duration == result.swaps + 300


def test_a_step_takes_at_least_a_tick() -> None:
    free = price(Step(), derive(iteration=0))
    assert free == StepResult(1, overhead=1)


def test_opt_13b_on_an_a100() -> None:
    result = price(decodes(1, context_tokens=1, table_entries=1), derive())
    assert result.weights == round(26e9 / (0.9 * 1.555e12) * TICKS_PER_SECOND)
    assert result.weights == pytest.approx(18.6 * MILLISECOND, rel=0.002)
    assert result.overhead == MILLISECOND + 10 * MICROSECOND + 20_000
    token = derive().flops_per_token / (312e12 * 0.5)
    assert token == pytest.approx(0.167e-3, rel=0.003)  # the fitted time of a token


def test_the_catalog_gives_nearly_the_same() -> None:
    given = coefficients(
        catalog.model("opt-13b"),
        catalog.device("a100-40gb"),
        tensor_parallel=1,
        dtype_bytes=2,
        block_size=16,
        contiguous=False,
    )
    assert given.kv_bytes_per_token == 819_200
    assert price(decodes(1), given).weights == pytest.approx(18.6 * MILLISECOND, rel=0.02)


def test_sizes_of_opt_13b() -> None:
    given = derive()
    assert given.kv_bytes_per_token == 819_200
    assert given.weight_bytes == 26e9
    assert given.attention_flops_per_pair == 4 * 40 * 5120


def test_context_is_read_once_from_contiguous_memory() -> None:
    given = derive(contiguous=True)
    assert given.attention_factor == 1
    assert given.table_entry == 0
    per_token = round(819_200 / (0.9 * 1.555e12) * TICKS_PER_SECOND)
    assert price(decodes(4, context_tokens=8000, table_entries=8000), given).attention == 8000 * per_token


def test_the_engine_of_2023_is_slower_on_the_host_and_in_its_kernel() -> None:
    given = derive(engine="vllm-2023")
    assert given.attention_factor == pytest.approx(1.23)
    assert given.transfers_per_block == 80
    step = decodes(30, context_tokens=13_000, table_entries=0)
    assert price(step, given).overhead == 6_800 * MICROSECOND + 30 * 250 * MICROSECOND
    assert derive(engine="vllm-2023", contiguous=True).attention_factor == 1


def test_the_factor_is_interpolated_over_the_logarithm() -> None:
    for size, factor in PAGED_FACTORS:
        assert attention_factor(size) == factor
    assert attention_factor(128) == pytest.approx((1.004 + 1.001) / 2)
    assert attention_factor(1024) == 1.001
    assert 1.06 > attention_factor(5) > attention_factor(6) > 1.03


def test_the_factor_stays_within_what_was_measured() -> None:
    factors = [attention_factor(size) for size in range(16, 257)]
    assert max(factors) <= 1.02
    assert max(factors) / min(factors) <= 1.015


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "num_sequences", "context", "measured_us"),
    [(40, 40, 32, 2048, 301), (40, 40, 128, 2048, 1159), (32, 8, 64, 4096, 242), (32, 8, 256, 16384, 3710)],
)
def test_attention_is_within_ten_percent_of_a_measured_kernel(
    num_heads: int, num_kv_heads: int, num_sequences: int, context: int, measured_us: int
) -> None:
    """One layer of paged decode attention on one NVIDIA H200, fp16, head size 128, block size 16."""
    model = dataclasses.replace(OPT_13B, num_layers=1, num_heads=num_heads, num_kv_heads=num_kv_heads)
    h200 = dataclasses.replace(A100, bandwidth_bytes_per_s=4_800_000_000_000)
    layer = coefficients(model, h200, tensor_parallel=1, dtype_bytes=2, block_size=16, contiguous=False)
    attention = price(decodes(num_sequences, context_tokens=num_sequences * context), layer).attention
    assert attention == pytest.approx(measured_us * MICROSECOND, rel=0.1)


@given(st.integers(1, 300), st.integers(1, 4000), st.integers(0, 2))
def test_smaller_blocks_are_never_cheaper(block_size: int, stored: int, engine: int) -> None:
    options: dict[str, Any] = [{}, {"engine": "vllm-2023"}, {"table_entry": "1 us"}][engine]

    def duration(size: int) -> int:
        step = decodes(1, context_tokens=stored, table_entries=-(-stored // size))
        return price(step, derive(block_size=size, **options)).duration

    assert duration(block_size) >= duration(block_size + 1)
    if engine != 2:
        contiguous = derive(block_size=1, contiguous=True, **options)
        assert (
            duration(block_size) >= price(decodes(1, context_tokens=stored, table_entries=stored), contiguous).duration
        )


def test_moving_the_same_bytes_costs_more_in_small_blocks() -> None:
    def swap(block_size: int, engine: str) -> int:
        ops = BlockOps(SwapOut(block, block) for block in range(256 // block_size))
        return price(Step(ops=ops), derive(block_size=block_size, engine=engine)).swaps

    # 256 tokens at 32 GB/s x 0.85, and 2.4 us a piece: one a block, or K and V of each of 40 layers.
    assert swap(256, "modern") == round(256 * 819_200 / 27.2e9 * TICKS_PER_SECOND) + 2_400_000
    assert swap(1, "modern") == pytest.approx(256 * (819_200 / 27.2e9 + 2.4e-6) * TICKS_PER_SECOND, rel=1e-8)
    assert swap(1, "vllm-2023") / swap(64, "vllm-2023") > 5


def test_tensor_parallel_shares_the_work_and_adds_all_reduces() -> None:
    one, four = derive(), derive(tensor_parallel=4)
    for name in ("weight_bytes", "flops_per_token", "attention_flops_per_pair", "kv_bytes_per_token"):
        assert getattr(four, name) == getattr(one, name) / 4
    assert one.all_reduces == one.all_reduce_bytes_per_token == 0
    assert four.all_reduces == 80
    # Two a layer, of 5120 fp16 elements, and 2 x 3/4 of them leave each device.
    assert four.all_reduce_bytes_per_token == 80 * 10_240 * 1.5
    step = decodes(8, context_tokens=4000, table_entries=256)
    alone, together = price(step, one), price(step, four)
    reduce = round(80 * 10_240 * 1.5 / 300e9 * TICKS_PER_SECOND)
    assert together.weights == round(26e9 / 4 / (0.9 * 1.555e12) * TICKS_PER_SECOND) + 8 * reduce
    assert together.overhead == alone.overhead + 80 * 10 * MICROSECOND
    assert together.duration < alone.duration


steps = st.builds(
    lambda num_decodes, context, chunks, copies, swaps, padding: Step(
        ops=BlockOps([*(Copy(0, 1, size) for size in copies), *(SwapOut(0, block) for block in range(swaps))]),
        prefills=[Chunk(sequence(stored), size, min(again, size)) for stored, size, again in chunks],
        num_decodes=num_decodes,
        context_tokens=num_decodes * context,
        table_entries=num_decodes * -(-context // 16),
        padding_tokens=padding,
    ),
    st.integers(0, 256),
    st.integers(1, 4096),
    st.lists(st.tuples(st.integers(0, 4096), st.integers(1, 2048), st.integers(0, 2048)), max_size=4),
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(0, 5),
    st.integers(0, 100),
)
models = st.sampled_from(
    [derive(), derive(tensor_parallel=5), derive(contiguous=True, block_size=1), derive(engine="vllm-2023"), SIMPLE]
)


@given(steps, models)
def test_the_parts_sum_to_the_duration(step: Step, given: Coefficients) -> None:
    result = price(step, given)
    assert result.duration == sum(result[1:])
    assert all(isinstance(part, int) for part in result)
    assert min(result) >= 0
    assert result.duration >= 1
    assert result == price(step, given)


@given(
    steps,
    models,
    st.sampled_from(["num_decodes", "context_tokens", "table_entries", "padding_tokens"]),
    st.integers(1, 500),
)
def test_more_work_never_takes_less_time(step: Step, given: Coefficients, count: str, more: int) -> None:
    before = price(step, given).duration
    setattr(step, count, getattr(step, count) + more)
    assert price(step, given).duration >= before


@given(steps, models, st.integers(0, 4096), st.integers(1, 2048))
def test_another_chunk_never_takes_less_time(step: Step, given: Coefficients, stored: int, size: int) -> None:
    before = price(step, given).duration
    step.prefills.append(Chunk(sequence(stored), size))
    assert price(step, given).duration >= before


@given(st.integers(1, 256), st.integers(1, 4096), st.integers(1, 1000), models)
def test_decode_steps_of_one_batch_are_an_arithmetic_series(
    num_decodes: int, context: int, num_steps: int, given: Coefficients
) -> None:
    """INV-10: many steps at once cost exactly what they cost one by one."""
    total = num_decodes * context
    first, second, last = (
        price(decodes(num_decodes, total + num_decodes * step), given).duration for step in (0, 1, num_steps)
    )
    assert last - first == num_steps * (second - first)


def test_every_coefficient_is_listed_with_unit_and_meaning() -> None:
    rows = {name: (value, meaning) for name, value, meaning in derive(tensor_parallel=2).rows()}
    assert list(rows) == list(Coefficients.__dataclass_fields__)
    assert rows["weight_bytes"][0] == "12.1 GiB (13,000,000,000 B)"
    assert rows["bandwidth"][0] == "1.555 TB/s"
    assert rows["link_bandwidth"][0] == "32 GB/s"
    assert rows["flops"][0] == "312 Tflop/s"
    assert rows["iteration"][0] == "1 ms"
    assert rows["table_entry"][0] == "20 ns"
    assert rows["attention_factor"][0] == "1.015"
    assert rows["all_reduces"][0] == "80"
    assert all(len(meaning) > 15 for _, meaning in rows.values())


def test_it_is_built_for_a_row_of_an_experiment() -> None:
    machine = Machine(
        model=OPT_13B,
        device=A100,
        tensor_parallel=2,
        dtype="float16",
        dtype_bytes=2,
        kv_bytes_per_token=409_600,
        block_size=8,
        contiguous=False,
        num_blocks=100,
        num_host_blocks=0,
        max_num_seqs=256,
        max_model_len=2048,
        seed=0,
    )
    built = CostModel.from_machine(machine, iteration="2 ms")
    assert built.coefficients == derive(tensor_parallel=2, block_size=8, iteration="2 ms")
    assert built.coefficients.kv_bytes_per_token == machine.kv_bytes_per_token


def test_a_coefficient_can_be_set_with_its_unit() -> None:
    given = derive(iteration="2 ms", bandwidth="1.4 TB/s", bandwidth_share=1, sequence=0.001)
    assert (given.iteration, given.bandwidth, given.sequence) == (2 * MILLISECOND, 1.4e12, MILLISECOND)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("iterration", "1 ms", "unknown coefficient of cost_model 'iterration'; .*did you mean 'iteration'"),
        ("engine", "vllm-2032", "unknown engine 'vllm-2032'; allowed: modern, vllm-2023; did you mean 'vllm-2023'"),
        ("engine", 3, "unknown engine 3; allowed: modern, vllm-2023"),
        ("iteration", "2 GiB", "cost_model: iteration: unknown unit 'GiB'"),
        ("iteration", -1, "cost_model: iteration: -1 is negative"),
        ("flops_share", 1.5, "flops_share: 1.5 is out of range; allowed: at least 1e-06 and at most 1"),
        ("flops_share", "half", "flops_share: 'half' is no number"),
        ("flops_share", float("nan"), "flops_share: nan is no number"),
        ("attention_factor", 0.5, "attention_factor: 0.5 is out of range; allowed: at least 1"),
        ("link_bandwidth", 0, "link_bandwidth: 0 is out of range; allowed: at least 1"),
        ("kv_bytes_per_token", 4, "kv_bytes_per_token follows from the rest of the experiment"),
    ],
)
def test_a_wrong_coefficient_is_one_sentence(option: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        derive(**{option: value})
    assert "\n" not in str(caught.value)


def test_a_run_of_blocks_is_one_transfer() -> None:
    run, singles = BlockOps([SwapOut(0, 0, 100)]), BlockOps([SwapOut(block, block) for block in range(100)])
    in_one, apart = (price(Step(ops=ops)).swaps for ops in (run, singles))
    assert apart - in_one == 99 * SIMPLE.transfers_per_block * SIMPLE.transfer


def test_overlapped_transfers_cost_what_the_rest_of_the_step_does_not_hide() -> None:
    beside = dataclasses.replace(SIMPLE, swap_overlap=1)
    few, many = BlockOps([SwapOut(0, 0)]), BlockOps([SwapOut(0, 0, 4000)])
    rest = price(decodes(8, context_tokens=800)).duration
    assert price(decodes(8, context_tokens=800, ops=few), beside).duration == rest
    longer = price(decodes(8, context_tokens=800, ops=many), beside)
    assert longer.duration == price(Step(ops=many)).swaps > rest
    assert longer.swaps == longer.duration - rest


@given(
    st.integers(0, 300),
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 2048), st.integers(0, 9)), max_size=3),
    st.integers(0, 5),
)
def test_the_tariff_says_what_a_step_costs(
    num_decodes: int, context_tokens: int, entries: int, chunks: list[tuple[int, int, int]], num_copied: int
) -> None:
    model = CostModel(SIMPLE)
    tariff = model.tariff()
    assert tariff is not None
    if not num_decodes and not chunks:
        num_decodes = 1
    step = Step(num_decodes=num_decodes, context_tokens=context_tokens, table_entries=entries)
    for stored, size, again in chunks:
        sequence = Sequence(Request(0, 0, stored + size, 8))
        sequence.num_stored = stored
        step.prefills.append(Chunk(sequence, size, min(again, size)))
    step.ops = BlockOps([Copy(block, block + 9) for block in range(num_copied)])
    weights, overhead = tariff.decodes(num_decodes)
    attention = tariff.context_token * context_tokens
    overhead += tariff.table_entry * entries
    prefill = recompute = 0
    if chunks:
        given_chunks = [(stored, size, min(again, size)) for stored, size, again in chunks]
        prefill, recompute, more = tariff.prompts(given_chunks, num_decodes)
        overhead += more
    copies = tariff.copies(num_copied) if num_copied else 0
    parts = (weights, attention, prefill, recompute, copies, 0, overhead)
    assert model.execute(step) == (sum(parts), *parts)


@given(st.integers(1, 300), st.integers(1, 10**6), st.integers(0, 10**5), st.integers(0, 3), st.integers(0, 50))
def test_decode_steps_are_an_arithmetic_series(
    num_decodes: int, context_tokens: int, entries: int, padding: int, ahead: int
) -> None:
    model = CostModel(SIMPLE)
    step = Step(num_decodes=num_decodes, context_tokens=context_tokens, table_entries=entries, padding_tokens=padding)
    result, added = model.execute(step), ahead * num_decodes * model.context_token
    step.context_tokens += ahead * num_decodes
    assert model.execute(step) == result._replace(duration=result.duration + added, attention=result.attention + added)


def test_a_model_that_takes_no_time_to_read_has_no_tariff() -> None:
    assert CostModel(dataclasses.replace(SIMPLE, kv_bytes_per_token=0)).tariff() is None
