// Rows on their way into a recording: from Element to one byte an element and one fp16 scale for each 64 channels.
//
//     limit          127 for int8, 448 for fp8 e4m3
//     scales[n, k] = largest |rows[n, c]| of the block, c = 64 k .. 64 k + 63, times 1 / limit, rounded UP to fp16
//     values[n, c] = rows[n, c] * (1 / scales[n, k]) rounded to nearest even, clamped to +-limit
//
// The last block of a row may be shorter. sparse_ops/quantise.py is the same formula, operation by operation, and gives
// the same bits: products by a rounded reciprocal on both sides, never a division where the other multiplies.
//
// Rounded up, the scale never makes the largest value too large for its code. It is at most 515.5 (int8) or 146.125
// (fp8): the largest fp16 whose product with the limit is finite in fp16, so that what is read back never overflows
// either. What that means for values that should not be there:
//     a block of zeros             scale 0 and zeros; read back, zeros
//     tiny blocks                  the smallest scale is 2^-24, fp16's smallest number; below half of it int8 has zeros
//     beyond 65468.5 (int8), 65464 (fp8)   clamped to that: bf16 only, and the last 36 of fp16's range
//     +-infinity                   clamped likewise; the other values of its block have steps of 515.5 (or 146.125)
//     NaN                          zero, and no part of the maximum
// Error of a value: half a scale (int8); 2^-4 of itself, or 2^-10 scales where that is more (fp8). Approximate.
//
// One thread: 8 channels, 16 bytes in, 8 out. Eight lanes are one block of 64: the maximum takes three shuffles, no
// shared memory and no barrier. Lanes behind the end of a short block hold zeros and write nothing, but shuffle. The
// list of (row, block) is flat, so rows of 64 channels fill warps as well as rows of 2560.
//
// What bounds it: HBM, 2 bytes read and 1.03 written an element (H200 at 4.1 TB/s: 4.4 us for [2, 9216, 320]), or PCIe
// where `values` is pinned host memory: 64 contiguous bytes a block, 256 a warp. An SM's share of HBM is 5.8 elements a
// clock; at about 11 instructions an element that is half of what its schedulers can issue, so conversions are kept
// cheap: adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits. The encoder of e4m3 is
// integer arithmetic on purpose: the same bits on sm_80 as on sm_90, and on the CPU.
#include "rows.cuh"

namespace rows {

constexpr int kQuantiseThreads = 256;
constexpr int kLanes = kScaleBlock / kChunk;                       // lanes that share a scale

__device__ __forceinline__ unsigned bits_of(float x) { union { float f; unsigned u; } v; v.f = x; return v.u; }
union HalfBits { __half half; unsigned short bits; };

// The least fp16 number that is not below x; 0 <= x, finite in fp16.
__device__ __forceinline__ __half round_up(float x) {
  HalfBits v;
  v.half = __float2half(x);
  if (__half2float(v.half) < x) v.bits++;
  return v.half;
}

// The low bits of x rounded to nearest even, in two's complement; |x| < 2^22.
__device__ __forceinline__ unsigned rounded(float x) { return bits_of(x + 12582912.f); }

struct ToInt8 {
  static constexpr float LIMIT = 127.f;
  static constexpr float MAX_SCALE = 515.5f;                       // 127 * 516 would be infinite in fp16
  static __device__ __forceinline__ unsigned encode(float x) { return rounded(x) & 0xffu; }
};

struct ToFp8 {
  static constexpr float LIMIT = 448.f;
  static constexpr float MAX_SCALE = 146.125f;                     // 448 * 146.25 would be infinite in fp16
  // |x| <= 448. Normal codes are the upper bits of a float with another bias, rounded to nearest even by a carry; below
  // 2^-6 codes count steps of 2^-9, and eight steps are the code of 2^-6 itself.
  static __device__ __forceinline__ unsigned encode(float x) {
    const unsigned u = bits_of(x), magnitude = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
    if (magnitude < (127u - 6) << 23) return sign | (rounded(fabsf(x) * 512.f) & 0xfu);
    const unsigned rounded_up = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
    return sign | ((rounded_up >> 20) - ((127u - 7) << 3));
  }
};

template <class Kind>
__device__ __forceinline__ void quantise_rows(
    const Element* __restrict__ source,        // [N, stride], C of them used
    unsigned char* __restrict__ values,        // [N, value_stride]
    __half* __restrict__ scales,               // [N, scale_stride], ceil(C / 64) of them written
    int num_rows, int width,                   // N, C
    int stride, int value_stride, int scale_stride) {
  const unsigned blocks = (width + kScaleBlock - 1) / kScaleBlock;
  const unsigned at = (blockIdx.x * kQuantiseThreads + threadIdx.x) / kLanes;      // (row, block), flat
  const int row = at / blocks, block = at - row * blocks, part = threadIdx.x % kLanes;
  const int column = block * kScaleBlock + part * kChunk;
  const bool valid = row < num_rows && column < width;

  float x[kChunk] = {};
  if (valid) {
    const uint4 v = *(const uint4*)(source + (size_t)row * stride + column);
    const unsigned u[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 two = floats(pair_of(u[i]));
      x[2 * i] = two.x == two.x ? two.x : 0.f;                     // NaN is zero
      x[2 * i + 1] = two.y == two.y ? two.y : 0.f;
    }
  }
  float largest = 0.f;
#pragma unroll
  for (int i = 0; i < kChunk; i++) largest = fmaxf(largest, fabsf(x[i]));
#pragma unroll
  for (int m = kLanes / 2; m; m /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, m));
  if (!valid) return;

  const __half scale = round_up(fminf(largest * (1.f / Kind::LIMIT), Kind::MAX_SCALE));
  const float inverse = largest > 0.f ? 1.f / __half2float(scale) : 0.f;
  unsigned codes[2] = {};
#pragma unroll
  for (int i = 0; i < kChunk; i++)
    codes[i / 4] |= Kind::encode(fminf(fmaxf(x[i] * inverse, -Kind::LIMIT), Kind::LIMIT)) << (8 * (i % 4));
  uint2 packed;
  packed.x = codes[0], packed.y = codes[1];
  *(uint2*)(values + (size_t)row * value_stride + column) = packed;
  if (part == 0) scales[(size_t)row * scale_stride + block] = scale;
}

}  // namespace rows

// Grid: ceil(num_rows * ceil(width / 64) / 32) blocks, of 256 threads; no shared memory. Nothing is launched for no
// rows. width and all strides but scale_stride are multiples of 8; num_rows * ceil(width / 64) * 8 < 2^31.
extern "C" __global__ void __launch_bounds__(rows::kQuantiseThreads) quantise_rows_int8(
    const rows::Element* source, unsigned char* values, __half* scales, int num_rows, int width, int stride,
    int value_stride, int scale_stride) {
  rows::quantise_rows<rows::ToInt8>(source, values, scales, num_rows, width, stride, value_stride, scale_stride);
}

extern "C" __global__ void __launch_bounds__(rows::kQuantiseThreads) quantise_rows_fp8(
    const rows::Element* source, unsigned char* values, __half* scales, int num_rows, int width, int stride,
    int value_stride, int scale_stride) {
  rows::quantise_rows<rows::ToFp8>(source, values, scales, num_rows, width, stride, value_stride, scale_stride);
}
