"""The loop: what the scheduler, the allocator and the recorder do in plain runs, over plain numbers.

One pass is one iteration, or several that are alike. It follows ``Mixed`` or ``PrefillFirst`` step by step:

    decodes    everybody who is ready joins, and takes the blocks that the next token needs
    prompts    those that are half stored go on, then those that wait are admitted
    price      what the step costs; the tariff of the backend says it
    meanwhile  requests arrive, and marks of the recorder pass
    commit     tokens, first tokens, ends

What cannot be decided from numbers (a victim that is a plug-in, a swap) is left to the scheduler: the loop ends
between two steps, and ``exchange`` turns the numbers back into requests.
"""

from __future__ import annotations

from typing import Final

from pagesim.fastlane import asking, room
from pagesim.fastlane.arrivals import NEVER
from pagesim.fastlane.ledger import Counters, State, Sums
from pagesim.fastlane.state import (
    ADMITTED,
    CAPACITY,
    END,
    FIRST,
    ID,
    LAST,
    LENGTH,
    NONE_YET,
    OUTPUT,
    REQUEST,
    RESIDUE,
    SHAPE,
    STORED,
    Lane,
    Record,
)
from pagesim.journal import GapHistogram
from pagesim.sequence import SequenceStatus

LOAD, MEMORY, SEQUENCES, TOKENS = range(4)  # as record.REASONS
MOST_AT_ONCE: Final = 256


def drive(lane: Lane, time: int) -> int:
    """Serve from ``time`` on; return when the loop ends: nobody has begun a step then.

    The state is in ``lane``. At the horizon the last step is in flight, and its state is what holds.
    """
    # Constants of the run.
    size, num_blocks, watermark = lane.block_size, lane.num_blocks, lane.watermark
    n, shares, counts = lane.num_sequences, lane.shares_forks, lane.counts_blocks
    most_seqs, most_tokens, chunks_prompts = lane.max_num_seqs, lane.max_num_batched_tokens, lane.chunks_prompts
    prompts_first, is_stable = lane.prompts_first, lane.is_stable
    asks_again, bits = prompts_first and not is_stable, GapHistogram.PRECISION_BITS
    context_token, table_entry, fixed = lane.tariff.context_token, lane.tariff.table_entry, lane.fixed
    price_prompts, add_rows, arrivals, horizon = lane.tariff.prompts, lane.recorder.add_row, lane.arrivals, lane.horizon
    measured_from, measured_end = lane.measured_from, lane.measured_end
    instants, prompts, outputs = arrivals.instants, arrivals.prompts, arrivals.outputs
    order = (False, True) if prompts_first else (True, False)  # is it the decodes' turn?
    # The batch.
    running, ready, prefilling, front = lane.running, lane.ready, lane.prefilling, lane.front
    ending, pace, never_at, due_at = lane.ending, lane.pace, lane.never_at, lane.due_at
    clock, seats, last_tick = lane.clock, lane.seats, lane.last_tick
    num_decodes = context_base = entries = num_measured = 0  # those that decode already are among the ready ones
    # The queue.
    head, coming, num_waiting = lane.head, lane.coming, lane.num_waiting  # num_waiting: without the front
    first, loaded = arrivals.first, arrivals.end
    arrival = arrivals.instant(coming, head)
    first, loaded = arrivals.first, arrivals.end
    refused_id, refused_at, asked_id, generation = lane.refused_id, lane.refused_at, lane.asked_id, lane.generation
    # The account.
    held, live, internal, external, extra = lane.held, lane.live, lane.internal, lane.external, lane.extra
    free = num_blocks - held
    largest_run, is_moved = asking.largest_run(lane), False
    # Sums over time.
    ledger = lane.ledger
    totals = ledger.totals
    i_live = i_held = i_internal = i_external = i_extra = i_refused = i_running = i_run = 0
    waited = -(num_waiting + len(front)) * time  # plus the number that wait times now: their time together
    weights = overhead = contexts = tables = 0
    num_iterations = num_output = num_first = num_retry = 0
    counts_of_gaps, longest_gap = lane.gaps.counts, lane.gaps.maximum
    reason, refused, since, peak = lane.reason, False, time, 0
    next_mark = lane.recorder.next_mark
    stop = next_mark if next_mark < horizon else horizon
    late: list[tuple[int, int]] = []  # (last token, sequences) of measured newcomers who are not in step yet
    num_late = 0
    known, known_sizes = None, (0, 0, 0)  # a request at the front that has been looked at

    while True:
        chunks: list[tuple[int, int, int]] = []
        filling: list[tuple[Record, int, int]] = []
        num_copied = num = more_entries = 0
        hold, is_refused, has_preempted = LOAD, False, False
        if asks_again and (num_waiting or front) and asking.to_ask(lane, clock):
            break  # the scheduler would ask for the queue's head a second time
        for is_decodes_turn in order:
            if is_decodes_turn:
                if chunks and prompts_first:
                    break
                # Room for the next token of everybody.
                if counts:
                    need = pace[clock % size]
                    if ready:
                        for rec in ready:
                            if not rec[LENGTH] % size:
                                need += n
                            if n > 1:
                                partial = rec[LENGTH] % size > 0
                                need += (n - 1) * (partial if shares else -(-rec[LENGTH] // size))
                    if need > free:
                        # Not for all. Somebody has to go.
                        if not room.can_preempt(lane):
                            num = -1
                            break
                        gone = room.make_room(lane, clock, last_tick, free)
                        if gone.requests:
                            has_preempted, known = True, None
                            waited -= gone.requests * time
                            seats -= gone.requests
                            generation += gone.requests
                            num_decodes -= gone.decodes
                            context_base -= gone.context
                            entries -= gone.entries
                            num_measured -= gone.measured
                            held -= gone.blocks
                            free += gone.blocks
                            live -= gone.stored
                            internal -= gone.never
                        need = gone.granted
                        if need > free:
                            num = -1
                            break
                elif ready or clock in due_at:
                    need = 0
                    asked = asking.to_ask(lane, clock)
                    if asked:
                        if prompts_first:  # once they are asked, the prompts' turn could not be taken again
                            num = -1
                            break
                        grown = asking.ask(lane, asked, clock)
                        held += grown.blocks
                        free -= grown.blocks
                        internal += grown.internal
                        external += grown.external
                        entries += grown.entries
                        generation, is_moved = lane.pool.generation, True
                        if grown.refused:
                            num = -1
                            break
                        num_copied += grown.copied
                else:
                    need = 0
                if ready:
                    for rec in ready:
                        length, output = rec[LENGTH], rec[OUTPUT]
                        end_clock = rec[END] = clock + output - 1
                        if end_clock in ending:
                            ending[end_clock].append(rec)
                        else:
                            ending[end_clock] = [rec]
                        if counts:
                            over = length % size
                            residue = rec[RESIDUE] = (clock - over) % size
                            pace[residue] += n
                            final = length + output - 1
                            beyond = final % size
                            if beyond and final - beyond >= length:
                                last_at = clock + final - beyond - length
                                never_at[last_at] = never_at.get(last_at, 0) + n * (size - beyond)
                            entries += n * (-(-length // size))
                            if n > 1:
                                whole = length // size if shares else 0
                                live += (n - 1) * (length - whole * size)
                                blocks = n - 1 if over else 0
                                if not shares:
                                    blocks = (n - 1) * -(-length // size)
                                num_copied += blocks
                                held += blocks
                                free -= blocks
                                need -= blocks
                                extra += (n - 1) * whole
                                if over and final < length - over + size:
                                    internal += (n - 1) * (length - over + size - final)
                        else:
                            entries += rec[SHAPE][0]
                            if rec[CAPACITY] < length + output - 1:
                                asking.enter_due(lane, rec, clock)
                        num_decodes += n
                        context_base += n * (length - clock)
                        request = rec[REQUEST]
                        if measured_from <= rec[ID] < measured_end if request is None else request.measured:
                            num_measured += n
                            if rec[LAST] != time:
                                late.append((rec[LAST], n))
                                num_late += n
                            elif last_tick != time:
                                late.append((time, n))
                                num_late += n
                    ready.clear()
                if need:
                    held += need
                    free -= need
                    entries += need
                    internal += never_at.pop(clock, 0)
                num = num_decodes
                if has_preempted:
                    hold, is_refused = MEMORY, False
                    if prompts_first and not num:
                        num = -1  # everybody had to go: whoever waits may come in, in the same step
                        break
                continue
            # Prompts: chunks of those that are half stored, then of those that wait.
            budget = most_tokens if prompts_first else most_tokens - num
            for rec in prefilling:
                tokens = rec[LENGTH] - rec[STORED]
                if budget < 1 or (tokens > budget and not chunks_prompts):
                    break
                if tokens > budget:
                    tokens = budget
                budget -= tokens
                request = rec[REQUEST]
                again = 0 if request is None else lane.num_again(rec, tokens)
                chunks.append((rec[STORED], tokens, again))
                filling.append((rec, tokens, again))
                more_entries += -(-rec[LENGTH] // size) if counts else len(rec[REQUEST].sequences[0].block_table)
            if has_preempted:
                if not (num or chunks):
                    num = -1
                    break
                continue
            while num_waiting or front:
                if seats + n > most_seqs:
                    hold = SEQUENCES
                    break
                if front:
                    request = front[0]
                    if request is not known:
                        known = request
                        if request.num_preemptions_recompute:
                            known_sizes = lane.sizes(request)
                        else:
                            known_sizes = request.id, request.prompt_tokens, request.output_tokens
                    number, length, output = known_sizes
                else:
                    while not prompts[head - first]:
                        head += 1
                    request, number, length, output = None, head, prompts[head - first], outputs[head - first]
                if budget < 1 or (length > budget and not chunks_prompts):
                    hold = TOKENS
                    break
                if number == refused_id and generation == refused_at and is_stable:
                    hold, is_refused = MEMORY, True
                    break
                if request is None and not counts:  # the policy is asked for a request, not for a number
                    front.append(lane.make(number))
                    head += 1
                    num_waiting -= 1
                    continue
                is_known = number == asked_id if request is None else request.fits_alone
                if request is not None and request.num_preemptions_recompute:
                    lane.journal.lookups_preempted += 1
                elif is_known:
                    num_retry += 1
                else:
                    num_first += 1
                floor = watermark if running else 0
                if counts:
                    blocks = -(-length // size)
                    is_admitted = blocks <= free - floor
                else:
                    granted = asking.admit(lane, request, floor)
                    is_admitted = granted is not None
                if not is_admitted:
                    if not is_known and (blocks > num_blocks if counts else asking.never(lane, request)):
                        waited += time
                        if front:
                            front.popleft()
                        else:
                            head += 1
                            num_waiting -= 1
                        lane.refuse(number, request, f"never fits: an empty pool does not admit {length} tokens")
                        continue
                    refused_id = number
                    if request is None:
                        asked_id = number
                    else:
                        request.fits_alone = True
                    refused_at = generation
                    hold, is_refused = MEMORY, True
                    break
                waited += time
                if front:
                    front.popleft()
                else:
                    head += 1
                    num_waiting -= 1
                admitted = time if request is None or request.admitted_at is None else request.admitted_at
                rec = [number, length, output, 0, admitted, NONE_YET, 0, 0, 0, 0, None, request]
                running[number] = rec
                seats += n
                if counts:
                    held += blocks
                    free -= blocks
                    more_entries += blocks
                    beyond = blocks * size - length - output + 1
                    if beyond > 0:
                        internal += beyond
                else:
                    num_copied += granted or 0
                    request.status, request.admitted_at = SequenceStatus.RUNNING, admitted
                    shape = rec[SHAPE] = asking.shape(lane, rec)
                    held += shape[0]
                    free -= shape[0]
                    internal += shape[1]
                    external += shape[2]
                    more_entries += shape[0]
                    generation, is_moved = lane.pool.generation, True
                tokens = length if length <= budget else budget
                budget -= tokens
                again = 0
                if request is not None and request.num_preemptions_recompute:
                    again = lane.num_again(rec, tokens)
                chunks.append((0, tokens, again))
                filling.append((rec, tokens, again))
                if tokens < length:
                    prefilling.append(rec)
        if num < 0:
            break  # the scheduler decides, beginning with this step
        if is_moved:
            largest_run, is_moved = asking.largest_run(lane), False
        num_running = len(running)
        if num_running > peak:
            peak = num_running
        if hold != reason:
            totals.reasons[reason] += time - since
            reason, since = hold, time
        refused = is_refused

        if not (num or chunks):
            if num_waiting or front or arrival >= horizon or arrival == NEVER:
                break  # the scheduler says why, or there is nothing left to do
            # Idle until the next arrival.
            while next_mark <= arrival:
                span = next_mark - time
                totals.idle += span
                i_held += held * span
                i_run += largest_run * span
                time = next_mark
                ledger.publish(
                    time,
                    Counters(
                        coming,
                        num_iterations,
                        num_output,
                        num_first,
                        num_retry,
                        weights,
                        overhead,
                        contexts,
                        tables,
                        peak,
                    ),
                    Sums(i_live, i_held, i_internal, i_external, i_extra, i_refused, i_running, i_run, waited),
                    State(live, held, internal, external, extra, refused, num_running, largest_run, 0),
                    reason,
                    since,
                )
                next_mark, peak = ledger.mark(), num_running
                stop = next_mark if next_mark < horizon else horizon
            span = arrival - time
            totals.idle += span
            i_held += held * span
            i_run += largest_run * span
            time = arrival
        else:
            # What the step costs.
            if num:
                context = context_base + num * (clock + 1)
                more_entries += entries
                contexts += context
            else:
                context = 0
            try:
                weight, over = fixed[num]
            except KeyError:
                weight, over = fixed[num] = lane.tariff.decodes(num)
            weights += weight
            overhead += over
            tables += more_entries
            duration = weight + over + context_token * context + table_entry * more_entries
            if chunks:
                fill, again, over = price_prompts(chunks, num)
                totals.prefill += fill
                totals.recompute += again
                overhead += over
                duration += fill + again + over
            elif not (num_copied or has_preempted):
                # Steps that are alike: up to the next end, block, arrival or mark.
                ahead = clock + 1
                if (
                    not pace[ahead % size]
                    and ahead not in ending
                    and last_tick == time
                    and not num_late
                    and (is_stable or hold != MEMORY)
                ):
                    most = clock + MOST_AT_ONCE
                    while ahead < most and ahead not in due_at:
                        ahead += 1
                        if ahead in ending:
                            ahead -= 1
                            break
                        if pace[ahead % size]:
                            break
                    steps = ahead - clock
                    slope = context_token * num
                    span = (stop if stop < arrival else arrival) - time - 1
                    if steps * (duration + steps * slope) > span:
                        steps = min(steps, span // (duration + steps * slope))
                    if steps > 1:
                        pairs = steps * (steps - 1) // 2
                        span = steps * duration + slope * pairs
                        i_live += live * span + num * (duration * pairs + slope * (pairs * (2 * steps - 1) // 3))
                        i_held += held * span
                        i_internal += internal * span
                        i_external += external * span
                        i_extra += extra * span
                        i_running += num_running * span
                        i_run += largest_run * span
                        if is_refused:
                            i_refused += free * span
                        weights += weight * (steps - 1)
                        overhead += over * (steps - 1)
                        tables += more_entries * (steps - 1)
                        contexts += context * (steps - 1) + num * pairs
                        live += num * steps
                        num_output += num * steps
                        num_iterations += steps
                        clock += steps
                        time += span
                        last_tick = time
                        if num_measured:
                            lane.gaps.add_series(duration, slope, steps, num_measured)
                            if lane.gaps.maximum > longest_gap:
                                longest_gap = lane.gaps.maximum
                        continue
            if num_copied:
                cost = lane.tariff.copies(num_copied)
                totals.copies += cost
                totals.copied_blocks += num_copied
                duration += cost

            # Meanwhile marks pass.
            end = time + duration
            if end >= stop:
                while next_mark <= end and next_mark < horizon:
                    coming, arrival, count, instants_of = lane.receive(coming, next_mark, head)
                    num_waiting += count
                    waited -= instants_of
                    first, loaded = arrivals.first, arrivals.end
                    span = next_mark - time
                    ledger.publish(
                        next_mark,
                        Counters(
                            coming,
                            num_iterations,
                            num_output,
                            num_first,
                            num_retry,
                            weights,
                            overhead,
                            contexts,
                            tables,
                            peak,
                        ),
                        Sums(
                            i_live + live * span,
                            i_held + held * span,
                            i_internal + internal * span,
                            i_external + external * span,
                            i_extra + extra * span,
                            i_refused + (free * span if refused else 0),
                            i_running + num_running * span,
                            i_run + largest_run * span,
                            waited,
                        ),
                        State(
                            live,
                            held,
                            internal,
                            external,
                            extra,
                            refused,
                            num_running,
                            largest_run,
                            num_waiting + len(front),
                        ),
                        reason,
                        since,
                    )
                    next_mark, peak = ledger.mark(), num_running
                    stop = next_mark if next_mark < horizon else horizon
                if end >= horizon:
                    lane.is_cut_off = True
                    end = horizon
                    coming, arrival, count, instants_of = lane.receive(coming, horizon, head)
                    num_waiting += count
                    waited -= instants_of
                    duration = end - time
            i_live += live * duration
            i_held += held * duration
            i_internal += internal * duration
            i_running += num_running * duration
            if is_refused:
                i_refused += free * duration
            if n > 1:
                i_extra += extra * duration
            if not counts:
                i_external += external * duration
                i_run += largest_run * duration
            time = end
            if lane.is_cut_off:
                lane.granted = clock + (num > 0)  # the decodes of the step in flight have their blocks
                break

        # Who has arrived, those included that arrive at this instant.
        while arrival <= time:
            if prompts[coming - first]:
                num_waiting += 1
                waited -= arrival
            else:
                lane.refuse_long(coming)
            coming += 1
            if coming < loaded:
                arrival = instants[coming - first]
            else:
                arrival = arrivals.instant(coming, lane.oldest(head))
                first, loaded = arrivals.first, arrivals.end
        if not (num or chunks):
            continue

        # Tokens.
        num_iterations += 1
        if chunks:
            for rec, tokens, again in filling:
                if again:
                    totals.recomputed += again
                    rec[REQUEST].num_recomputed += again
                rec[STORED] += tokens
                live += tokens
                length = rec[LENGTH]
                if rec[STORED] < length:
                    continue
                if tokens < length:
                    prefilling.remove(rec)
                rec[LAST] = time
                request = rec[REQUEST]
                if (
                    request is None
                    or not request.num_preemptions_recompute  # nobody who has tokens stores a prompt again
                    or lane.is_first_token(rec, time)
                ):
                    rec[FIRST] = time
                    totals.prompt_tokens += length
                elif lane.gaps.maximum > longest_gap:
                    longest_gap = lane.gaps.maximum
                num_output += n
                if rec[OUTPUT] > 1:
                    ready.append(rec)
                    continue
                # It has its only token.
                if counts:
                    blocks = -(-length // size)
                    held -= blocks
                    free += blocks
                    internal -= blocks * size - length
                    generation += 1
                else:
                    shape = rec[SHAPE]
                    held -= shape[0]
                    free += shape[0]
                    internal -= shape[1]
                    external -= shape[2]
                live -= length
                seats -= n
                del running[rec[ID]]
                lane.finish(rec, time)
                if not counts:
                    generation, is_moved = lane.pool.generation, True
        if num:
            num_output += num
            live += num
            clock += 1
            gap_count = num_measured
            if num_late:
                for last, count in late:
                    gap = time - last
                    shift = gap.bit_length() - bits
                    bucket = gap >> shift << shift if shift > 0 else gap
                    counts_of_gaps[bucket] = counts_of_gaps.get(bucket, 0) + count
                    if gap > longest_gap:
                        longest_gap = gap
                gap_count -= num_late
                late.clear()
                num_late = 0
            if gap_count:
                gap = time - last_tick
                shift = gap.bit_length() - bits
                bucket = gap >> shift << shift if shift > 0 else gap
                counts_of_gaps[bucket] = counts_of_gaps.get(bucket, 0) + gap_count
                if gap > longest_gap:
                    longest_gap = gap
            last_tick = time
            if clock in ending:
                for rec in ending.pop(clock):
                    number, length, output, request = rec[ID], rec[LENGTH], rec[OUTPUT], rec[REQUEST]
                    final = length + output - 1
                    del running[number]
                    seats -= n
                    num_decodes -= n
                    context_base -= n * (final - clock)
                    if counts:
                        blocks = -(-final // size)
                        entries -= n * blocks
                        pace[rec[RESIDUE]] -= n
                        internal -= n * (blocks * size - final)
                        if n > 1:
                            whole = length // size if shares else 0
                            extra -= (n - 1) * whole
                            live -= n * final - (n - 1) * whole * size
                            blocks = n * blocks - (n - 1) * whole
                        else:
                            live -= final
                        held -= blocks
                        free += blocks
                        generation += 1
                    else:
                        shape = rec[SHAPE]
                        held -= shape[0]
                        free += shape[0]
                        internal -= shape[1]
                        external -= shape[2]
                        entries -= shape[0]
                        live -= final
                    if request is None:
                        is_measured = measured_from <= number < measured_end
                        add_rows(
                            (
                                number,
                                instants[number - first],
                                prompts[number - first],
                                outputs[number - first],
                                n,
                                rec[ADMITTED],
                                rec[FIRST],
                                time,
                                0,
                                0,
                                0,
                                is_measured,
                                0,
                                0,
                            )
                        )
                        totals.finished += 1
                        if is_measured:
                            num_measured -= n
                    else:
                        if request.measured:
                            num_measured -= n
                        if request.num_preemptions_recompute or request.num_preemptions_swap or n > 1:
                            lane.finish(rec, time)
                        else:
                            lane.give_back(request.sequences[0])
                            add_rows(
                                (
                                    *(number, request.arrival, request.prompt_tokens, request.output_tokens, 1),
                                    *(rec[ADMITTED], rec[FIRST], time, 0, 0, 0, request.measured, 0, 0),
                                )
                            )
                            totals.finished += 1
                    if not counts:
                        generation, is_moved = lane.pool.generation, True

    lane.gaps.maximum = longest_gap
    ledger.publish(
        time,
        Counters(coming, num_iterations, num_output, num_first, num_retry, weights, overhead, contexts, tables, peak),
        Sums(i_live, i_held, i_internal, i_external, i_extra, i_refused, i_running, i_run, waited),
        State(live, held, internal, external, extra, refused, len(running), largest_run, num_waiting + len(front)),
        reason,
        since,
    )
    lane.clock, lane.seats, lane.last_tick = clock, seats, last_tick
    if not lane.is_cut_off:
        lane.granted = clock
    lane.head, lane.coming, lane.num_waiting = head, coming, num_waiting
    lane.refused_id, lane.refused_at, lane.asked_id, lane.generation = refused_id, refused_at, asked_id, generation
    lane.held, lane.live, lane.internal, lane.external, lane.extra = held, live, internal, external, extra
    return time
