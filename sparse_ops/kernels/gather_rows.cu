// Rows of a recording, brought to where a step reads them: listed rows, some columns of each, dequantised on the way.
//
//     out[n, c] = source[index[n], first + c]                                               gather_rows
//     out[n, c] = source[index[n], first + c] * scales[index[n], (first + c) / 64]          gather_rows_int8, _fp8
//
// index -1 gives a row of zeros: the padding of a graph's bucket, where one captured launch serves every shorter list.
// gather_rows moves bits and knows no type: fp16, bf16, or float32 as pairs of 2-byte halves (all widths doubled). The
// other two read what quantise_rows.cu wrote: int8 or fp8 e4m3, one fp16 scale for each 64 channels of a source row,
// counted from column 0 of the row. Exact: a copy, or one fp32 product and one rounding to Element. The fp8 codes of
// NaN (0x7f, 0xff) are never written by quantise_rows and would read as +-480.
//
// Widths, strides and `first` are multiples of 8 elements (gather_rows_int8, _fp8: then also multiples of 8 bytes), so
// a tensor of a plane may begin at any multiple of 8 columns. Indices are trusted. num_rows * width < 2^34.
//
// `out` may be some columns of a wider array.
//
// Shape of the work: a list of N * width / 8 chunks, 8 elements each, in the order of `out`. A block takes 1024 of
// them, a thread four, 256 apart. Lanes that follow each other read chunks that follow each other in a row: a warp's
// load is 512 contiguous bytes of one row, or of several when rows are short. So no lane idles at width 8 nor at the
// end of a row of 1000, which a warp for each row would do, and all stores are full lines. Nothing is shared between
// threads.
//
// Where the source lies: device memory, or pinned host memory that the kernel reads through its unified address (UVA);
// the pointer tells. What bounds it:
//
//     pinned host    PCIe Gen5 x16, about 50 GB/s of 64: 9 us for 450 kB, 384 rows of 600 channels. A read is a request
//                    of at most 128 bytes, so rows want to begin at multiples of 128 bytes (the stride's choice): a
//                    line that two requests share costs two headers. At 1.5 us of latency, 75 kB must be in flight: 37
//                    warps, five blocks. So a grid is some 24 blocks that walk through the list, and other kernels have
//                    the rest of the GPU: with a block for each 1024 chunks, thousands that all wait for the bus would
//                    fill every SM, and the step that should run beside them would wait. int8 and fp8
//                    cross as one byte and 1/32 for the scale: 1.94 times the rows in the same time.
//     device         HBM (H200 4.1 of 4.8 TB/s), 2 bytes read and 2 written an element. 31 GB/s for one SM at 0.8 us of
//                    latency are 25 kB in flight; four 16-byte loads a thread, 2048 threads an SM, are 128 kB.
//
// Hence four independent loads before the first store, past L1 (`no_allocate`: each row is read once), through the
// read-only path; stores are ordinary, as the next kernel reads `out` from L2. The index is loaded first and makes each
// chunk two dependent loads, but 8 to 80 chunks share one index, which is in L1 after the first. A scale is likewise
// shared by 8 lanes. Scales need not be a tensor of their own: with scale_stride = stride / 2 they may stand behind the
// values of their row, and come in the same or the neighbouring request. Dividing a chunk's number by the chunks of a
// row is about 20 of 40 instructions a chunk, but 1024 chunks, 32 bytes each way and back, take an SM 1850 clocks of
// HBM and 320 of its four schedulers, so no inverse is passed in.
#include "rows.cuh"

namespace rows {

constexpr int kGatherThreads = 256;
constexpr int kGatherUnroll = 4;                                   // chunks a thread: loads in flight before a store

#ifdef CUDACPU
inline uint4 load_once(const uint4* p) { cudacpu::check_aligned(p, 16, "load"); return *p; }
inline uint2 load_once(const uint2* p) { cudacpu::check_aligned(p, 8, "load"); return *p; }
#else
// A load past L1 of what no kernel writes meanwhile.
__device__ __forceinline__ uint4 load_once(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_once(const uint2* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
#endif

// How each kind of source becomes Element: 8 stored elements `Stored`, four of them in one `unsigned`.
struct Same {
  using Stored = uint4;
  static constexpr int BYTES = 2;                                  // of one stored element
  static constexpr bool SCALED = false;
  static __device__ __forceinline__ uint4 decode(uint4 v, float) { return v; }
};

struct FromInt8 {
  using Stored = uint2;
  static constexpr int BYTES = 1;
  static constexpr bool SCALED = true;
  static __device__ __forceinline__ uint4 decode(uint2 v, float scale) {
    const uint2 lo = decode(v.x, scale), hi = decode(v.y, scale);
    return make_uint4(lo.x, lo.y, hi.x, hi.y);
  }
  static __device__ __forceinline__ float value(unsigned four, int i) { return (float)(signed char)(four >> (8 * i)); }
  static __device__ __forceinline__ uint2 decode(unsigned four, float scale) {
    uint2 v;
    v.x = bits(pair(value(four, 0) * scale, value(four, 1) * scale));
    v.y = bits(pair(value(four, 2) * scale, value(four, 3) * scale));
    return v;
  }
};

// e4m3 has bias 7 and three bits of fraction, fp16 bias 15 and ten: shifted into place, a code is the fp16 number 2^-8
// times its value, subnormal codes too. The 2^8 goes into the scale; both are exact. Needs no sm_89.
struct FromFp8 {
  using Stored = uint2;
  static constexpr int BYTES = 1;
  static constexpr bool SCALED = true;
  static __device__ __forceinline__ uint4 decode(uint2 v, float scale) {
    const uint2 lo = decode(v.x, scale * 256.f), hi = decode(v.y, scale * 256.f);
    return make_uint4(lo.x, lo.y, hi.x, hi.y);
  }
  static __device__ __forceinline__ float2 values(unsigned two) {  // two codes in the low 16 bits
    const unsigned apart = (two & 0xffu) << 8 | (two & 0xff00u) << 16;
    union { unsigned u; __half2 h; } v;
    v.u = (apart & 0x80008000u) | (apart & 0x7f007f00u) >> 1;
    return __half22float2(v.h);
  }
  static __device__ __forceinline__ uint2 decode(unsigned four, float scale) {
    const float2 lo = values(four), hi = values(four >> 16);
    uint2 v;
    v.x = bits(pair(lo.x * scale, lo.y * scale));
    v.y = bits(pair(hi.x * scale, hi.y * scale));
    return v;
  }
};

template <class Kind>
__device__ __forceinline__ void gather_rows(
    const unsigned char* __restrict__ source,  // [R, stride] stored elements; device or pinned host
    const __half* __restrict__ scales,         // [R, scale_stride], or unused
    const int* __restrict__ index,             // [N] rows of source, -1: zero
    uint4* __restrict__ out,                   // [N, width / 8] of 8 elements, out_stride / 8 apart
    int num_rows, int width, int first,        // columns first .. first + width - 1
    int stride, int scale_stride, int out_stride) {  // elements from row to row
  const unsigned chunks = width / kChunk, all = (unsigned)num_rows * chunks;
  constexpr unsigned kBlock = kGatherThreads * kGatherUnroll;
  for (unsigned begin = blockIdx.x * kBlock + threadIdx.x; begin < all; begin += gridDim.x * kBlock) {
    int from[kGatherUnroll], column[kGatherUnroll];
    size_t to[kGatherUnroll];
#pragma unroll
    for (int u = 0; u < kGatherUnroll; u++) {                      // all four numbers of rows, before one is waited for
      const unsigned i = begin + u * kGatherThreads, row = i / chunks;
      from[u] = i < all ? __ldg(index + row) : -1;
      column[u] = first + (int)(i - row * chunks) * kChunk;
      to[u] = (size_t)row * (out_stride / kChunk) + (i - row * chunks);
    }
    typename Kind::Stored stored[kGatherUnroll];
    float scale[kGatherUnroll];
#pragma unroll
    for (int u = 0; u < kGatherUnroll; u++) {
      stored[u] = {}, scale[u] = 0.f;
      if (from[u] < 0) continue;
      const size_t at = (size_t)from[u] * stride + column[u];
      stored[u] = load_once((const typename Kind::Stored*)(source + at * Kind::BYTES));
      if (Kind::SCALED)
        scale[u] = __half2float(__ldg(scales + (size_t)from[u] * scale_stride + column[u] / kScaleBlock));
    }
#pragma unroll
    for (int u = 0; u < kGatherUnroll; u++) {
      const unsigned i = begin + u * kGatherThreads;
      if (i < all) out[to[u]] = Kind::decode(stored[u], scale[u]);
    }
  }
}

}  // namespace rows

// Grid: ceil(num_rows * width / 8 / 1024) blocks or fewer, of 256 threads; no shared memory. Nothing is launched for no
// rows.
#define GATHER_ROWS_ENTRY(name, Kind)                                                                                  \
  extern "C" __global__ void __launch_bounds__(rows::kGatherThreads) name(                                             \
      const unsigned char* source, const __half* scales, const int* index, uint4* out, int num_rows, int width,        \
      int first, int stride, int scale_stride, int out_stride) {                                                       \
    rows::gather_rows<rows::Kind>(                                                                                     \
        source, scales, index, out, num_rows, width, first, stride, scale_stride, out_stride);                         \
  }
GATHER_ROWS_ENTRY(gather_rows, Same)
GATHER_ROWS_ENTRY(gather_rows_int8, FromInt8)
GATHER_ROWS_ENTRY(gather_rows_fp8, FromFp8)
