// 3x3 convolution over a list of rows, as one matrix product whose left side is gathered.
//
//     out[n, o] = bias[o] + embedding[image of n, o] + residual[n, o]
//                 + sum over tap, c of x[neighbors[n, tap], c] * weight[o, tap * C + c]
//
// neighbors -1 contributes zero. The weight is the published [O, C, 3, 3], channels last in memory. The image of a row
// is found from where each image's rows begin. Stride 2 and upsampling are the same kernel with another table. C and
// Cout are multiples of 8, every row starts at a multiple of 16 bytes, N is anything. Exact up to rounding: fp32 sums,
// one rounding.
//
// One block makes BM rows x BN channels; grid (row blocks, channel blocks, splits of K). Row blocks are the fast index,
// so the blocks that run together read the same slice of the weights. A K step is BK channels of one tap. K runs over
// channel chunks with the nine taps innermost: nine steps in a row read the same channels of overlapping rows, and four
// of five reads hit L1 (cp.async.ca) when the plan lists rows block by block, so that neighbours in space are
// neighbours in the list. Weights are read once a block (cp.async.cg).
//
// One thread: copies 16-byte chunks of A (its rows' neighbours, from a table in shared memory) and B (its output
// channels) into a ring of STAGES stages; each warp multiplies WM x WN with ldmatrix and mma.sync m16n8k16. One barrier
// a step. Both tiles are [rows or output channels][BK], K fastest, which is how ldmatrix wants either side of the
// product: no transpose, one swizzle, no padding. Of the weights a step reads BK * 2 contiguous bytes of each output
// channel: with BK = 64 whole lines of L2, with 32 two whole sectors, and the other half of the line (L2::128B brings it
// from DRAM along) is the same tap nine steps later.
//
// What bounds it (H200: 620 TFLOP/s by mma.sync, 5.5 TB/s from L2, 128 bytes a clock of shared memory and SM). Clocks
// of one K step of one block (of BK = 64 twice as many), a fifth of A from L2, the rest from L1; the largest is the bound:
//
//     tile           multiply   shared memory   L2 (all SMs busy)    multiply-adds a byte of L2
//     64x64x32             98             192                 207                            27
//     96x64x32            147             240                 224                            37
//     128x64x32           196             288                 242                            46
//     128x128x32          392             512                 414                            53
//     128x128x32w         392             384                 414                            53  (w: warps of 64 x 64)
//     256x64x32           392             416                 311                            71
//
// A warp of 32 x 32 is bound by shared memory on every device since sm_80; 64 x 64 is about even, but takes 255
// registers. Without L1 hits the L2 column is 345, 431, 518, 690, 690, 862. The order of the rows decides: on the
// published masks a tile reads .14 to .23 distinct rows per gathered row when the plan sorts rows by 8 x 8 blocks, .16
// to .32 in raster order, .32 to .94 in random order. The weights, 18 C Cout bytes, come from DRAM once (59 MB at 2560
// -> 1280: 14.5 us, twice what its 4.5 GFLOP take) and from L2 ceil(N / BM) times.
//
// What an H200 said, shape by shape, of masks of 5 and 15 %: a step of 64 channels beats one of 32 (half the barriers for
// as many products), so 64x64x64 and 128x64x64 are used, and 128x128x32 where many rows meet many channels; two blocks of
// each multiprocessor are best, splits counted. 96x64x32 and 256x64x32 were best nowhere. Of 30 % nothing is known yet.
//
// Few rows: N = 76 to 768 make 20 to 60 tiles for 132 SMs, so K is split over gridDim.z. Each split writes its fp32
// part, in thread order (16 bytes a lane, no guard), and the last to arrive at the tile's counter adds all parts in
// split order: the same bits every run, one launch, no second kernel, and the counter is back at zero for the next
// replay of a graph. The last block reads splits * BM * BN * 4 bytes alone at about 48 bytes a clock (64 x 64: 0.2 us a
// split; 128 x 64: 0.4; 128 x 128: 0.8), so splits stay few. On sm_90 a cluster of the splits could add through
// distributed shared memory instead; this version runs everywhere.
//
// No norm, no SiLU in here, though it had both once. As a prologue they were repeated for each of 9 taps and each
// channel block: 2 special-function operations x N * 9C * ceil(Cout / BN) at 16 a clock and SM are 6 us for (768, 320,
// 320) and 19 us for (76, 2560, 1280), more than the product; activate_rows.cu takes each row once, 2 us, while it
// joins rows and halo, which somebody must. Only where Cout fits one block was it a microsecond less, and the U-Net has
// no such convolution. As an epilogue (the next norm, when its statistics are recorded) they saved nothing: the halo
// needs the same pass, and a recording keeps rows as they are before it.
#include "rows.cuh"

namespace rows {

constexpr int kTaps = 9;

template <int BM_, int BN_, int BK_, int WARPS_M_, int WARPS_N_, int STAGES_> struct ConvTile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
  static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
  static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;  // one warp's part of the tile
  static constexpr int MI = WM / 16, NI = WN / 8;  // in mma tiles of 16 x 8
  static constexpr int A = BM * BK, B = BN * BK;  // elements of one stage
  static constexpr int CHUNKS = BK / kChunk, ROWS = THREADS / CHUNKS;  // a pass copies ROWS rows, a thread one chunk
  static constexpr int SMEM = STAGES * (A + B) * 2 + BM * kTaps * 4 + 16;
  // How many registers a thread may take; __launch_bounds__ says it by the blocks that then fit one multiprocessor.
  static constexpr int REGISTERS = MI * NI > 16 ? 240 : MI * NI > 8 ? 128 : 96;
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * THREADS);
  static_assert(WM % 16 == 0 && WN % 16 == 0 && BK % 16 == 0 && STAGES >= 2, "tile");
  static_assert(BM % ROWS == 0 && BN % ROWS == 0, "every thread copies in every pass");
};

__device__ __forceinline__ float2 add(float2 v, const Element* more) {
  const float2 b = floats(*(const Pair*)more);
  return make_float2(v.x + b.x, v.y + b.y);
}

template <class T>
__device__ __forceinline__ void conv_rows(
    const Element* __restrict__ x,          // [N + M, C] rows, then halo
    const int* __restrict__ neighbors,      // [N, 9] rows of x, -1: zero
    const Element* __restrict__ weight,     // [Cout, 9 * C]
    const Element* __restrict__ bias,       // [Cout] or null
    const Element* __restrict__ embedding,  // [images, Cout] or null
    const int* __restrict__ starts,         // [images + 1] where each image's rows begin; embedding only
    const Element* __restrict__ residual,   // [N, Cout] or null
    Element* __restrict__ out,              // [N, Cout]
    float* __restrict__ partial,            // [tiles, splits, BM * BN] in thread order, if gridDim.z > 1
    unsigned* __restrict__ arrived,         // [tiles] zeros, if gridDim.z > 1
    int N, int C, int Cout, int images) {
  DYN_SMEM(Element, smem);
  Element* const sA = smem;  // [STAGES][BM][BK] swizzled
  Element* const sB = smem + T::STAGES * T::A;  // [STAGES][BN][BK] swizzled
  int* const sNeighbors = (int*)(sB + T::STAGES * T::B);  // [BM][9]
  int* const flag = sNeighbors + T::BM * kTaps;

  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int m0 = blockIdx.x * T::BM, n0 = blockIdx.y * T::BN;
  if (m0 >= N) return;
  const int wm = warp / T::WARPS_N * T::WM, wn = warp % T::WARPS_N * T::WN;

  for (int i = tid; i < T::BM * kTaps; i += T::THREADS)
    sNeighbors[i] = m0 + i / kTaps < N ? neighbors[(size_t)m0 * kTaps + i] : -1;
  __syncthreads();

  // K runs over channel chunks, the nine taps innermost: nine steps read the same channels of overlapping rows, so
  // eight hit L1.
  const int all_steps = (C + T::BK - 1) / T::BK * kTaps;
  const int steps_per_split = (all_steps + (int)gridDim.z - 1) / (int)gridDim.z;
  const int first = min((int)blockIdx.z * steps_per_split, all_steps), steps = min(steps_per_split, all_steps - first);

  const int copied_row = tid / T::CHUNKS, chunk = tid % T::CHUNKS;  // of A and of B, in each pass

  auto load = [&](int step, int stage) {
    const int c = (first + step) / kTaps * T::BK + chunk * kChunk, tap = (first + step) % kTaps;
    Element *a = sA + stage * T::A, *b = sB + stage * T::B;
#pragma unroll
    for (int p = 0; p < T::BM; p += T::ROWS) {
      const int row = p + copied_row, source = sNeighbors[row * kTaps + tap];
      const bool valid = source >= 0 && c < C;
      cp_async<16>(a + swizzle<T::BK>(row, chunk), x + (valid ? (size_t)source * C + c : 0), valid);
    }
#pragma unroll
    for (int p = 0; p < T::BN; p += T::ROWS) {
      const int row = p + copied_row;
      const bool valid = n0 + row < Cout && c < C;
      const size_t at = valid ? (size_t)((n0 + row) * kTaps + tap) * C + c : 0;
      cp_async_stream<16>(b + swizzle<T::BK>(row, chunk), weight + at, valid);
    }
  };

  float acc[T::MI][T::NI][4];
#pragma unroll
  for (int i = 0; i < T::MI; i++)
#pragma unroll
    for (int j = 0; j < T::NI; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;

  auto multiply = [&](int stage) {
    const Element *a = sA + stage * T::A, *b = sB + stage * T::B;
#pragma unroll
    for (int k = 0; k < T::BK / 16; k++) {
      unsigned fa[T::MI][4];
#pragma unroll
      for (int i = 0; i < T::MI; i++)
        ldmatrix_x4(fa[i], a + swizzle<T::BK>(wm + i * 16 + (lane & 15), k * 2 + (lane >> 4)));
#pragma unroll
      for (int j = 0; j < T::NI / 2; j++) {
        unsigned fb[4];
        ldmatrix_x4(fb, b + swizzle<T::BK>(wn + j * 16 + (lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
#pragma unroll
        for (int i = 0; i < T::MI; i++) {
          mma(acc[i][j * 2], fa[i], fb[0], fb[1]);
          mma(acc[i][j * 2 + 1], fa[i], fb[2], fb[3]);
        }
      }
    }
  };

  // Groups are committed even when empty, so that "all but the newest STAGES - 2" always means "the next step is here".
#pragma unroll
  for (int s = 0; s < T::STAGES - 1; s++) {
    if (s < steps) load(s, s);
    cp_async_commit();
  }
  cp_async_wait<T::STAGES - 2>();
  int stage = 0, next = T::STAGES - 1;  // the stage to multiply, the stage to fill
  for (int step = 0; step < steps; step++) {
    __syncthreads();  // `stage` is complete for all, `next` is read by none
    if (step + T::STAGES - 1 < steps) load(step + T::STAGES - 1, next);
    cp_async_commit();
    multiply(stage);
    next = stage;
    stage = stage + 1 == T::STAGES ? 0 : stage + 1;
    cp_async_wait<T::STAGES - 2>();
  }

  if (gridDim.z > 1) {  // split-K: the last block to arrive adds the parts, always in the same order
    const unsigned tile = blockIdx.y * gridDim.x + blockIdx.x;
    constexpr int QUADS = T::MI * T::NI;
    float4* const parts = (float4*)partial + (size_t)tile * gridDim.z * QUADS * T::THREADS + tid;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const float* v = acc[q / T::NI][q % T::NI];
      parts[((size_t)blockIdx.z * QUADS + q) * T::THREADS] = make_float4(v[0], v[1], v[2], v[3]);
    }
    if (!last_to_arrive(arrived + tile, gridDim.z, flag)) return;
#pragma unroll
    for (int i = 0; i < T::MI; i++)
#pragma unroll
      for (int j = 0; j < T::NI; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;
#pragma unroll(QUADS > 8 ? 1 : 2)
    for (int z = 0; z < (int)gridDim.z; z++)  // z outside: QUADS independent loads in flight
#pragma unroll
      for (int q = 0; q < QUADS; q++) {
        const float4 v = __ldcg(parts + ((size_t)z * QUADS + q) * T::THREADS);
        float* const sum = acc[q / T::NI][q % T::NI];
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
      }
  }

#pragma unroll
  for (int i = 0; i < T::MI; i++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = m0 + wm + i * 16 + h * 8 + (lane >> 2);
      if (row >= N) continue;
      const size_t at_image = embedding ? (size_t)image_of(starts, images, row) * Cout : 0;
#pragma unroll
      for (int j = 0; j < T::NI; j++) {
        const int col = n0 + wn + j * 8 + (lane & 3) * 2;
        if (col >= Cout) continue;
        float2 v = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
        if (opaque(bias)) v = add(v, bias + col);
        if (opaque(embedding)) v = add(v, embedding + at_image + col);
        if (opaque(residual)) v = add(v, residual + (size_t)row * Cout + col);
        *(Pair*)(out + (size_t)row * Cout + col) = pair(v.x, v.y);
      }
    }
}

}  // namespace rows

// One entry for each tile. Grid: (ceil(N / BM), ceil(Cout / BN), splits), block: THREADS, dynamic shared memory: SMEM
// bytes (above 48 KiB the launcher must raise the function's limit).
#define CONV_ROWS_ENTRY(name, ...)                                                                                     \
  extern "C" __global__ void                                                                                           \
      __launch_bounds__(rows::ConvTile<__VA_ARGS__>::THREADS, rows::ConvTile<__VA_ARGS__>::MIN_BLOCKS)                 \
          conv_rows_##name(const rows::Element* x, const int* neighbors, const rows::Element* weight,                  \
                           const rows::Element* bias, const rows::Element* embedding, const int* starts,               \
                           const rows::Element* residual, rows::Element* out, float* partial, unsigned* arrived,       \
                           int N, int C, int Cout, int images) {                                                       \
    rows::conv_rows<rows::ConvTile<__VA_ARGS__>>(                                                                      \
        x, neighbors, weight, bias, embedding, starts, residual, out, partial, arrived, N, C, Cout, images);           \
  }

// X(name, BM, BN, BK, warps along M, along N, stages) for each tile. A build that needs fewer defines its own list.
#ifndef CONV_ROWS_TILES
#define CONV_ROWS_TILES(X)                                                                                             \
  X(64x64x32, 64, 64, 32, 2, 2, 4)                                                                                     \
  X(64x64x64, 64, 64, 64, 2, 2, 3)                                                                                     \
  X(96x64x32, 96, 64, 32, 2, 2, 4)                                                                                     \
  X(128x64x32, 128, 64, 32, 2, 2, 4)                                                                                   \
  X(128x64x64, 128, 64, 64, 4, 2, 3)                                                                                   \
  X(128x128x32, 128, 128, 32, 2, 4, 4)                                                                                 \
  X(128x128x32w, 128, 128, 32, 2, 2, 4)                                                                                \
  X(256x64x32, 256, 64, 32, 4, 1, 4)
#endif
CONV_ROWS_TILES(CONV_ROWS_ENTRY)
