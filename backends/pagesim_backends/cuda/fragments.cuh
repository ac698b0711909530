// The tensor-core fragments that both attention kernels are made of. Elements are 16 bits wide, fp16 or bf16
// by the macro BF16; sums are float32.
//
// mma.m16n8k16, per warp: D[16x8] += A[16x16] B[16x8]. Lane = 4 g + t, with g = 0..7 and t = 0..3:
//
//     A   a0: row g,   k 2t, 2t+1     a2: row g,   k 2t+8, 2t+9
//         a1: row g+8, k 2t, 2t+1     a3: row g+8, k 2t+8, 2t+9
//     B   b0: k 2t, 2t+1, column g    b1: k 2t+8, 2t+9, column g
//     D   d0, d1: row g, columns 2t, 2t+1         d2, d3: row g+8, same columns
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with .f16/.bf16".)

#pragma once

#include "ptx.cuh"

// Elements ``half`` (0 or 1) of two tokens side by side: the pair of k that an A register wants.
__device__ __forceinline__ u32 interleave(u32 even_token, u32 odd_token, int half) {
  return __byte_perm(even_token, odd_token, half ? 0x7632u : 0x5410u);
}

__device__ __forceinline__ float max_over_rows(float x) {  // over g, for each t
#pragma unroll
  for (int lanes = 4; lanes < WARP; lanes <<= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
  return x;
}
__device__ __forceinline__ float sum_over_rows(float x) {
#pragma unroll
  for (int lanes = 4; lanes < WARP; lanes <<= 1) x += __shfl_xor_sync(ALL_LANES, x, lanes);
  return x;
}
__device__ __forceinline__ float max_over_warp(float x) {
#pragma unroll
  for (int lanes = 1; lanes < WARP; lanes <<= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
  return x;
}
__device__ __forceinline__ float sum_over_warp(float x) {
#pragma unroll
  for (int lanes = 1; lanes < WARP; lanes <<= 1) x += __shfl_xor_sync(ALL_LANES, x, lanes);
  return x;
}
