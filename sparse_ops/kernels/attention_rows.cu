// Attention of listed rows over ragged images: softmax(q K^T * scale) V, flash style, one pass, fp32 softmax and sums.
//
// An image's queries are its active rows. Its keys are a list of row numbers, one per key: r >= 0 is a row computed now
// (fresh), r < 0 is the recorded row -1 - r. So one kernel is
//     recorded     the whole map, active positions fresh, the others recorded: exact given the recording
//     masked only  keys = null: the image's own fresh rows (key_offsets = offsets)
//     text         keys = null: K and V of the prompt passed as the fresh rows, key_offsets = 0, 77, 154, ...
// Several images that share a recording hold the same negative numbers. A recording of which only the readable rows
// were moved to the device is the same list with other numbers. Order does not matter to softmax, but neighbours in the
// list should be neighbours in memory.
//
// Why a list, not two segments (recorded rows with the active ones masked out, then fresh rows): the list has exactly H
// W keys, the segments H W + N_b, which is 5 to 30 % more products and a mask test for every logit; the list costs one
// int per key, tile and head (256 bytes beside 16 KiB of K and V at D = 64), and rows are gathered at no loss because a
// row of a head is D * 2 = 80 to 320 contiguous bytes either way. The list travels by cp.async one step ahead of the
// rows it names, so no load waits for another.
//
// One block: 16 * WARPS queries of one image and head; grid (tiles, heads, splits of the keys). 64 keys a step, two
// slots of K and V: while one is multiplied the other is copied. Q passes through the second slot into registers and
// stays there. One thread holds two query rows' parts: S 2 x 16 columns, O 2 x DP / 4. P never touches shared memory:
// the accumulator layout of S is the A layout of P V. D is padded to 16 in shared memory by zero-filled copies (40 ->
// 48). A key behind the end is a row of zeros and a logit of -inf.
//
// What bounds it: a step is 16 * WARPS * 64 * D * 2 multiply-adds for 256 D bytes of K and V from L2: 32 a byte with 4
// warps, 64 with 8. Two images at 5 % of 96 x 96, five heads of 64: 9.06 GFLOP are 18 us of tensor cores; 64 queries a
// block draw 141 MB from L2, 26 us; 128 queries half of that. Take 8 warps wherever an image has more than 64 rows. 384
// rows are 3 or 6 tiles an image, so keys are split to fill the SMs; the last block of a tile to arrive joins the parts
// in split order (the same bits every run; the counter returns to zero).
//
// Registers: NVRTC 13.0 takes a few more for sm_120 than for sm_80 to sm_100, and spills 8 to 20 bytes of D = 64 under
// a cap of 128. There D = 64 is compiled for 12 resident warps instead of 16: with 4 warps nothing is lost, since 33
// KiB of shared memory fit only twice into sm_120's 100; with 8 warps one block is resident instead of two.
#include "rows.cuh"

namespace rows {

constexpr int kKeys = 64;  // keys a step
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kManyResident = 48;  // the largest padded head size that 128 registers hold without a spill
#else
constexpr int kManyResident = 64;
#endif

template <int D_, int WARPS_> struct AttentionTile {
  static constexpr int D = D_, WARPS = WARPS_, THREADS = 32 * WARPS;
  static constexpr int DP = (D + 15) / 16 * 16;  // head size in shared memory, zeros behind D
  static constexpr int QUERIES = 16 * WARPS;
  static constexpr int CHUNKS = DP / kChunk;
  static constexpr int KI = DP / 16, DI = DP / 8, SI = kKeys / 8;  // mma tiles: Q K^T steps, columns of O, of S
  static constexpr int SLOT = 2 * kKeys * DP;  // K then V of one step
  static constexpr int SMEM = 2 * SLOT * 2 + 2 * kKeys * 4 + 16;
  // How many warps a multiprocessor holds: caps the registers at 128, 168 (255 with 8 warps) and 255.
  static constexpr int RESIDENT = DP <= kManyResident ? 16 : DP <= 80 ? 12 : 8;
  static constexpr int MIN_BLOCKS = RESIDENT / WARPS;
  static_assert(D % kChunk == 0 && QUERIES <= 2 * kKeys, "Q is staged in one slot");
};

template <class T>
__device__ __forceinline__ void attention_rows(
    const Element* __restrict__ q,           // [N, heads, D], rows q_stride apart
    const Element* __restrict__ fresh_k,     // [F, heads, D], rows fresh_stride apart
    const Element* __restrict__ fresh_v,     //
    const Element* __restrict__ recorded_k,  // [R, heads, D], recorded_stride apart; null if keys names none
    const Element* __restrict__ recorded_v,  //
    const int* __restrict__ keys,            // [sum of keys]: fresh row r, or recorded row -1 - r; null: fresh row i
    const int* __restrict__ key_offsets,     // [B + 1] where each image's keys begin
    const int* __restrict__ tiles,           // [tiles, 3]: image (-1: none), first row, last + 1 (at most QUERIES rows)
    Element* __restrict__ out,               // [N, heads, D], rows out_stride apart
    float* __restrict__ partial,             // [tiles, heads, splits, (DI + 1) * 4 * THREADS], if gridDim.z > 1
    unsigned* __restrict__ arrived,          // [tiles, heads] zeros, if gridDim.z > 1
    int q_stride, int fresh_stride, int recorded_stride, int out_stride,
    float scale_log2) {  // softmax scale * log2(e)
  DYN_SMEM(Element, smem);  // [2][K: kKeys x DP, V: kKeys x DP] swizzled
  int* const sKeys = (int*)(smem + 2 * T::SLOT);  // [2][kKeys]
  int* const flag = sKeys + 2 * kKeys;

  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int tile = blockIdx.x, head = blockIdx.y;
  const int image = tiles[tile * 3];
  if (image < 0) return;  // a grid may be larger than the batch (graphs by bucket)

  int first_key = key_offsets[image], num_keys = key_offsets[image + 1] - first_key;
  const int per_split = ((num_keys + kKeys - 1) / kKeys + (int)gridDim.z - 1) / (int)gridDim.z * kKeys;
  first_key += (int)blockIdx.z * per_split;  // this block's share of the keys
  num_keys = max(min(per_split, num_keys - (int)blockIdx.z * per_split), 0);
  const int at_head = head * T::D;

  // Where the rows of one step's keys (key ..., `left` to the end) lie.
  auto load_keys = [&](int slot, int key, int left) {
    if (tid < min(left, kKeys)) {
      int* const to = sKeys + slot * kKeys + tid;
      if (keys) cp_async<4>(to, keys + key + tid, true);
      else *to = key + tid;
    }
  };
  // K and V of one step, wherever each row lies.
  auto load = [&](int slot, int left) {
    Element* const k = smem + slot * T::SLOT;
    Element* const v = k + kKeys * T::DP;
#pragma unroll 2
    for (int p = 0; p < (kKeys * T::CHUNKS + T::THREADS - 1) / T::THREADS; p++) {
      const int i = tid + p * T::THREADS;
      if (kKeys * T::CHUNKS % T::THREADS && i >= kKeys * T::CHUNKS) break;
      const int row = i / T::CHUNKS, chunk = i % T::CHUNKS;
      const bool valid = row < left && chunk * kChunk < T::D;
      const int r = valid ? sKeys[slot * kKeys + row] : 0;
      const bool is_fresh = r >= 0;
      const size_t at_row = is_fresh ? (size_t)r * fresh_stride : (size_t)(-1 - r) * recorded_stride;
      const size_t at = at_row + (valid ? at_head + chunk * kChunk : 0);
      cp_async_stream<16>(k + swizzle<T::DP>(row, chunk), (is_fresh ? fresh_k : recorded_k) + at, valid);
      cp_async_stream<16>(v + swizzle<T::DP>(row, chunk), (is_fresh ? fresh_v : recorded_v) + at, valid);
    }
  };

  // Q passes through slot 1 into registers, where it stays.
  const int first_row = tiles[tile * 3 + 1], last_row = tiles[tile * 3 + 2];
  for (int i = tid; i < T::QUERIES * T::CHUNKS; i += T::THREADS) {
    const int row = i / T::CHUNKS, chunk = i % T::CHUNKS;
    const bool valid = first_row + row < last_row && chunk * kChunk < T::D;
    const size_t at = valid ? (size_t)(first_row + row) * q_stride + at_head + chunk * kChunk : 0;
    cp_async_stream<16>(smem + T::SLOT + swizzle<T::DP>(row, chunk), q + at, valid);
  }
  load_keys(0, first_key, num_keys);
  load_keys(1, first_key + kKeys, num_keys - kKeys);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  if (num_keys > 0) load(0, num_keys);
  cp_async_commit();
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
    __syncthreads();  // this step's K, V and the next step's list are there; the other slot is read by none
    if (left > kKeys) load(slot ^ 1, left - kKeys);
    load_keys(slot, first_key + 2 * kKeys, left - 2 * kKeys);
    cp_async_commit();
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
    const size_t at = (size_t)tile * gridDim.y + head;
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
    const volatile int* const again = tiles + tile * 3;  // read again: two registers fewer in the loop
    const int row = again[1] + warp * 16 + h * 8 + (lane >> 2);
    if (row >= again[2]) continue;
    const float scale = l[h] > 0.f ? 1.f / l[h] : 0.f;  // no keys: zeros
    Element* const to = out + (size_t)row * out_stride + at_head;
#pragma unroll
    for (int j = 0; j < T::DI; j++) {
      const int d = j * 8 + (lane & 3) * 2;
      if (d < T::D) *(Pair*)(to + d) = pair(o[j][h * 2] * scale, o[j][h * 2 + 1] * scale);
    }
  }
}

}  // namespace rows

// One entry for each head size and number of warps. Grid: (tiles, heads, splits), block: 32 * WARPS, dynamic shared
// memory: SMEM bytes (above 48 KiB the launcher must raise the function's limit).
#define ATTENTION_ROWS_ENTRY(D, WARPS)                                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, rows::AttentionTile<D, WARPS>::MIN_BLOCKS)                  \
      attention_rows_##D##_##WARPS(                                                                                    \
          const rows::Element* q, const rows::Element* fresh_k, const rows::Element* fresh_v,                          \
          const rows::Element* recorded_k, const rows::Element* recorded_v, const int* keys, const int* key_offsets,   \
          const int* tiles, rows::Element* out, float* partial, unsigned* arrived, int q_stride, int fresh_stride,     \
          int recorded_stride, int out_stride, float scale_log2) {                                                     \
    rows::attention_rows<rows::AttentionTile<D, WARPS>>(                                                               \
        q, fresh_k, fresh_v, recorded_k, recorded_v, keys, key_offsets, tiles, out, partial, arrived, q_stride,        \
        fresh_stride, recorded_stride, out_stride, scale_log2);                                                        \
  }

// X(head size, warps) for each entry. A build that needs fewer defines its own list.
#ifndef ATTENTION_ROWS_ENTRIES
#define ATTENTION_ROWS_ENTRIES(X) X(40, 4) X(64, 4) X(80, 4) X(160, 4) X(40, 8) X(64, 8) X(80, 8) X(160, 8)
#endif
ATTENTION_ROWS_ENTRIES(ATTENTION_ROWS_ENTRY)
