// What a 3x3 convolution gathers from: rows and halo in one array, normalised and activated on the way.
//
//     y[n, c] = act(x[n, c] * scale[b, c] + shift[b, c])      x = rows, then halo; b = image of n
//     scale[b, c] = gamma[c] / sqrt(variance[b, g] + eps),  shift[b, c] = beta[c] - mean[b, g] * scale[b, c]
//
// act is SiLU or nothing; g = c / (C / G), any number of channels a group. Without statistics (null) it is a copy. The
// halo comes in up to two parts side by side, as the two inputs of a resnet behind a skip connection are recorded: the
// first halo_columns columns from the one, the rest from the other. Rows may be any multiple of 8 elements apart, so
// each part may be some columns of a wider array; all widths are multiples of 8. No row of zeros is written: conv_rows
// knows -1, as zero padding comes after the activation. Exact up to rounding: fp32, one rounding.
//
// One thread: the same 8 channels of kActivatedRows rows in a row, all read before the first is used. Scale and shift
// are computed again only where the image changes, so mostly once: 8 inverse square roots a thread, beside two
// special-function operations a value. Threads are a flat list of (group of rows, chunk of channels), chunks fastest: a
// warp reads and writes 512 contiguous bytes, and no lane idles whatever C is.
//
// What bounds it: 2 bytes read and 2 written an element, from L2 to L2, 5.5 TB/s on an H200: (768 + 432) rows x 960
// channels are .8 us, and 2.25 special-function operations an element at 16 a clock and SM .7 us beside it. So it costs
// a launch, about 2 us in a graph, as the concatenation of rows and halo would that it replaces.
#include "rows.cuh"

namespace rows {

constexpr int kActivatedThreads = 128;
constexpr int kActivatedRows = 4;  // of one thread

struct Affine {
  float scale[kChunk], shift[kChunk];
};

// One image's group norm, as what it does to channels c .. c + 7.
__device__ __forceinline__ Affine affine_of(
    const float* __restrict__ mean,      // [groups] of the image
    const float* __restrict__ variance,  // [groups]
    const Element* __restrict__ gamma,   // [C]
    const Element* __restrict__ beta,    // [C]
    int c, int per_group, float eps) {
  Affine of;
  int group = c / per_group, in_group = c - group * per_group;
#pragma unroll
  for (int i = 0; i < kChunk; i += 2) {
    const float2 g = floats(*(const Pair*)(gamma + c + i)), b = floats(*(const Pair*)(beta + c + i));
#pragma unroll
    for (int j = 0; j < 2; j++) {
      of.scale[i + j] = (j ? g.y : g.x) * rsqrtf(__ldg(variance + group) + eps);
      of.shift[i + j] = (j ? b.y : b.x) - __ldg(mean + group) * of.scale[i + j];
      if (++in_group == per_group) in_group = 0, group++;
    }
  }
  return of;
}

__device__ __forceinline__ uint4 apply(const Affine& of, uint4 v, bool activate) {
  unsigned u[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float2 x = floats(pair_of(u[i]));
    x.x = x.x * of.scale[2 * i] + of.shift[2 * i], x.y = x.y * of.scale[2 * i + 1] + of.shift[2 * i + 1];
    u[i] = activate ? bits(pair(silu(x.x), silu(x.y))) : bits(pair(x.x, x.y));
  }
  return make_uint4(u[0], u[1], u[2], u[3]);
}

}  // namespace rows

// Grid: ceil(ceil((N + M) / 4) * C / 8 / 128) blocks of 128 threads; no shared memory. Nothing is launched for no rows.
// N + M and C together: (N + M) * C / 32 < 2^31.
extern "C" __global__ void __launch_bounds__(rows::kActivatedThreads) activate_rows(
    const rows::Element* __restrict__ x,           // [N, C], x_stride apart
    const rows::Element* __restrict__ halo,        // [M, halo_columns], halo_stride apart
    const rows::Element* __restrict__ other_halo,  // [M, C - halo_columns], other_stride apart
    const int* __restrict__ starts,                // [images + 1] where each image's rows begin; with statistics
    const int* __restrict__ halo_starts,           // [images + 1]; with statistics, if M
    const float* __restrict__ statistics,          // [images, 2, groups] mean and variance; null: a copy
    const rows::Element* __restrict__ gamma,       // [C]
    const rows::Element* __restrict__ beta,        // [C]
    rows::Element* __restrict__ y,                 // [N + M, C]
    int N, int M, int C, int halo_columns, int x_stride, int halo_stride, int other_stride, int images, int groups,
    int statistics_stride, float eps, int activate) {
  using namespace rows;
  const int chunks = C / kChunk, i = blockIdx.x * kActivatedThreads + threadIdx.x;
  const int first = i / chunks * kActivatedRows, c = i % chunks * kChunk, left = min(N + M - first, kActivatedRows);

  uint4 v[kActivatedRows];
#pragma unroll
  for (int r = 0; r < kActivatedRows; r++) {
    if (r >= left) continue;
    const int n = first + r;
    const Element* const from = n < N              ? x + (size_t)n * x_stride + c
                                : c < halo_columns ? halo + (size_t)(n - N) * halo_stride + c
                                                   : other_halo + (size_t)(n - N) * other_stride + c - halo_columns;
    v[r] = *(const uint4*)from;
  }
  int image = -1;
  Affine of;
#pragma unroll
  for (int r = 0; r < kActivatedRows; r++) {
    if (r >= left) continue;
    const int n = first + r;
    if (statistics) {
      const int own = n < N ? image_of(starts, images, n) : image_of(halo_starts, images, n - N);
      const float* const mean = statistics + (size_t)own * statistics_stride;
      if (own != image) of = affine_of(mean, mean + groups, gamma, beta, c, C / groups, eps);
      image = own;
      v[r] = apply(of, v[r], activate);
    }
    *(uint4*)(y + (size_t)n * C + c) = v[r];
  }
}
