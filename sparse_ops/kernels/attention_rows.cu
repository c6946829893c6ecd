// Attention of rows over ragged images: softmax(q K^T * scale) V, flash style, one pass, fp32 softmax and sums.
//
// An image's queries are its active rows, and its keys any rows of its own: the whole map, active positions fresh and
// the others recorded (exact given the recording); the active rows alone; or a text. Keys and values lie image after
// image by key_starts, rows any multiple of 8 elements apart, so that K and V may be columns of one array, as they are
// recorded. Their order does not matter to softmax. An image without keys gives zeros.
//
// Not a list of row numbers, of fresh rows here and recorded ones there, though it was one once: a reader brings
// recorded rows from the host to their places among all keys as it is, with room for the fresh ones, and where inputs
// are recorded K and V are projected from that array. A list then is one array's numbers in order, and costs two
// shared slots, a wait before the first step and some registers.
//
// One block: 16 * WARPS queries of one image and head; grid (tiles, heads, splits of the keys). Which image and rows a
// tile is, a block finds out itself from where the images begin (`tile_of`), so the grid depends on N and the number of
// images alone, and a captured graph serves any shares of them; blocks behind the end return. Rows behind the last
// image (a bucket's padding) are an image without keys: zeros. 64 keys a step, two slots of K and V: while one is
// multiplied the other is copied. Q passes through the second slot into registers and stays there. One thread holds two
// query rows' parts: S 2 x 16 columns, O 2 x DP / 4. P never touches shared memory: the accumulator layout of S is the
// A layout of P V. There is an entry for each head size in multiples of 16, DP; a D between them is padded in shared
// memory by zero-filled copies (40 -> 48). A key behind the end is a row of zeros and a logit of -inf.
//
// What bounds it: a step is 16 * WARPS * 64 * D * 2 multiply-adds for 256 D bytes of K and V from L2: 32 a byte with 4
// warps, 64 with 8. Two images at 5 % of 96 x 96, five heads of 64: 9.06 GFLOP are 18 us of tensor cores; 64 queries a
// block draw 141 MB from L2, 26 us; 128 queries half of that. An H200 wants 8 warps where an image has more than 256 rows. 384
// rows are 3 or 6 tiles an image, so keys are split to fill the SMs; the last block of a tile to arrive joins the parts
// in split order (the same bits every run; the counter returns to zero).
//
// Registers: heads up to 64 take 93 to 128, so 16 warps are resident, if the addresses of shared memory are made anew
// in each step (`opaque`): NVRTC 13.0 for sm_100 and later else keeps them, and spills 24 to 88 bytes under a cap of
// 128. Up to 80 it is 12 warps (4 to a block; with 8, one block), above 8 warps (157 to 226 registers).
#include "rows.cuh"

namespace rows {

constexpr int kKeys = 64;  // keys a step
template <int DP_, int WARPS_> struct AttentionTile {
  static constexpr int DP = DP_, WARPS = WARPS_, THREADS = 32 * WARPS;  // DP: head size in shared memory
  static constexpr int QUERIES = 16 * WARPS;
  static constexpr int CHUNKS = DP / kChunk;
  static constexpr int KI = DP / 16, DI = DP / 8, SI = kKeys / 8;  // mma tiles: Q K^T steps, columns of O, of S
  static constexpr int SLOT = 2 * kKeys * DP;  // K then V of one step
  static constexpr int SMEM = 2 * SLOT * 2 + 16;
  // How many warps a multiprocessor holds: caps the registers at 128, 168 (255 with 8 warps) and 255.
  static constexpr int RESIDENT = DP <= 64 ? 16 : DP <= 80 ? 12 : 8;
  static constexpr int MIN_BLOCKS = RESIDENT / WARPS;
  static_assert(DP % 16 == 0 && QUERIES <= 2 * kKeys, "Q is staged in one slot");
};

template <class T>
__device__ __forceinline__ void attention_rows(
    const Element* __restrict__ q,       // [N, heads, D], rows q_stride apart
    const Element* __restrict__ k,       // [L, heads, D], rows key_stride apart
    const Element* __restrict__ v,       // the same
    const int* __restrict__ starts,      // [images + 1] where each image's queries begin
    const int* __restrict__ key_starts,  // [images + 1] where its keys begin
    Element* __restrict__ out,           // [N, heads, D]
    float* __restrict__ partial,         // [tiles, heads, splits, (DI + 1) * 4 * THREADS], if gridDim.z > 1
    unsigned* __restrict__ arrived,      // [tiles, heads] zeros, if gridDim.z > 1
    int N, int images, int D,            // DP - 16 < D <= DP, a multiple of 8
    int q_stride, int key_stride,
    float scale_log2) {                  // softmax scale * log2(e)
  DYN_SMEM(Element, smem);  // [2][K: kKeys x DP, V: kKeys x DP] swizzled
  int* const flag = (int*)(smem + 2 * T::SLOT);
  int* const sRows = flag + 1;  // [2] of the tile: first, last + 1. Not in registers during the loop

  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int head = blockIdx.y;
  const Tile tile = tile_of(starts, images, N, T::QUERIES, blockIdx.x);
  if (tile.first == tile.last) return;
  if (tid == 0) sRows[0] = tile.first, sRows[1] = tile.last;

  int first_key = 0, num_keys = 0;
  if (tile.image < images) first_key = key_starts[tile.image], num_keys = key_starts[tile.image + 1] - first_key;
  const int per_split = ((num_keys + kKeys - 1) / kKeys + (int)gridDim.z - 1) / (int)gridDim.z * kKeys;
  first_key += (int)blockIdx.z * per_split;  // this block's share of the keys
  num_keys = max(min(per_split, num_keys - (int)blockIdx.z * per_split), 0);
  const int at_head = head * D;

  // K and V of one step: keys `key` on, `left` to the end.
  auto load = [&](int slot, int key, int left) {
    Element* const to_k = smem + slot * T::SLOT;
    Element* const to_v = to_k + kKeys * T::DP;
    const int tid = opaque((int)threadIdx.x);
#pragma unroll 1
    for (int p = 0; p < (kKeys * T::CHUNKS + T::THREADS - 1) / T::THREADS; p++) {
      const int i = tid + p * T::THREADS;
      if (kKeys * T::CHUNKS % T::THREADS && i >= kKeys * T::CHUNKS) break;
      const int row = i / T::CHUNKS, chunk = i % T::CHUNKS;
      const bool valid = row < left && chunk * kChunk < D;
      const size_t at = valid ? (size_t)(key + row) * key_stride + at_head + chunk * kChunk : 0;
      cp_async_stream<16>(to_k + swizzle<T::DP>(row, chunk), k + at, valid);
      cp_async_stream<16>(to_v + swizzle<T::DP>(row, chunk), v + at, valid);
    }
  };

  // Q passes through slot 1 into registers, where it stays.
  for (int i = tid; i < T::QUERIES * T::CHUNKS; i += T::THREADS) {
    const int row = i / T::CHUNKS, chunk = i % T::CHUNKS;
    const bool valid = tile.first + row < tile.last && chunk * kChunk < D;
    const size_t at = valid ? (size_t)(tile.first + row) * q_stride + at_head + chunk * kChunk : 0;
    cp_async_stream<16>(smem + T::SLOT + swizzle<T::DP>(row, chunk), q + at, valid);
  }
  cp_async_commit();
  if (num_keys > 0) load(0, first_key, num_keys);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  unsigned fq[T::KI][4];
#pragma unroll
  for (int k = 0; k < T::KI; k++)
    ldmatrix_x4(fq[k], smem + T::SLOT + swizzle<T::DP>(warp * 16 + (lane & 15), k * 2 + (lane >> 4)));

  // One thread holds rows g = lane / 4 and g + 8 of its warp's 16 queries: the running maximum m, sum l and output o.
  float o[T::DI][4], m[2] = {minus_infinity(), minus_infinity()}, l[2] = {0.f, 0.f};
#pragma unroll
  for (int j = 0; j < T::DI; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) o[j][e] = 0.f;

  int slot = 0;
  for (int left = num_keys; left > 0; left -= kKeys, first_key += kKeys, slot ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // this step's K and V are there; the other slot is read by none
    if (left > kKeys) load(slot ^ 1, first_key + kKeys, left - kKeys);
    cp_async_commit();
    const int lane = opaque(tid & 31);  // else registers hold all addresses of fragments
    const Element* const k_tile = smem + slot * T::SLOT;
    const Element* const v_tile = k_tile + kKeys * T::DP;

    float s[T::SI][4];
#pragma unroll
    for (int j = 0; j < T::SI; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[j][e] = 0.f;
#pragma unroll
    for (int k = 0; k < T::KI; k++)
#pragma unroll
      for (int j = 0; j < T::SI / 2; j++) {
        unsigned b[4];
        ldmatrix_x4(b, k_tile + swizzle<T::DP>(j * 16 + (lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
        mma(s[j * 2], fq[k], b[0], b[1]);
        mma(s[j * 2 + 1], fq[k], b[2], b[3]);
      }

    if (left < kKeys) {
#pragma unroll
      for (int j = 0; j < T::SI; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (j * 8 + (lane & 3) * 2 + (e & 1) >= left) s[j][e] = minus_infinity();
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
      float top = m[h];
#pragma unroll
      for (int j = 0; j < T::SI; j++) top = fmaxf(top, fmaxf(s[j][h * 2], s[j][h * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      // top is finite: a step has at least one key
      const float shrink = exp2_fast((m[h] - top) * scale_log2), at = top * scale_log2;
      m[h] = top;
      float sum = 0.f;
#pragma unroll
      for (int j = 0; j < T::SI; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) sum += s[j][h * 2 + e] = exp2_fast(s[j][h * 2 + e] * scale_log2 - at);
      l[h] = l[h] * shrink + sum;  // over this thread's columns; the four lanes of a row are added at the end
#pragma unroll
      for (int j = 0; j < T::DI; j++) o[j][h * 2] *= shrink, o[j][h * 2 + 1] *= shrink;
    }

#pragma unroll
    for (int k = 0; k < kKeys / 16; k++) {  // the accumulator layout of S is the A layout of P
      const float *left_s = s[k * 2], *right_s = s[k * 2 + 1];
      const unsigned p[4] = {bits(pair(left_s[0], left_s[1])), bits(pair(left_s[2], left_s[3])),
                             bits(pair(right_s[0], right_s[1])), bits(pair(right_s[2], right_s[3]))};
#pragma unroll
      for (int j = 0; j < T::DI / 2; j++) {
        unsigned b[4];
        ldmatrix_x4_trans(b, v_tile + swizzle<T::DP>(k * 16 + (lane & 15), j * 2 + (lane >> 4)));
        mma(o[j * 2], p, b[0], b[1]);
        mma(o[j * 2 + 1], p, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    l[h] += __shfl_xor_sync(0xffffffffu, l[h], 1);
    l[h] += __shfl_xor_sync(0xffffffffu, l[h], 2);
  }

  if (gridDim.z > 1) {  // the last block to arrive joins the splits, always in the same order
    const size_t at = (size_t)blockIdx.x * gridDim.y + head;
    float4* const parts = (float4*)partial + at * gridDim.z * (T::DI + 1) * T::THREADS + tid;
    float4* const mine = parts + (size_t)blockIdx.z * (T::DI + 1) * T::THREADS;
#pragma unroll
    for (int j = 0; j < T::DI; j++) mine[j * T::THREADS] = make_float4(o[j][0], o[j][1], o[j][2], o[j][3]);
    mine[T::DI * T::THREADS] = make_float4(m[0], l[0], m[1], l[1]);
    if (!last_to_arrive(arrived + at, gridDim.z, flag)) return;
    m[0] = m[1] = minus_infinity(), l[0] = l[1] = 0.f;
#pragma unroll
    for (int j = 0; j < T::DI; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.f;
    for (int z = 0; z < (int)gridDim.z; z++) {
      const float4* const part = parts + (size_t)z * (T::DI + 1) * T::THREADS;
      const float4 ml = __ldcg(part + T::DI * T::THREADS);
      if (ml.y == 0.f) continue;  // a split without keys (the same for every row of the tile)
      const float top0 = fmaxf(m[0], ml.x), top1 = fmaxf(m[1], ml.z);
      const float a0 = exp2_fast((m[0] - top0) * scale_log2), b0 = exp2_fast((ml.x - top0) * scale_log2);
      const float a1 = exp2_fast((m[1] - top1) * scale_log2), b1 = exp2_fast((ml.z - top1) * scale_log2);
      m[0] = top0, l[0] = l[0] * a0 + ml.y * b0, m[1] = top1, l[1] = l[1] * a1 + ml.w * b1;
#pragma unroll
      for (int j = 0; j < T::DI; j++) {
        const float4 v = __ldcg(part + j * T::THREADS);
        o[j][0] = o[j][0] * a0 + v.x * b0, o[j][1] = o[j][1] * a0 + v.y * b0;
        o[j][2] = o[j][2] * a1 + v.z * b1, o[j][3] = o[j][3] * a1 + v.w * b1;
      }
    }
  }

#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = sRows[0] + warp * 16 + h * 8 + (lane >> 2);
    if (row >= sRows[1]) continue;
    const float scale = l[h] > 0.f ? 1.f / l[h] : 0.f;  // no keys: zeros
    Element* const to = out + (size_t)row * gridDim.y * D + at_head;
#pragma unroll
    for (int j = 0; j < T::DI; j++) {
      const int d = j * 8 + (lane & 3) * 2;
      if (d < D) *(Pair*)(to + d) = pair(o[j][h * 2] * scale, o[j][h * 2 + 1] * scale);
    }
  }
}

}  // namespace rows

// One entry for each padded head size and number of warps. Grid: (ceil(N / QUERIES) + images, heads, splits), block:
// 32 * WARPS, dynamic shared memory: SMEM bytes (above 48 KiB the launcher must raise the function's limit).
#define ATTENTION_ROWS_ENTRY(DP, WARPS)                                                                                \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, rows::AttentionTile<DP, WARPS>::MIN_BLOCKS)                 \
      attention_rows_##DP##_##WARPS(                                                                                   \
          const rows::Element* q, const rows::Element* k, const rows::Element* v, const int* starts,                   \
          const int* key_starts, rows::Element* out, float* partial, unsigned* arrived, int N, int images, int D,      \
          int q_stride, int key_stride, float scale_log2) {                                                            \
    rows::attention_rows<rows::AttentionTile<DP, WARPS>>(                                                              \
        q, k, v, starts, key_starts, out, partial, arrived, N, images, D, q_stride, key_stride, scale_log2);           \
  }

// X(padded head size, warps) for each entry. A build that needs fewer defines its own list.
#ifndef ATTENTION_ROWS_ENTRIES
#define ATTENTION_ROWS_ENTRIES(X)                                                                                      \
  X(32, 4) X(48, 4) X(64, 4) X(80, 4) X(96, 4) X(112, 4) X(128, 4) X(144, 4) X(160, 4)                                 \
  X(32, 8) X(48, 8) X(64, 8) X(80, 8) X(96, 8) X(112, 8) X(128, 8) X(144, 8) X(160, 8)
#endif
ATTENTION_ROWS_ENTRIES(ATTENTION_ROWS_ENTRY)
