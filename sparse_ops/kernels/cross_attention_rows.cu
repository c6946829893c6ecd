// Attention of rows to the text of their image, whose maps may be changed on the way, and kept (Prompt-to-Prompt).
//
//     A[n, h, t]  = softmax over t of  q[n, h] . k[b, t, h] * scale            b = image of n, T tokens, D channels
//     A'[n, h, t] = alpha[b, t] * moved[n, h, t] + (1 - alpha[b, t]) * A[n, h, t]        with moved; else A
//     out[n, h]   = sum over t of  A'[n, h, t] * v[b, t, h]
//     maps        = A', if asked for
//
// T is at most 256, D a multiple of 8 up to 160. A' goes into out in fp32 and is rounded only where it is kept. Padding
// behind the last image gets zeros in out and maps. Exact up to rounding: fp32 throughout, one rounding.
//
// One block: 16 rows of one image, one head; grid (tiles of rows, heads). K, then V pass through shared memory 64
// tokens at a time. Logits and maps stay in shared memory, [16][T] floats. One warp: two rows. For the logits a lane is
// a token (its K row against both Q rows, which all lanes read at once), for the softmax again a token, for the result
// a pair of channels. So everything in global memory is read and written in order of its addresses. Rows of K are an
// odd number of 16-byte chunks apart, so that eight lanes fall into eight bank groups.
//
// What bounds it: arithmetic, as no tensor core is used. [2 * 9216, 5, 77] maps at D = 64 are .9 G multiply-adds, 110
// us at a quarter of an H200's fp32 rate (conversions and shared memory cost as much as the products); the maps are 14
// MB, 3.5 us to write at 4.1 TB/s and as long to read. It is clear before it is fast: it runs in the steps that find a
// mask or are recorded with their maps. Every other step has attention_rows.cu.
#include "rows.cuh"

namespace rows {

constexpr int kTextRows = 16, kTextWarps = 8;  // of a block: two rows for each warp
constexpr int kTextTokens = 64;  // of K or V in shared memory: two for each lane
constexpr int kMostHead = 160;
constexpr int kTextThreads = 32 * kTextWarps, kOwn = kTextRows / kTextWarps;
constexpr int kPairs = (kMostHead / 2 + 31) / 32;  // pairs of channels of one lane

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int m = 16; m; m /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, m));
  return x;
}

// The inner product of 8 elements.
__device__ __forceinline__ float dot(uint4 a, uint4 b) {
  const unsigned u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 x = floats(pair_of(u[i])), y = floats(pair_of(v[i]));
    sum += x.x * y.x + x.y * y.y;
  }
  return sum;
}

}  // namespace rows

// Grid: (ceil(N / 16) + images, heads), blocks of 256 threads; dynamic shared memory: (16 + 64) * ((D / 8) | 1) * 16 +
// 16 * T * 4 bytes.
extern "C" __global__ void __launch_bounds__(rows::kTextThreads) cross_attention_rows(
    const rows::Element* __restrict__ q,      // [N, heads, D]
    const rows::Element* __restrict__ k,      // [images, T, heads, D]
    const rows::Element* __restrict__ v,      // [images, T, heads, D]
    const int* __restrict__ starts,           // [images + 1] where each image's rows begin
    const rows::Element* __restrict__ moved,  // [N, heads, T] or null
    const float* __restrict__ alpha,          // [images, T], with moved
    rows::Element* __restrict__ out,          // [N, heads, D]
    rows::Element* __restrict__ maps,         // [N, heads, T] or null
    int N, int images, int T, int D, float scale_log2) {  // scale * log2(e)
  using namespace rows;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, heads = gridDim.y, head = blockIdx.y;
  const int chunks = D / kChunk, stride = chunks | 1;  // of a row in shared memory, in chunks
  DYN_SMEM(uint4, smem);
  uint4* const sQ = smem;  // [kTextRows][stride]
  uint4* const sText = sQ + kTextRows * stride;  // [kTextTokens][stride] of K, then of V
  float* const sMaps = (float*)(sText + kTextTokens * stride);  // [kTextRows][T]

  const Tile tile = tile_of(starts, images, N, kTextRows, blockIdx.x);
  const int num_rows = tile.last - tile.first;
  if (num_rows == 0) return;
  const auto at_row = [&](int row) { return (size_t)(tile.first + row) * heads + head; };  // in q, out and maps
  if (tile.image == images) {  // padding
    for (int i = tid; i < num_rows * D; i += kTextThreads) out[at_row(i / D) * D + i % D] = Element(0.f);
    for (int i = tid; maps && i < num_rows * T; i += kTextThreads) maps[at_row(i / T) * T + i % T] = Element(0.f);
    return;
  }

  // Rows of one head, [heads][D] each, into shared memory; zeros behind the last.
  const auto copy = [&](uint4* to, const Element* from, int num, int valid) {
    for (int i = tid; i < num * chunks; i += kTextThreads) {
      const int row = i / chunks, chunk = i % chunks;
      const size_t at = ((size_t)row * heads + head) * D + chunk * kChunk;
      to[row * stride + chunk] = row < valid ? *(const uint4*)(from + at) : make_uint4(0, 0, 0, 0);
    }
  };
  // K or V of up to 64 tokens into shared memory; how many they are.
  const auto stage = [&](const Element* text, int first) {
    const int num = min(T - first, kTextTokens);
    __syncthreads();  // what was there is read by none
    copy(sText, text + ((size_t)tile.image * T + first) * heads * D, num, num);
    __syncthreads();
    return num;
  };
  const int own = warp * kOwn;  // this warp's first row
  float* const sOwn = sMaps + own * T;  // [kOwn][T]

  copy(sQ, q + (size_t)tile.first * heads * D, kTextRows, num_rows);
  for (int first = 0; first < T; first += kTextTokens) {
    const int num = stage(k, first);
    for (int t = lane; t < num; t += 32) {
      float logits[kOwn] = {};
      for (int chunk = 0; chunk < chunks; chunk++) {
        const uint4 of_token = sText[t * stride + chunk];
#pragma unroll
        for (int r = 0; r < kOwn; r++) logits[r] += dot(sQ[(own + r) * stride + chunk], of_token);
      }
#pragma unroll
      for (int r = 0; r < kOwn; r++) sOwn[r * T + first + t] = logits[r] * scale_log2;
    }
  }

  for (int r = 0; r < kOwn && own + r < num_rows; r++) {  // a lane reads only what it wrote
    float* const row = sOwn + r * T;
    float top = minus_infinity(), sum = 0.f;
    for (int t = lane; t < T; t += 32) top = fmaxf(top, row[t]);
    top = warp_max(top);
    for (int t = lane; t < T; t += 32) sum += row[t] = exp2_fast(row[t] - top);
    const float normaliser = 1.f / warp_sum(sum);
    for (int t = lane; t < T; t += 32) {
      const size_t at = at_row(own + r) * T + t;
      float map = row[t] * normaliser;
      if (moved) {
        const float share = alpha[tile.image * T + t];
        map = share * (float)moved[at] + (1.f - share) * map;
      }
      row[t] = map;
      if (maps) maps[at] = Element(map);
    }
  }

  float sums[kOwn][kPairs][2] = {};
  for (int first = 0; first < T; first += kTextTokens) {
    const int num = stage(v, first);  // its barriers show the maps to all lanes
    for (int t = 0; t < num; t++)
#pragma unroll
      for (int p = 0; p < kPairs; p++) {
        const int column = (lane + 32 * p) * 2;
        if (column >= D) continue;
        const float2 value = floats(*(const Pair*)((const Element*)(sText + t * stride) + column));
#pragma unroll
        for (int r = 0; r < kOwn; r++) {
          const float map = sOwn[r * T + first + t];
          sums[r][p][0] += map * value.x, sums[r][p][1] += map * value.y;
        }
      }
  }
#pragma unroll
  for (int r = 0; r < kOwn; r++)
#pragma unroll
    for (int p = 0; p < kPairs; p++) {
      const int column = (lane + 32 * p) * 2;
      if (own + r >= num_rows || column >= D) continue;
      *(Pair*)(out + at_row(own + r) * D + column) = pair(sums[r][p][0], sums[r][p][1]);
    }
}
