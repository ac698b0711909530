// Decode attention: one query token a sequence against its whole context, K and V read once.
//
// Compiled once for each combination of these macros (kernels.py):
//
//     HEAD_DIM     64, 80, 96, 128 or 256
//     BF16         1: bf16, 0: fp16
//     NUM_WARPS    warps of a thread block
//     MIN_BLOCKS   thread blocks that must fit a multiprocessor: bounds the registers
//     HEAD_TILES   1 or 2: tiles of 8 query heads that share one load of K and V
//     ADDRESSING   PAGED (block sizes of 16 and more), PAGED_SMALL (1 to 8) or CONTIGUOUS (no table);
//                  set by paged_attention.cu and contiguous_attention.cu
//
// Work. A work item is (sequence, KV head, range of tokens); plan.py cuts the batch into items once a step,
// all layers share them. The warps of a thread block are independent: warp w takes the 16-token chunks
// w, w + NUM_WARPS, ... of the item, with no barrier and no shared memory in the loop. They meet at the end
// of the item, to merge, and if the item is one of several splits of its (sequence, KV head), the last to
// arrive merges them all in the same launch.
//
// One chunk, with K and V rows as they lie in memory, 16 tokens x HEAD_DIM:
//
//     S^T[token, head]  = K[token, :] . Q[head, :]     A = K (16 tokens), B = Q^T (8 heads)
//     P = exp2(S - max)                                 online softmax in base 2
//     O^T[dim, head]   += V^T[dim, token] P^T           A = V^T (16 dims), B = P^T (8 heads)
//
// The heads are the narrow side (8) of the product, so a group of 1 to 8 query heads costs one pass over K and
// V; what multi-head attention wastes of the tensor cores is free, for memory is the bound.
//
// Order of a contraction is ours to choose. mma wants from lane (g, t) the elements k = 2t, 2t+1, 2t+8, 2t+9 of
// row g; we give it the 16 adjacent bytes 8t .. 8t+7 of a 32-element span instead, for K and Q alike, and
// feed two products from one load:
//
//     span of 32 elements     t=0: 0..7    t=1: 8..15    t=2: 16..23    t=3: 24..31
//     first product takes words 0, 1 of each lane, the second words 2, 3
//
// V is wanted transposed: a lane holds tokens 2t, 2t+1, 2t+8, 2t+9 (its k) and, of a 64-element span, dims
// 8g .. 8g+7 in one 16-byte load. Four products use it; in product m, matrix row g is dim 8g + m and row g+8 is
// dim 8g + 4 + m. ``interleave`` puts two tokens' elements side by side, and the odd order of dims is undone
// when the output is stored: lane (g, t) has 8 adjacent dims of heads 2t and 2t+1.
//
// A last chunk that is not full clamps the token index for its loads and masks the scores: a slot that was
// never written is never used.

#pragma once

#include "fragments.cuh"

#define PAGED 0
#define PAGED_SMALL 1
#define CONTIGUOUS 2

constexpr int CHUNK = 16;        // tokens of one step of a warp
constexpr int TILE_HEADS = 8;    // query heads of one product
constexpr int K_SPANS = HEAD_DIM / 32;
constexpr bool K_TAIL = HEAD_DIM % 32 != 0;         // 16 elements, four a lane (head size 80)
constexpr int V_SPANS = HEAD_DIM / 64;
constexpr int V_TAIL = (HEAD_DIM % 64) / 16;        // products of the tail: 0, 1 (80) or 2 (96)
constexpr int NUM_PRODUCTS = HEAD_DIM / 16;
constexpr int V_SPANS_AT_ONCE = V_SPANS > 2 ? 2 : V_SPANS;  // bounds the registers of head size 256
constexpr bool QUERIES_IN_SHARED = HEAD_DIM == 256;  // 32 registers less; the loop is far from the bound of shared memory
constexpr int QUERY_ROW = HEAD_DIM + 8;             // elements of a query there, padded against conflicts
static_assert(HEAD_DIM <= 128 || HEAD_TILES == 1, "two tiles of heads of 256 do not fit the registers");
constexpr int ROW = HEAD_DIM + 4;                   // floats of a row in shared memory, padded against conflicts
constexpr int MAX_SPLITS = 256;                     // of one (sequence, KV head)
constexpr float NEVER = -1e30f;                     // less than any score; finite, so that differences are not NaN
constexpr float RESCALE_ABOVE = 8.f;                // P may grow to 2^8 before the running maximum is moved

struct WorkItem {              // 32 bytes
  int sequence;                // row of queries and outputs
  short kv_head;
  unsigned char first_head;    // of the group, where a group is spread over several items
  unsigned char num_heads;     // query heads of this item
  int begin, end;              // tokens; begin is a multiple of CHUNK; an empty item does nothing
  int slot;                    // row of the partial results
  short split, num_splits;     // slot - split is the first slot of the (sequence, KV head)
  int table;                   // first entry of the sequence in block_tables; CONTIGUOUS: its first slot
  int unused;
};

struct Params {
  const element* query;        // [sequences, query heads, HEAD_DIM]
  const element* key;          // pool of this layer; strides below, in elements
  const element* value;
  element* output;             // [sequences, query heads, HEAD_DIM]
  const WorkItem* items;
  const int* block_tables;     // the tables of all sequences, one after the other
  float* partial_output;       // [slots, heads of an item, HEAD_DIM], not normalised
  float2* partial_state;       // [slots, heads of an item]: maximum and sum
  int* arrivals;               // [slots], zero between launches
  long long block_stride, token_stride, head_stride;
  float scale;                 // of scores, times log2(e)
  int num_query_heads;
  int group;                   // query heads of a KV head
  int item_heads;              // rows of heads that shared memory and partial results have room for
  int log2_block_size;
  int unused;
};

// Where the rows of a chunk lie. ``base`` is the address of the chunk's first token, from which the others
// follow at token_stride; small blocks give each lane the slot of one token instead.
struct Place {
  long long base;
};

struct Keys {
  uint4 near[K_SPANS], far[K_SPANS];  // tokens g and g + 8
  uint2 near_tail, far_tail;
};

struct Reader {
  const element* key;
  const element* value;
  const int* table;
  long long block_stride, token_stride;
  int log2_block_size, end, g, t, lane;

  // The table entry of a chunk (PAGED), or of this lane's token of it (PAGED_SMALL), asked for one chunk ahead.
  __device__ __forceinline__ int look_up(int chunk) const {
#if ADDRESSING == PAGED
    return table[(chunk * CHUNK) >> log2_block_size];
#elif ADDRESSING == PAGED_SMALL
    const int token = min(chunk * CHUNK + (lane & (CHUNK - 1)), end - 1);
    return table[token >> log2_block_size];
#else
    return 0;
#endif
  }

  __device__ __forceinline__ Place place(int chunk, int entry) const {
#if ADDRESSING == PAGED
    const int within = (chunk * CHUNK) & ((1 << log2_block_size) - 1);
    return {entry * block_stride + within * token_stride};
#elif ADDRESSING == PAGED_SMALL
    const int token = min(chunk * CHUNK + (lane & (CHUNK - 1)), end - 1);
    return {entry * block_stride + (token & ((1 << log2_block_size) - 1)) * token_stride};
#else
    return {chunk * CHUNK * token_stride};
#endif
  }

  // Offset of a token of the chunk, which must be one of its valid ones.
  __device__ __forceinline__ long long offset(const Place& place, int token) const {
#if ADDRESSING == PAGED_SMALL
    return __shfl_sync(ALL_LANES, place.base, token);
#else
    return place.base + token * token_stride;
#endif
  }

  __device__ __forceinline__ void load_keys(Keys& keys, const Place& place, int valid) const {
    const element* near = key + offset(place, min(g, valid - 1)) + 8 * t;
    const element* far = key + offset(place, min(g + 8, valid - 1)) + 8 * t;
#pragma unroll
    for (int j = 0; j < K_SPANS; ++j) {
      keys.near[j] = load16(near + 32 * j);
      keys.far[j] = load16(far + 32 * j);
    }
    if (K_TAIL) {
      keys.near_tail = load8(near + 32 * K_SPANS - 4 * t);
      keys.far_tail = load8(far + 32 * K_SPANS - 4 * t);
    }
  }
};

struct Queries {
  uint4 span[QUERIES_IN_SHARED ? 1 : K_SPANS];
  uint2 tail;
};

// The 8 words of V that a lane holds for each of its four tokens, of the spans that are in registers now.
struct Values {
  uint4 span[V_SPANS_AT_ONCE > 0 ? V_SPANS_AT_ONCE : 1][4];
};

__device__ __forceinline__ u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

__device__ __forceinline__ void load_values(Values& values, const element* const (&rows)[4], int first_span, int g) {
#pragma unroll
  for (int j = 0; j < V_SPANS_AT_ONCE; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) values.span[j][i] = load16(rows[i] + 64 * (first_span + j) + 8 * g);
}

// The running state of 8 query heads in one warp: O^T, and for heads 2t and 2t+1 maximum and sum.
struct State {
  float output[NUM_PRODUCTS][4];
  float max[2], sum[2];  // the sum is this lane's share, until the end
};

// Move the running maximum if some score exceeds it by so much that exp2 could overflow an element. The vote
// keeps the warp together; after the first chunks it hardly ever passes, and saves two reductions a chunk.
__device__ __forceinline__ void rescale(State& state, const float (&score)[4]) {
  float top0 = fmaxf(score[0], score[2]), top1 = fmaxf(score[1], score[3]);
  if (!__any_sync(ALL_LANES, top0 > state.max[0] + RESCALE_ABOVE || top1 > state.max[1] + RESCALE_ABOVE)) return;
  top0 = fmaxf(state.max[0], max_over_rows(top0));
  top1 = fmaxf(state.max[1], max_over_rows(top1));
  const float factor0 = exp2_fast(state.max[0] - top0), factor1 = exp2_fast(state.max[1] - top1);
  state.max[0] = top0;
  state.max[1] = top1;
  state.sum[0] *= factor0;
  state.sum[1] *= factor1;
#pragma unroll
  for (int i = 0; i < NUM_PRODUCTS; ++i) {
    state.output[i][0] *= factor0;
    state.output[i][1] *= factor1;
    state.output[i][2] *= factor0;
    state.output[i][3] *= factor1;
  }
}

// dim of output[i][0] (row g of product i) and of output[i][2] (row g + 8)
__device__ __forceinline__ int dim_of(int i, int g, bool far) {
  if (i < 4 * V_SPANS) return 64 * (i / 4) + 8 * g + i % 4 + (far ? 4 : 0);
  const int m = i - 4 * V_SPANS;  // the tail: 2 * V_TAIL adjacent dims a lane
  return 64 * V_SPANS + 2 * V_TAIL * g + m + (far ? V_TAIL : 0);
}

__device__ __forceinline__ void store_pair(element* p, float low, float high) {
  *reinterpret_cast<u32*>(p) = pack(low, high);
}

__device__ __forceinline__ void attend(const Params& p, const WorkItem& item, float* shared, int* is_last) {
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
  const int first_query = item.kv_head * p.group + item.first_head;
  const long long query_row = (long long)item.sequence * p.num_query_heads + first_query;

  Reader reader;
  reader.key = p.key + item.kv_head * p.head_stride;
  reader.value = p.value + item.kv_head * p.head_stride;
  reader.table = p.block_tables + item.table;
  reader.block_stride = p.block_stride;
  reader.token_stride = p.token_stride;
  reader.log2_block_size = p.log2_block_size;
#if ADDRESSING == CONTIGUOUS  // here, for in the loop it takes registers that head size 256 does not have
  reader.key += item.table * p.token_stride;
  reader.value += item.table * p.token_stride;
#endif
  reader.end = item.end;
  reader.g = g;
  reader.t = t;
  reader.lane = lane;

  int chunk = item.begin / CHUNK + warp;
  const int end_chunk = (item.end + CHUNK - 1) / CHUNK;

  // The first K is on its way before the queries are, and before the launch that makes them has ended: all but
  // the last chunk of a sequence, whose newest token that launch may still be storing.
  Keys keys;
  Place here, next;
  int next_entry = 0;
  if (chunk < end_chunk) {
    here = reader.place(chunk, reader.look_up(chunk));
    if (chunk + NUM_WARPS < end_chunk) next_entry = reader.look_up(chunk + NUM_WARPS);
    if (chunk + 1 == end_chunk) wait_for_previous();
    reader.load_keys(keys, here, item.end - chunk * CHUNK);
  }
  wait_for_previous();

  const int heads = p.item_heads;
  element* my_queries = reinterpret_cast<element*>(shared + warp * heads * ROW);
  Queries queries[HEAD_TILES];
  State state[HEAD_TILES];
#pragma unroll
  for (int h = 0; h < HEAD_TILES; ++h) {
    const int head = min(h * TILE_HEADS + g, item.num_heads - 1);  // a head that is not there computes another's
    const element* q = p.query + (query_row + head) * HEAD_DIM;
    if (QUERIES_IN_SHARED) {  // this warp's own copy, where its output will be
#pragma unroll
      for (int j = 0; j < K_SPANS; ++j)
        *reinterpret_cast<uint4*>(my_queries + head * QUERY_ROW + 32 * j + 8 * t) = *reinterpret_cast<const uint4*>(q + 32 * j + 8 * t);
    } else {
#pragma unroll
      for (int j = 0; j < K_SPANS; ++j) queries[h].span[j] = *reinterpret_cast<const uint4*>(q + 32 * j + 8 * t);
    }
    if (K_TAIL) queries[h].tail = *reinterpret_cast<const uint2*>(q + 32 * K_SPANS + 4 * t);
    state[h].max[0] = state[h].max[1] = NEVER;
    state[h].sum[0] = state[h].sum[1] = 0.f;
#pragma unroll
    for (int i = 0; i < NUM_PRODUCTS; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) state[h].output[i][k] = 0.f;
  }

  if (QUERIES_IN_SHARED) __syncwarp();
  const element* my_query = my_queries + min(g, item.num_heads - 1) * QUERY_ROW + 8 * t;

  for (; chunk < end_chunk; chunk += NUM_WARPS) {
    const int valid = item.end - chunk * CHUNK;

    // V of this chunk: asked for now, used after the softmax.
    const element* rows[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      rows[i] = reader.value + reader.offset(here, min(2 * t + (i & 1) + (i & 2) * 4, valid - 1));
    Values values;
    if (V_SPANS) load_values(values, rows, 0, g);
    uint2 value_tail[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (V_TAIL == 1) value_tail[i].x = load4(rows[i] + 64 * V_SPANS + 2 * g);
      if (V_TAIL == 2) value_tail[i] = load8(rows[i] + 64 * V_SPANS + 4 * g);
    }

    // S^T = K Q^T, in two chains of products that do not wait for each other.
    float score[HEAD_TILES][4];
#pragma unroll
    for (int h = 0; h < HEAD_TILES; ++h) {
      float even[4] = {0.f, 0.f, 0.f, 0.f}, odd[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int j = 0; j < K_SPANS; ++j) {
        const uint4 &n = keys.near[j], &f = keys.far[j];
        const uint4 q = QUERIES_IN_SHARED ? reload16(my_query + 32 * j) : queries[h].span[QUERIES_IN_SHARED ? 0 : j];
        mma(even, n.x, f.x, n.y, f.y, q.x, q.y);
        mma(odd, n.z, f.z, n.w, f.w, q.z, q.w);
      }
      if (K_TAIL)
        mma(even, keys.near_tail.x, keys.far_tail.x, keys.near_tail.y, keys.far_tail.y, queries[h].tail.x, queries[h].tail.y);
#pragma unroll
      for (int i = 0; i < 4; ++i) score[h][i] = (even[i] + odd[i]) * p.scale;
    }

    // K is used up: ask for the next chunk's, and for the block after that.
    const int next_chunk = chunk + NUM_WARPS;
    if (next_chunk < end_chunk) {
      next = reader.place(next_chunk, next_entry);
      if (next_chunk + NUM_WARPS < end_chunk) next_entry = reader.look_up(next_chunk + NUM_WARPS);
      reader.load_keys(keys, next, item.end - next_chunk * CHUNK);
    }

    u32 weights[HEAD_TILES][2];  // P^T as B operand: tokens 2t, 2t+1 (and + 8) of head g
#pragma unroll
    for (int h = 0; h < HEAD_TILES; ++h) {
      if (valid < CHUNK) {
        if (g >= valid) score[h][0] = score[h][1] = NEVER;
        if (g + 8 >= valid) score[h][2] = score[h][3] = NEVER;
      }
      rescale(state[h], score[h]);
      const float near0 = exp2_fast(score[h][0] - state[h].max[0]), near1 = exp2_fast(score[h][1] - state[h].max[1]);
      const float far0 = exp2_fast(score[h][2] - state[h].max[0]), far1 = exp2_fast(score[h][3] - state[h].max[1]);
      state[h].sum[0] += near0 + far0;
      state[h].sum[1] += near1 + far1;
      weights[h][0] = transpose(pack(near0, near1));
      weights[h][1] = transpose(pack(far0, far1));
    }

    // O^T += V^T P^T
#pragma unroll
    for (int part = 0; part < V_SPANS; part += V_SPANS_AT_ONCE) {
      if (part) load_values(values, rows, part, g);
#pragma unroll
      for (int j = 0; j < V_SPANS_AT_ONCE; ++j) {
        const uint4(&v)[4] = values.span[j];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const u32 a0 = interleave(word(v[0], m / 2), word(v[1], m / 2), m % 2);
          const u32 a1 = interleave(word(v[0], 2 + m / 2), word(v[1], 2 + m / 2), m % 2);
          const u32 a2 = interleave(word(v[2], m / 2), word(v[3], m / 2), m % 2);
          const u32 a3 = interleave(word(v[2], 2 + m / 2), word(v[3], 2 + m / 2), m % 2);
#pragma unroll
          for (int h = 0; h < HEAD_TILES; ++h)
            mma(state[h].output[4 * (part + j) + m], a0, a1, a2, a3, weights[h][0], weights[h][1]);
        }
      }
    }
    if (V_TAIL == 1) {
      const u32 a0 = interleave(value_tail[0].x, value_tail[1].x, 0), a1 = interleave(value_tail[0].x, value_tail[1].x, 1);
      const u32 a2 = interleave(value_tail[2].x, value_tail[3].x, 0), a3 = interleave(value_tail[2].x, value_tail[3].x, 1);
#pragma unroll
      for (int h = 0; h < HEAD_TILES; ++h) mma(state[h].output[4 * V_SPANS], a0, a1, a2, a3, weights[h][0], weights[h][1]);
    }
    if (V_TAIL == 2) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const u32 a0 = interleave(value_tail[0].x, value_tail[1].x, m), a1 = interleave(value_tail[0].y, value_tail[1].y, m);
        const u32 a2 = interleave(value_tail[2].x, value_tail[3].x, m), a3 = interleave(value_tail[2].y, value_tail[3].y, m);
#pragma unroll
        for (int h = 0; h < HEAD_TILES; ++h)
          mma(state[h].output[4 * V_SPANS + m], a0, a1, a2, a3, weights[h][0], weights[h][1]);
      }
    }
    here = next;
  }

  // Not before: thread blocks of the next launch would take free places as they come and load multiprocessors
  // unevenly, up to 25 % slower where a launch does not fill the device. Here it saves 1.3 us a launch.
  let_next_start();

  if (QUERIES_IN_SHARED) __syncwarp();

  // The warps meet: outputs to shared memory as [warp][head][dim], maxima and sums behind them.
  float* maxima = shared + NUM_WARPS * heads * ROW;
  float* sums = maxima + NUM_WARPS * heads;
#pragma unroll
  for (int h = 0; h < HEAD_TILES; ++h) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int head = h * TILE_HEADS + 2 * t + k;
      const float sum = sum_over_rows(state[h].sum[k]);
      if (head >= item.num_heads) continue;
      if (g == 0) {
        maxima[warp * heads + head] = state[h].max[k];
        sums[warp * heads + head] = sum;
      }
      float* row = shared + (warp * heads + head) * ROW;
#pragma unroll
      for (int i = 0; i < NUM_PRODUCTS; ++i) {
        row[dim_of(i, g, false)] = state[h].output[i][k];
        row[dim_of(i, g, true)] = state[h].output[i][2 + k];
      }
    }
  }
  __syncthreads();
  const bool is_whole = item.num_splits == 1;
  for (int i = threadIdx.x; i < item.num_heads * (HEAD_DIM / 2); i += NUM_WARPS * WARP) {
    const int head = i / (HEAD_DIM / 2), dim = i % (HEAD_DIM / 2) * 2;
    float top = maxima[head];
#pragma unroll
    for (int w = 1; w < NUM_WARPS; ++w) top = fmaxf(top, maxima[w * heads + head]);
    float sum = 0.f, low = 0.f, high = 0.f;
#pragma unroll
    for (int w = 0; w < NUM_WARPS; ++w) {
      const float factor = exp2_fast(maxima[w * heads + head] - top);
      const float2 pair = *reinterpret_cast<const float2*>(shared + (w * heads + head) * ROW + dim);
      sum += factor * sums[w * heads + head];
      low += factor * pair.x;
      high += factor * pair.y;
    }
    if (is_whole) {
      store_pair(p.output + (query_row + head) * HEAD_DIM + dim, low / sum, high / sum);
    } else {
      const long long row = (long long)item.slot * heads + head;
      *reinterpret_cast<float2*>(p.partial_output + row * HEAD_DIM + dim) = make_float2(low, high);
      if (dim == 0) p.partial_state[row] = make_float2(top, sum);
    }
  }
  if (is_whole) return;

  // The last split to arrive merges all of them. The barrier orders this block's partial results before the one
  // release that publishes them, so that no thread needs a fence of its own.
  const int first_slot = item.slot - item.split, num_splits = item.num_splits;
  __syncthreads();
  if (threadIdx.x == 0) {
    *is_last = count_arrival(p.arrivals + first_slot) == num_splits - 1;
    if (*is_last) p.arrivals[first_slot] = 0;  // as the next launch expects it
  }
  __syncthreads();
  if (!*is_last) return;

  // Weights of the splits first, a warp for each head; then the outputs, which are by far the most.
  const long long first_row = (long long)first_slot * heads;
  float* split_weights = shared;  // [head][split]
  for (int head = warp; head < item.num_heads; head += NUM_WARPS) {
    float2 states[MAX_SPLITS / WARP];  // all asked for at once
    float top = NEVER, sum = 0.f;
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
      const int split = i * WARP + lane;
      states[i] = split < num_splits ? __ldcg(&p.partial_state[first_row + split * heads + head]) : make_float2(NEVER, 0.f);
      top = fmaxf(top, states[i].x);
    }
    top = max_over_warp(top);
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i) {
      states[i].x = exp2_fast(states[i].x - top);
      sum += states[i].x * states[i].y;
    }
    sum = 1.f / sum_over_warp(sum);
#pragma unroll
    for (int i = 0; i < MAX_SPLITS / WARP; ++i)
      if (i * WARP + lane < num_splits) split_weights[head * num_splits + i * WARP + lane] = states[i].x * sum;
  }
  __syncthreads();
  constexpr int BATCH = 16;  // loads in flight: what the merge waits for is latency
  for (int i = threadIdx.x; i < item.num_heads * (HEAD_DIM / 4); i += NUM_WARPS * WARP) {
    const int head = i / (HEAD_DIM / 4), dim = i % (HEAD_DIM / 4) * 4;
    const float* source = p.partial_output + (first_row + head) * HEAD_DIM + dim;
    float4 merged = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int first = 0; first < num_splits; first += BATCH) {
      float4 part[BATCH];
#pragma unroll
      for (int k = 0; k < BATCH; ++k)
        if (first + k < num_splits) part[k] = __ldcg(reinterpret_cast<const float4*>(source + (long long)(first + k) * heads * HEAD_DIM));
#pragma unroll
      for (int k = 0; k < BATCH; ++k) {
        if (first + k >= num_splits) break;
        const float weight = split_weights[head * num_splits + first + k];
        merged.x += weight * part[k].x;
        merged.y += weight * part[k].y;
        merged.z += weight * part[k].z;
        merged.w += weight * part[k].w;
      }
    }
    element* target = p.output + (query_row + head) * HEAD_DIM + dim;
    store_pair(target, merged.x, merged.y);
    store_pair(target + 2, merged.z, merged.w);
  }
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS* WARP, MIN_BLOCKS) decode_attention(const __grid_constant__ Params p) {
  extern __shared__ float4 dynamic[];
  float* shared = reinterpret_cast<float*>(dynamic);
  __shared__ int is_last;
  const WorkItem item = p.items[blockIdx.x];
  if (item.begin < item.end) attend(p, item, shared, &is_last);
}
