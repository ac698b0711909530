// Everything that fills or moves the KV cache: tokens into slots, blocks from here to there.
//
// Compiled for each element type (macro BF16).

#include "tokens.cuh"

struct TokenParams {
  const u32* keys;        // one a token
  element* query;         // [layers, tokens, query heads, head_dim]
  element* key;           // [layers, tokens, KV heads, head_dim]
  element* value;
  int num_tokens, num_layers, num_query_heads, num_kv_heads, head_dim, first_layer;
};

// Draw q, K and V of some layers. Grid: (tokens, layers); a thread makes four elements at a time.
extern "C" __global__ void draw_tokens(const __grid_constant__ TokenParams p) {
  const int token = blockIdx.x, layer = blockIdx.y;
  const int words = p.head_dim / 4, query_words = p.num_query_heads * words, kv_words = p.num_kv_heads * words;
  const u32 key = p.keys[token];
  const long long row = (long long)layer * p.num_tokens + token;
  for (int i = threadIdx.x; i < query_words + 2 * kv_words; i += blockDim.x) {
    const What what = i < query_words ? QUERY : i < query_words + kv_words ? KEY : VALUE;
    const int within = what == QUERY ? i : what == KEY ? i - query_words : i - query_words - kv_words;
    const uint2 drawn = token_elements(key, p.first_layer + layer, what, within / words, within % words);
    element* to = what == QUERY ? p.query + row * p.num_query_heads * p.head_dim
                                : (what == KEY ? p.key : p.value) + row * p.num_kv_heads * p.head_dim;
    reinterpret_cast<uint2*>(to)[within] = drawn;
  }
}

struct WriteParams {
  const element* key;     // [tokens, KV heads, head_dim]
  const element* value;
  element* key_pool;      // of this layer
  element* value_pool;
  const int* slots;       // one a token
  long long block_stride, token_stride, head_stride;  // of the pool, in elements
  int num_tokens, num_kv_heads, head_dim, log2_block_size;
};

// Store K and V of new tokens in their slots. Eight elements a thread; grid: enough for all of them.
extern "C" __global__ void write_tokens(const __grid_constant__ WriteParams p) {
  let_next_start();
  wait_for_previous();
  const int vectors = p.head_dim / 8, row = p.num_kv_heads * vectors;
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (long long)p.num_tokens * row) return;
  const int token = i / row, within = i % row, head = within / vectors, vector = within % vectors;
  const int slot = p.slots[token];
  const long long offset = (slot >> p.log2_block_size) * p.block_stride +
                           (slot & ((1 << p.log2_block_size) - 1)) * p.token_stride + head * p.head_stride + 8 * vector;
  *reinterpret_cast<uint4*>(p.key_pool + offset) = reinterpret_cast<const uint4*>(p.key)[i];
  *reinterpret_cast<uint4*>(p.value_pool + offset) = reinterpret_cast<const uint4*>(p.value)[i];
}

struct MoveParams {
  const char* source;
  char* target;
  const int2* blocks;     // (source block, target block)
  long long source_stride, target_stride;              // bytes from a block to the next
  long long source_piece_stride, target_piece_stride;  // bytes from a block's piece to its next
  long long piece_bytes;  // a multiple of 16
  u32 num_blocks, num_pieces;
  u32 stretch;            // threads that move adjacent vectors: a power of two, 16 to 256
};

// Copy blocks, piece by piece: within the pool, between the pool and a staging buffer, or to and from mapped
// host memory. No target may be another's source. A thread keeps eight 16-byte loads in flight, each of a
// different stretch of threads: a stretch (p.stretch threads, 16 to 256) is no longer than a piece, so that pieces
// of 2 KiB keep all threads busy too. Thread blocks stride over tiles of eight times 256 vectors, so the grid
// may be as small as the caller wants to disturb others.
extern "C" __global__ void __launch_bounds__(256) move_blocks(const __grid_constant__ MoveParams p) {
  constexpr int DEPTH = 8;
  const u32 vectors = p.piece_bytes / 16;
  const u32 stretches = (vectors + p.stretch - 1) / p.stretch;  // of a piece
  const u32 per_row = blockDim.x / p.stretch;                   // stretches side by side in the thread block
  const u32 mine = threadIdx.x / p.stretch, within = threadIdx.x % p.stretch;
  const u32 all = p.num_blocks * p.num_pieces * stretches;      // 2^32 of them would be a terabyte
  const u32 tiles = (all + per_row * DEPTH - 1) / (per_row * DEPTH);
  for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
    uint4 held[DEPTH];
    uint4* to[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      const u32 stretch = (i * DEPTH + k) * per_row + mine;
      const u32 piece = stretch / stretches, vector = stretch % stretches * p.stretch + within;
      to[k] = nullptr;
      if (stretch >= all || vector >= vectors) continue;
      const int2 block = p.blocks[piece / p.num_pieces];
      const u32 part = piece % p.num_pieces;
      const char* from = p.source + block.x * p.source_stride + part * p.source_piece_stride;
      to[k] = reinterpret_cast<uint4*>(p.target + block.y * p.target_stride + part * p.target_piece_stride) + vector;
      held[k] = reinterpret_cast<const uint4*>(from)[vector];
    }
#pragma unroll
    for (int k = 0; k < DEPTH; ++k)
      if (to[k] != nullptr) *to[k] = held[k];
  }
}

struct ReadParams {
  const element* source;
  u32* sink;
  long long num_vectors;  // of 16 bytes
};

// Read every byte once and do nothing with it: the ceiling that a kernel which reads this much can reach.
// Thread blocks stride over tiles of eight 16-byte loads a thread.
extern "C" __global__ void read_all(const __grid_constant__ ReadParams p) {
  constexpr int DEPTH = 8;
  let_next_start();
  u32 all = 0;
  const long long tile = (long long)blockDim.x * DEPTH;
  for (long long first = blockIdx.x * tile + threadIdx.x; first < p.num_vectors; first += gridDim.x * tile) {
    uint4 held[DEPTH];
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      const long long v = min(first + (long long)k * blockDim.x, p.num_vectors - 1);
      held[k] = load16(p.source + 8 * v);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) all ^= held[k].x ^ held[k].y ^ held[k].z ^ held[k].w;
    wait_for_previous();  // after the first loads, as decode attention does
  }
  if (all == 0x12345678u) *p.sink = all;  // keeps the loads; random data hardly ever gets here
}
