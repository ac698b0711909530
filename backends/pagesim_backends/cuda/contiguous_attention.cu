// The same kernel without the table: a sequence is one run of slots. What it is faster by is what the block
// table costs. See decode_attention.cuh.
#define ADDRESSING CONTIGUOUS
#include "decode_attention.cuh"
