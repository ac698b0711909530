"""What a step that has ended means for its sequences: tokens, first tokens, ends."""

from __future__ import annotations

from pagesim.backend import Chunk, Step
from pagesim.schedulers import beams
from pagesim.schedulers.queues import Queues
from pagesim.sequence import Sequence


class Progress:
    """Counts the tokens of a step and frees the sequences that have ended.

    Args:
        queues: of the scheduler.
    """

    def __init__(self, queues: Queues) -> None:
        self.queues = queues

    def commit(self, step: Step, now: int) -> None:
        """Count the tokens of a step that ended at ``now``."""
        queues, journal = self.queues, self.queues.journal
        queues.now = now
        journal.iterations += 1
        for chunk in step.prefills:
            self._store(chunk)
        if step.num_decodes:
            queues.account.live += step.num_decodes
            journal.output_tokens += step.num_decodes
            for sequence in queues.decoding.tick(now, journal.gaps):
                queues.decoding.leave(sequence)
                sequence.last_token_at = now
                self._end(sequence)
        if queues.num_beamed:
            beams.select(queues)

    def _store(self, chunk: Chunk) -> None:
        """Count a chunk's tokens; the end of a prompt gives every sequence its first token."""
        queues, sequence, request = self.queues, chunk.sequence, chunk.sequence.request
        sequence.num_stored += chunk.num_tokens
        queues.account.live += chunk.num_tokens
        queues.journal.recomputed_tokens += chunk.num_recomputed
        request.num_recomputed += chunk.num_recomputed
        if sequence.num_stored < sequence.num_prefill:
            return
        del queues.prefilling[sequence]
        if not request.forked:
            generating = [each for each in request.sequences if not each.num_generated]
        elif request.beams is None:
            generating = [sequence]
        elif any(each in queues.prefilling for each in request.sequences):
            return  # beams go on in step: those that are computed again wait for the last of them
        else:
            generating = list(request.sequences)
        queues.ready[request] = None
        for each in generating:
            self._generate(each)

    def _generate(self, sequence: Sequence) -> None:
        """Count the token that a finished prefill gives."""
        queues, journal, request = self.queues, self.queues.journal, sequence.request
        if request.first_token_at is None:
            request.first_token_at = queues.now
            journal.prompt_tokens += request.prompt_tokens
        if sequence.num_generated and request.measured:
            journal.gaps.add(queues.now - sequence.last_token_at)
        sequence.num_generated += 1
        sequence.last_token_at = queues.now
        journal.output_tokens += 1
        if sequence.has_ended:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """Give a sequence's memory back; with its last sequence the request has finished."""
        queues, request = self.queues, sequence.request
        queues.memory.release(sequence)
        queues.num_seats -= 1
        request.num_live -= 1
        request.last_token_at = queues.now
        if not request.num_live:
            queues.finish(request)
