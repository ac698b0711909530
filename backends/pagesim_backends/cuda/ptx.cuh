// The PTX instructions that CUDA C++ has no name for: all inline assembly is here. Nothing else is included, so
// that NVRTC compiles a kernel in a second and on any machine. tests/emulation has the same functions in C++.

#pragma once

typedef unsigned int u32;
typedef unsigned short element;  // the bits of one fp16 or bf16

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

#if BF16
#define MMA_TYPE "bf16"
#else
#define MMA_TYPE "f16"
#endif

// D += A B for one 16x8 tile with 16 terms.
__device__ __forceinline__ void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPE "." MMA_TYPE ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Two floats to two 16-bit elements; ``low`` in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 packed;
#if BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#endif
  return packed;
}

// Transposes an 8x8 matrix of elements held two a lane (row g, columns 2t and 2t+1).
__device__ __forceinline__ u32 transpose(u32 pair) {
  u32 transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Loads of K and V: read once, so they pass by L1; the 128-byte prefetch fetches the other half of a line
// that the neighbouring lanes ask for next.
#define STREAM "ld.global.nc.L1::no_allocate.L2::128B"
__device__ __forceinline__ uint4 load16(const element* p) {
  uint4 r;
  asm volatile(STREAM ".v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}
__device__ __forceinline__ uint2 load8(const element* p) {
  uint2 r;
  asm volatile(STREAM ".v2.u32 {%0,%1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
  return r;
}
__device__ __forceinline__ u32 load4(const element* p) {
  u32 r;
  asm volatile(STREAM ".u32 %0, [%1];" : "=r"(r) : "l"(p));
  return r;
}

// Volatile, so that the compiler does not keep in registers what was put in shared memory to spare them.
__device__ __forceinline__ uint4 reload16(const element* shared) {
  uint4 r;
  const u32 address = (u32)__cvta_generic_to_shared(shared);
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "r"(address));
  return r;
}

// Count one arrival and return how many there were before; what the block wrote is visible to whoever counts later.
__device__ __forceinline__ int count_arrival(int* arrivals) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;" : "=r"(before) : "l"(arrivals) : "memory");
  return before;
}

// For early launches (launch.py): let the next launch of the stream start its thread blocks as soon as there is
// room, and wait until the launch before this one has ended and what it wrote can be read. Both are nothing
// where the launch is an ordinary one, and before Hopper.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Copy 16 bytes to shared memory in the background; commit_copies() closes a group of them.
__device__ __forceinline__ void copy16(element* shared, const element* global) {
  const u32 address = (u32)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global));
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
__device__ __forceinline__ void wait_for_all_but_one_group() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

// Four 8x8 matrices of elements, transposed: lane 8 i + r gives the address of row r of matrix i.
__device__ __forceinline__ void load_transposed(u32 (&r)[4], const element* shared) {
  const u32 address = (u32)__cvta_generic_to_shared(shared);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
