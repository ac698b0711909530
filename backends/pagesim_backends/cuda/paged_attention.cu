// Decode attention over a block table; macro SMALL_BLOCKS: blocks of 1 to 8 tokens. See decode_attention.cuh.
#define ADDRESSING (SMALL_BLOCKS ? PAGED_SMALL : PAGED)
#include "decode_attention.cuh"
