// The functions of pagesim_backends/cuda/ptx.cuh, and what CUDA C++ itself gives a kernel, in plain C++: a thread
// block is a set of fibers, an exchange within a warp is a barrier of its 32 fibers around a shared buffer.
// Blocks run one after the other, cp.async copies at once, and there are no caches: it finds wrong indices,
// unwritten results, reads of memory that nobody wrote and fragments put together wrongly; it does not find
// missing barriers between blocks or missing waits for copies.

#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__

using std::max;
using std::min;

typedef unsigned int u32;
typedef unsigned short element;
constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

struct int2 { int x, y; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct Index { int x, y; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

constexpr int SHARED_BYTES = 227 * 1024;
float4 dynamic[SHARED_BYTES / 16];

struct Barrier {
  int arrived = 0;
  long round = 0;
};
struct Fiber {
  ucontext_t context;
  jmp_buf state;
  std::vector<char> stack;
  bool started, done;
  int thread;
  long exchanges;
};
struct Exchange {  // what the lanes of a warp show each other; two, used in turn
  u32 word[2][WARP][8];
  Barrier barrier;
};

static std::vector<Fiber> fibers;
static std::vector<Exchange> warps;
static Barrier block_barrier;
static Fiber* running;
static jmp_buf scheduler;
static int num_running;
static std::function<void()> body;
Index threadIdx, blockIdx, blockDim, gridDim;

inline void yield() {
  if (!_setjmp(running->state)) _longjmp(scheduler, 1);
}

inline void wait(Barrier& barrier, int expected) {
  const long round = barrier.round;
  if (++barrier.arrived == expected) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  for (long turns = 0; barrier.round == round; ++turns) {
    if (turns > 10000000) {
      fprintf(stderr, "thread %d waits at a barrier that the others do not reach\n", running->thread);
      abort();
    }
    yield();
  }
}

inline void __syncthreads() { wait(block_barrier, num_running); }

inline Exchange& my_warp() { return warps[running->thread / WARP]; }
inline void __syncwarp() { wait(my_warp().barrier, WARP); }

// Show ``count`` words to the warp and return all lanes' words.
inline u32 (*show(const u32* words, int count))[8] {
  Exchange& exchange = my_warp();
  u32(*shown)[8] = exchange.word[running->exchanges++ % 2];
  for (int i = 0; i < count; ++i) shown[running->thread % WARP][i] = words[i];
  wait(exchange.barrier, WARP);
  return shown;
}

inline u32 bits_of(float x) { u32 y; memcpy(&y, &x, 4); return y; }
inline float float_of(u32 x) { float y; memcpy(&y, &x, 4); return y; }

inline float __shfl_xor_sync(u32, float x, int mask) {
  const u32 word = bits_of(x);
  return float_of(show(&word, 1)[(running->thread % WARP) ^ mask][0]);
}
inline long long __shfl_sync(u32, long long x, int lane) {
  u32 words[2];
  memcpy(words, &x, 8);
  memcpy(&x, show(words, 2)[lane], 8);
  return x;
}
inline bool __any_sync(u32, bool x) {
  const u32 word = x;
  u32(*all)[8] = show(&word, 1);
  for (int lane = 0; lane < WARP; ++lane)
    if (all[lane][0]) return true;
  return false;
}
inline u32 __byte_perm(u32 x, u32 y, u32 selector) {
  unsigned char bytes[8];
  memcpy(bytes, &x, 4);
  memcpy(bytes + 4, &y, 4);
  u32 result = 0;
  for (int i = 0; i < 4; ++i) result |= (u32)bytes[(selector >> (4 * i)) & 7] << (8 * i);
  return result;
}
template <class T> inline T __ldcg(const T* p) { return *p; }

inline element narrow(float x) {
#if BF16
  const u32 bits = bits_of(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#else
  const _Float16 half = (_Float16)x;
  element bits;
  memcpy(&bits, &half, 2);
  return bits;
#endif
}
inline float widen(element x) {
#if BF16
  return float_of((u32)x << 16);
#else
  _Float16 half;
  memcpy(&half, &x, 2);
  return (float)half;
#endif
}
inline float widen_part(u32 pair, int high) { return widen((element)(pair >> (16 * high))); }

inline u32 pack(float low, float high) { return narrow(low) | (u32)narrow(high) << 16; }
inline float exp2_fast(float x) { return exp2f(x); }

inline void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const u32 words[6] = {a0, a1, a2, a3, b0, b1};
  u32(*all)[8] = show(words, 6);
  const int lane = running->thread % WARP, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int far_row = i / 2, column = 2 * t + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const int far_k = k / 8, owner = k % 8 / 2, high = k % 2;
      sum += widen_part(all[4 * g + owner][far_row + 2 * far_k], high) * widen_part(all[4 * column + owner][4 + far_k], high);
    }
    d[i] = sum;
  }
}

inline u32 transpose(u32 pair) {
  u32(*all)[8] = show(&pair, 1);
  const int lane = running->thread % WARP, g = lane / 4, t = lane % 4;
  u32 result = 0;
  for (int i = 0; i < 2; ++i) result |= (all[4 * (2 * t + i) + g / 2][0] >> (16 * (g % 2)) & 0xffff) << (16 * i);
  return result;
}

inline void load_transposed(u32 (&r)[4], const element* shared) {
  u32 words[2];
  memcpy(words, &shared, 8);
  u32(*all)[8] = show(words, 2);
  const int lane = running->thread % WARP, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    r[i] = 0;
    for (int k = 0; k < 2; ++k) {
      const element* row;
      memcpy(&row, all[8 * i + 2 * t + k], 8);
      r[i] |= (u32)row[g] << (16 * k);
    }
  }
}

template <class T> inline T load_aligned(const void* p) {
  if ((size_t)p % sizeof(T)) {
    fprintf(stderr, "a load of %zu bytes at a misaligned address\n", sizeof(T));
    abort();
  }
  T value;
  memcpy(&value, p, sizeof(T));
  return value;
}
inline uint4 load16(const element* p) { return load_aligned<uint4>(p); }
inline uint2 load8(const element* p) { return load_aligned<uint2>(p); }
inline u32 load4(const element* p) { return load_aligned<u32>(p); }
inline uint4 reload16(const element* p) { return load_aligned<uint4>(p); }
inline void copy16(element* shared, const element* global) {
  const uint4 value = load_aligned<uint4>(global);
  memcpy(shared, &value, 16);
}
inline void commit_copies() {}
inline void wait_for_all_but_one_group() {}
inline void let_next_start() {}
inline void wait_for_previous() {}
inline int count_arrival(int* arrivals) { return (*arrivals)++; }

static void enter() {
  body();
  running->done = true;
  --num_running;
  _longjmp(scheduler, 1);
}

inline void run_grid(int grid_x, int grid_y, int threads, long shared_bytes, std::function<void()> kernel) {
  constexpr size_t STACK = 64 * 1024;
  body = kernel;
  blockDim = {threads, 1};
  gridDim = {grid_x, grid_y};
  fibers.resize(threads);
  for (Fiber& fiber : fibers) fiber.stack.resize(STACK);
  if (shared_bytes > SHARED_BYTES) {
    fprintf(stderr, "%ld bytes of shared memory\n", shared_bytes);
    abort();
  }
  for (int y = 0; y < grid_y; ++y)
    for (int x = 0; x < grid_x; ++x) {
      blockIdx = {x, y};
      warps.assign((threads + WARP - 1) / WARP, Exchange());
      block_barrier = Barrier();
      memset(dynamic, 0xff, sizeof dynamic);  // NaN: shared memory that nobody wrote shows
      num_running = threads;
      for (int i = 0; i < threads; ++i) {
        fibers[i].started = fibers[i].done = false;
        fibers[i].thread = i;
        fibers[i].exchanges = 0;
      }
      while (num_running)
        for (Fiber& fiber : fibers) {
          if (fiber.done) continue;
          running = &fiber;
          threadIdx = {fiber.thread, 0};
          if (_setjmp(scheduler)) continue;
          if (fiber.started) _longjmp(fiber.state, 1);
          fiber.started = true;
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = fiber.stack.data();
          fiber.context.uc_stack.ss_size = fiber.stack.size();
          fiber.context.uc_link = nullptr;
          makecontext(&fiber.context, enter, 0);
          setcontext(&fiber.context);
        }
    }
}

template <class P> inline void call(void (*kernel)(const P), const void* params) { kernel(*(const P*)params); }
