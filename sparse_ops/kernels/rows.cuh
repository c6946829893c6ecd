// What the row kernels share: the element type, four PTX instructions, one swizzle.
//
// Element: fp16, or bf16 with -DROWS_BF16. Accumulation is fp32 everywhere.
// Device: sm_80 and later (cp.async, ldmatrix, mma.sync m16n8k16). Builds with nvcc and NVRTC, and with g++ when
// cudacpu.h is force-included (then CUDACPU is defined and the PTX is emulated lane by lane).
#pragma once
#ifndef CUDACPU
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DYN_SMEM(T, name) extern __shared__ __align__(128) char name##_raw[]; T* name = (T*)name##_raw
#endif

namespace rows {

#ifdef ROWS_BF16
using Element = __nv_bfloat16;
using Pair = __nv_bfloat162;
__device__ __forceinline__ Pair pair(float a, float b) { return __floats2bfloat162_rn(a, b); }
__device__ __forceinline__ float2 floats(Pair p) { return __bfloat1622float2(p); }
#else
using Element = __half;
using Pair = __half2;
__device__ __forceinline__ Pair pair(float a, float b) { return __floats2half2_rn(a, b); }
__device__ __forceinline__ float2 floats(Pair p) { return __half22float2(p); }
#endif

constexpr int kChunk = 8;  // elements in 16 bytes, the unit of every copy
constexpr int kScaleBlock = 64;  // channels that share a scale, in rows of one byte an element

__device__ __forceinline__ unsigned bits(Pair p) {
  union { Pair p; unsigned u; } v;
  v.p = p;
  return v.u;
}
__device__ __forceinline__ Pair pair_of(unsigned u) {
  union { unsigned u; Pair p; } v;
  v.u = u;
  return v.p;
}

// Where the 16-byte chunk (row, chunk) of a row-major shared tile with STRIDE elements a row lies. Eight rows that
// ldmatrix reads at one chunk fall into eight different bank groups for every STRIDE that is a multiple of 16, so no
// tile is padded.
template <int STRIDE> __device__ __forceinline__ int swizzle(int row, int chunk) {
  constexpr int L = STRIDE / kChunk;
  static_assert(STRIDE % 16 == 0, "an even number of chunks a row");
  constexpr int B = L % 8 == 0 ? 3 : L % 4 == 0 ? 2 : 1;  // low bits of the chunk number that may change inside a row
  return row * STRIDE + (chunk ^ ((row >> (3 - B)) & ((1 << B) - 1))) * kChunk;
}

#ifdef CUDACPU
template <int BYTES> inline void cp_async(void* shared, const void* global, bool valid) {
  cudacpu::cp_async(shared, global, BYTES, valid ? BYTES : 0);
}
template <int BYTES> inline void cp_async_stream(void* shared, const void* global, bool valid) {
  cudacpu::cp_async(shared, global, BYTES, valid ? BYTES : 0);
}
inline void cp_async_commit() { cudacpu::cp_async_commit(); }
template <int N> inline void cp_async_wait() { cudacpu::cp_async_wait(N); }
inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { cudacpu::ldmatrix<4>(r, row, false); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) { cudacpu::ldmatrix<4>(r, row, true); }
#ifdef ROWS_BF16
using MmaElement = __nv_bfloat16;
#else
using MmaElement = _Float16;
#endif
inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned b[2] = {b0, b1};
  cudacpu::mma_m16n8k16<MmaElement>(c, a, b);
}
inline float exp2_fast(float x) { return exp2f(x); }
#else
__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
// Copies BYTES (4, 8, 16) past the registers; zeros when not valid (then nothing is read). Through L1: rows that are
// read again soon.
template <int BYTES> __device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
               ::"r"(shared_address(shared)), "l"(global), "n"(BYTES), "r"(valid ? BYTES : 0) : "memory");
}
// The same past L1 (16 bytes only): what this block reads once.
template <int BYTES> __device__ __forceinline__ void cp_async_stream(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], %2, %3;"
               ::"r"(shared_address(shared)), "l"(global), "n"(BYTES), "r"(valid ? BYTES : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}
#ifdef ROWS_BF16
#define ROWS_MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
#define ROWS_MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#endif
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm(ROWS_MMA " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// The same pointer, of which the compiler knows nothing. A condition on it inside a loop stays there: NVVM for sm_100
// and later else makes a copy of the loop for each outcome of all its conditions (convolution: sixteen epilogues, 90 s
// instead of 7 to compile).
template <class T> __device__ __forceinline__ const T* opaque(const T* p) {
#ifndef CUDACPU
  asm volatile("" : "+l"(p));
#endif
  return p;
}

// The same number, of which the compiler knows nothing: what a loop computes from it is computed there each time, not
// once before the loop and kept in registers.
__device__ __forceinline__ int opaque(int x) {
#ifndef CUDACPU
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Images' rows lie one image after another, image b from starts[b]; what lies behind starts[images] is padding, which
// belongs to nobody and must only stay finite.

// The image of a row; padding counts as the last image's.
__device__ __forceinline__ int image_of(const int* starts, int images, int row) {
  int image = 0;
#pragma unroll 1
  while (image + 1 < images && row >= __ldg(starts + image + 1)) image++;
  return image;
}

struct Tile {
  int image, first, last;  // rows first .. last - 1; image == number of images: padding
};

// At most `most` rows of one image (or of the padding) for block `number`. ceil(num_rows / most) + images blocks take
// all rows, however they are shared out; those that are left over have first == last.
__device__ __forceinline__ Tile tile_of(const int* starts, int images, int num_rows, int most, int number) {
  int first = 0, last = 0, image = 0;
#pragma unroll 1
  for (;; image++) {
    first = last, last = image < images ? __ldg(starts + image + 1) : num_rows;
    const int tiles = (last - first + most - 1) / most;
    if (number < tiles || image == images) break;
    number -= tiles;
  }
  return {image, min(first + number * most, last), min(first + (number + 1) * most, last)};
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.f + exp2_fast(-1.44269504f * x)); }

// Over the 32 lanes of a warp, in all of them.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int m = 16; m; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
  return x;
}

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

// True in the last of `splits` blocks that reach this for one tile, after everything they wrote before is visible. The
// counter is left at zero, so a captured graph can run again. Every thread of the block must call it.
__device__ __forceinline__ bool last_to_arrive(unsigned* arrived, unsigned splits, int* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(arrived, 1u) == splits - 1;
    if (last) *arrived = 0;
    *flag = last;
  }
  __syncthreads();
  __threadfence();
  return *flag != 0;
}

}  // namespace rows
