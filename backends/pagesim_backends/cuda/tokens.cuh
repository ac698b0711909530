// q, K and V of a token from its key: the same function as tokens.py, bit for bit; see there.

#pragma once

#include "fragments.cuh"

constexpr u32 HASH_STRIDE = 0x9E3779B1u;
constexpr u32 MAX_HEADS = 256, MAX_WORDS = 64;
enum What { QUERY = 0, KEY = 1, VALUE = 2 };

// Chris Wellons' "lowbias32".
__device__ __forceinline__ u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Elements 4 word .. 4 word + 3: signed bytes / 64, exact in fp16 and bf16.
__device__ __forceinline__ uint2 token_elements(u32 key, int layer, What what, int head, int word) {
  const u32 index = ((layer * 3u + what) * MAX_HEADS + head) * MAX_WORDS + word;
  const u32 bytes = mix(key + index * HASH_STRIDE);
  float value[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) value[i] = (float)(signed char)(bytes >> (8 * i)) * (1.f / 64.f);
  return make_uint2(pack(value[0], value[1]), pack(value[2], value[3]));
}
