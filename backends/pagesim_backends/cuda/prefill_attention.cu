// Prefill attention: a chunk of a prompt attends, causally, to itself and to what is already in the cache.
//
// Compiled for each HEAD_DIM and BF16, and IS_CONTIGUOUS: a sequence is one run of slots, without a table.
// NUM_WARPS, MIN_BLOCKS and KEYS (of a tile) are chosen by kernels.py for each head size.
//
// A thread block computes 16 rows a warp of one KV head. A row is (token, query head of the group): row r
// of a chunk is token r / group, head r % group, so a group shares each load of K and V. Key tiles go through
// shared memory, two at a time: while one is computed with, cp.async brings the next.
//
//     S[row, key]   = Q[row, :] . K[key, :]        A = Q (registers), B = K^T
//     O[row, dim]  += P[row, key] V[key, dim]      A = P (the accumulator of S, packed), B = V
//
// K's rows in shared memory are 64 bytes past a multiple of 128 apart, so that the 16-byte reads of two rows
// meet no bank twice: lane (g, t) reads bytes 64 j + 16 t of key g, which feed two products (the contraction is
// permuted as in decode_attention.cuh). V is read by ldmatrix.trans, whose eight rows of 16 bytes want a
// distance of 16 past a multiple of 128, or another odd multiple of 16.

#include "fragments.cuh"

constexpr int THREADS = NUM_WARPS * WARP;
constexpr int ROWS = 16 * NUM_WARPS;                    // of a thread block
constexpr int SPANS = HEAD_DIM / 32;
constexpr bool TAIL = HEAD_DIM % 32 != 0;               // head size 80
constexpr int K_ROW = HEAD_DIM + (96 - HEAD_DIM % 64) % 64;  // elements; 32 past a multiple of 64
constexpr int V_ROW = HEAD_DIM + 8;
constexpr int VECTORS = HEAD_DIM / 8;                   // 16-byte vectors of a row
constexpr int STAGE = KEYS * (K_ROW + V_ROW);           // elements
constexpr float NEVER = -1e30f;

struct PrefillItem {   // 32 bytes
  int first_row;       // of the chunk
  int num_rows;        // of the chunk: its tokens times the group
  int first_token;     // row of queries and outputs at which the chunk begins
  int stored;          // tokens of the sequence before the chunk
  int table;           // first entry of the sequence in block_tables; without tables its first slot
  int unused[3];
};

struct PrefillParams {
  const element* query;   // [tokens, query heads, HEAD_DIM]
  const element* key;     // pool of this layer; strides in elements
  const element* value;
  element* output;        // as query
  const PrefillItem* items;
  const int* block_tables;
  long long block_stride, token_stride, head_stride;
  float scale;            // of scores, times log2(e)
  int num_query_heads, group, log2_block_size;
};

// Ask for keys first .. first + KEYS - 1 of the sequence; those past the last one are copies of it.
__device__ __forceinline__ void fetch(const PrefillParams& p, const PrefillItem& item, int kv_head, int first, int num_keys,
                                      element* stage) {
  for (int i = threadIdx.x; i < KEYS * VECTORS; i += THREADS) {
    const int row = i / VECTORS, vector = i % VECTORS, token = min(first + row, num_keys - 1);
#if IS_CONTIGUOUS
    const long long offset = (long long)(item.table + token) * p.token_stride + kv_head * p.head_stride + 8 * vector;
#else
    const long long block = p.block_tables[item.table + (token >> p.log2_block_size)];
    const long long offset = block * p.block_stride + (token & ((1 << p.log2_block_size) - 1)) * p.token_stride +
                             kv_head * p.head_stride + 8 * vector;
#endif
    copy16(stage + row * K_ROW + 8 * vector, p.key + offset);
    copy16(stage + KEYS * K_ROW + row * V_ROW + 8 * vector, p.value + offset);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) prefill_attention(const __grid_constant__ PrefillParams p) {
  extern __shared__ float4 dynamic[];
  element* stages = reinterpret_cast<element*>(dynamic);
  let_next_start();
  const PrefillItem item = p.items[blockIdx.x];
  wait_for_previous();  // every block, an empty one too: what follows counts on the end of all that came before
  if (item.first_row >= item.num_rows) return;
  const int kv_head = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

  // This warp's rows g and g + 8; a row past the chunk's end computes the last one again and is not stored.
  long long offset[2];
  int position[2];
  const int my_row = item.first_row + 16 * warp + g;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = min(my_row + 8 * i, item.num_rows - 1);
    position[i] = item.stored + row / p.group;
    offset[i] = ((long long)(item.first_token + row / p.group) * p.num_query_heads + kv_head * p.group + row % p.group) * HEAD_DIM;
  }
  const int last_row = min(item.first_row + ROWS, item.num_rows) - 1;
  const int num_keys = item.stored + last_row / p.group + 1;
  const int first_position = item.stored + item.first_row / p.group;

  fetch(p, item, kv_head, 0, num_keys, stages);
  commit_copies();

  uint4 near[SPANS], far[SPANS];
  uint2 near_tail, far_tail;
#pragma unroll
  for (int j = 0; j < SPANS; ++j) {
    near[j] = *reinterpret_cast<const uint4*>(p.query + offset[0] + 32 * j + 8 * t);
    far[j] = *reinterpret_cast<const uint4*>(p.query + offset[1] + 32 * j + 8 * t);
  }
  if (TAIL) {
    near_tail = *reinterpret_cast<const uint2*>(p.query + offset[0] + 32 * SPANS + 4 * t);
    far_tail = *reinterpret_cast<const uint2*>(p.query + offset[1] + 32 * SPANS + 4 * t);
  }
  float output[HEAD_DIM / 8][4];
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 8; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k) output[i][k] = 0.f;
  float top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f};

  const int num_tiles = (num_keys + KEYS - 1) / KEYS;
  for (int tile = 0; tile < num_tiles; ++tile) {
    const element* stage = stages + tile % 2 * STAGE;
    if (tile + 1 < num_tiles) fetch(p, item, kv_head, (tile + 1) * KEYS, num_keys, stages + (tile + 1) % 2 * STAGE);
    commit_copies();
    wait_for_all_but_one_group();
    __syncthreads();

    float score[KEYS / 8][4];
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
      for (int k = 0; k < 4; ++k) score[n][k] = 0.f;
      const element* row = stage + (8 * n + g) * K_ROW;
#pragma unroll
      for (int j = 0; j < SPANS; ++j) {
        const uint4 key = *reinterpret_cast<const uint4*>(row + 32 * j + 8 * t);
        mma(score[n], near[j].x, far[j].x, near[j].y, far[j].y, key.x, key.y);
        mma(score[n], near[j].z, far[j].z, near[j].w, far[j].w, key.z, key.w);
      }
      if (TAIL) {
        const uint2 key = *reinterpret_cast<const uint2*>(row + 32 * SPANS + 4 * t);
        mma(score[n], near_tail.x, far_tail.x, near_tail.y, far_tail.y, key.x, key.y);
      }
    }

    // Scale; mask what lies after the row's position (only the last tiles hold any).
    const bool masked = tile * KEYS + KEYS - 1 > first_position;
    float highest[2] = {NEVER, NEVER};
#pragma unroll
    for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        score[n][k] *= p.scale;
        if (masked && tile * KEYS + 8 * n + 2 * t + k % 2 > position[k / 2]) score[n][k] = NEVER;
        highest[k / 2] = fmaxf(highest[k / 2], score[n][k]);
      }
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // over t: the four lanes that share a row
      highest[i] = fmaxf(highest[i], __shfl_xor_sync(ALL_LANES, highest[i], 1));
      highest[i] = fmaxf(highest[i], __shfl_xor_sync(ALL_LANES, highest[i], 2));
      highest[i] = fmaxf(highest[i], top[i]);
      factor[i] = exp2_fast(top[i] - highest[i]);
      top[i] = highest[i];
      sum[i] *= factor[i];
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 8; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) output[i][k] *= factor[k / 2];

    const element* values = stage + KEYS * K_ROW;
#pragma unroll
    for (int n = 0; n < KEYS / 16; ++n) {  // 16 keys
      float weight[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          weight[half][k] = exp2_fast(score[2 * n + half][k] - top[k / 2]);
          sum[k / 2] += weight[half][k];
        }
      const u32 a0 = pack(weight[0][0], weight[0][1]), a1 = pack(weight[0][2], weight[0][3]);
      const u32 a2 = pack(weight[1][0], weight[1][1]), a3 = pack(weight[1][2], weight[1][3]);
#pragma unroll
      for (int d = 0; d < HEAD_DIM / 16; ++d) {  // 16 dims: four 8x8 matrices, (keys 0-7, 8-15) x (dims 0-7, 8-15)
        u32 b[4];
        load_transposed(b, values + (16 * n + lane % 16) * V_ROW + 16 * d + lane / 16 * 8);
        mma(output[2 * d], a0, a1, a2, a3, b[0], b[1]);
        mma(output[2 * d + 1], a0, a1, a2, a3, b[2], b[3]);
      }
    }
    __syncthreads();  // the stage may be overwritten
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], 1);
    sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], 2);
    if (my_row + 8 * i >= item.num_rows) continue;
    const float scale = 1.f / sum[i];
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; ++n)
      *reinterpret_cast<u32*>(p.output + offset[i] + 8 * n + 2 * t) = pack(output[n][2 * i] * scale, output[n][2 * i + 1] * scale);
  }
}
