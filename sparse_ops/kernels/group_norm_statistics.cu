// Mean and biased variance of the groups of complete images: what a group norm needs, and what a recording keeps of it.
//
//     statistics[b, 0, g] = mean of x[b, n, c]                 all rows n of the image,
//     statistics[b, 1, g] = mean of (x[b, n, c] - mean)^2      channels c = g D .. g D + D - 1, D = C / G
//
// All images of a launch have the same number of rows; none gives zeros. C is a multiple of 8 and of G; D is any
// number, odd ones too. Exact up to rounding, and sound: no sum of squares is ever taken from another. Every stage
// subtracts a mean first and joins parts by
//
//     M2 = sum over parts of  M2_i + n_i (mean_i - mean)^2                                  (Chan, Golub, LeVeque 1979)
//
// so mean 100 and deviation 0.1 lose nothing, wherever outliers stand. The stages:
//     thread     a tile of 8 rows of its 8 channels lies in registers: their mean, their squares around that mean,
//                joined to what the thread has so far. No first value is trusted as a shift.
//     block      one warp for each group joins all threads' channels of the group, from shared memory, in two passes.
//     image      the last block to arrive joins the splits of the rows in the same way, in order of their numbers.
// Always in the same order: the same bits every run, without float atomics, and the counter is back at zero for the
// next replay of a graph. (Another number of splits rounds otherwise.)
//
// A block takes `groups` neighbouring groups of one image and one split of its rows; grid (group ranges, splits,
// images). Its columns are the W chunks of 8 channels that touch these groups: threads are W columns by blockDim / W
// rows, so lanes that follow each other read 16-byte chunks that follow each other, whatever D is. A group of 10
// channels need not begin at a chunk: at the range's edges a chunk is read by two blocks, and each takes its own
// channels of it. The launcher picks `groups` so that D * groups is 160 to 320 channels (a multiple of 8 where it can
// be) and blockDim >= W; then splits to fill the device, no more than ceil(rows / (8 * blockDim / W)).
//
// What bounds it: x is read once, from HBM or, as it has just been written, from L2. [2, 9216, 320] is 11.8 MB: 2.9 us
// from HBM (H200, 4.1 TB/s), about 2 from L2. Eight 16-byte loads a thread are in flight, 256 threads of a block are 32
// kB, more than the 25 kB that hide HBM's latency on an SM. Five instructions an element are a third of what an SM
// can issue meanwhile. The last block of a range reads splits * groups * 8 bytes, some hundred.
#include "rows.cuh"

namespace rows {

constexpr int kStatisticsThreads = 512;                            // at most
constexpr int kTileRows = 8;                                       // rows that a thread holds at a time

struct Moments {
  float count, mean, m2;                                           // of how many values; m2: squares around the mean
};

// Joins parts 0 .. num - 1 by one warp, each lane asking for its own; all lanes get the result. Part 0 counts if any
// does.
template <class Part> __device__ __forceinline__ Moments join(int lane, int num, const Part& part) {
  const float pivot = part(0).mean;                                // near the mean: the first pass adds small numbers
  float count = 0.f, sum = 0.f, m2 = 0.f;
  for (int i = lane; i < num; i += 32) {
    const Moments p = part(i);
    count += p.count, sum += p.count * (p.mean - pivot);
  }
  count = warp_sum(count), sum = warp_sum(sum);
  if (count == 0.f) return {0.f, 0.f, 0.f};
  const float mean = pivot + sum / count;
  for (int i = lane; i < num; i += 32) {
    const Moments p = part(i);
    m2 += p.m2 + p.count * (p.mean - mean) * (p.mean - mean);
  }
  return {count, mean, warp_sum(m2)};
}

// Joins `rows` (1 .. kTileRows) rows of 8 channels, each 16 bytes in `tile`, to the `before` rows in mean and m2.
__device__ __forceinline__ void add_tile(
    const uint4 (&tile)[kTileRows], int rows, int before, float (&mean)[kChunk], float (&m2)[kChunk]) {
  const float each = 1.f / rows, weight = (float)rows / (before + rows), both = weight * before;
#pragma unroll
  for (int h = 0; h < kChunk / 2; h++) {                           // two channels
    float2 sum = make_float2(0.f, 0.f), squares = make_float2(0.f, 0.f);
    float2 v[kTileRows];
#pragma unroll
    for (int r = 0; r < kTileRows; r++) {
      v[r] = floats(pair_of(h == 0 ? tile[r].x : h == 1 ? tile[r].y : h == 2 ? tile[r].z : tile[r].w));
      sum.x += v[r].x, sum.y += v[r].y;                            // rows behind the end are zeros
    }
    const float2 of_tile = make_float2(sum.x * each, sum.y * each);
#pragma unroll
    for (int r = 0; r < kTileRows; r++) {
      if (r >= rows) continue;
      const float x = v[r].x - of_tile.x, y = v[r].y - of_tile.y;
      squares.x += x * x, squares.y += y * y;
    }
    const float x = of_tile.x - mean[2 * h], y = of_tile.y - mean[2 * h + 1];
    mean[2 * h] += x * weight, mean[2 * h + 1] += y * weight;
    m2[2 * h] += squares.x + x * x * both, m2[2 * h + 1] += squares.y + y * y * both;
  }
}

}  // namespace rows

// Grid: (ceil(num_groups / groups), splits, images) blocks of a multiple of 32 and at most 512 threads, not fewer than
// the chunks that a range of groups may touch, (groups * D + 6) / 8 + 1. Dynamic shared memory: blockDim * 64 + 16
// bytes.
extern "C" __global__ void __launch_bounds__(rows::kStatisticsThreads) group_norm_statistics(
    const rows::Element* __restrict__ x,    // [images, num_rows, C]
    float* __restrict__ statistics,         // [images, 2, num_groups]
    float2* __restrict__ partial,           // [images, num_groups, splits] mean, M2; unused when gridDim.y == 1
    unsigned* __restrict__ arrived,         // [images, gridDim.x] zeros; unused when gridDim.y == 1
    int num_rows, int C, int num_groups, int groups) {  // groups: of one block
  using namespace rows;
  DYN_SMEM(float, smem);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, num_warps = blockDim.x >> 5;
  float* const sMean = smem;                                       // [thread rows][W * 8]
  float* const sM2 = smem + blockDim.x * kChunk;                   // the same
  int* const flag = (int*)(smem + 2 * blockDim.x * kChunk);

  const int image = blockIdx.z, splits = gridDim.y, split = blockIdx.y, D = C / num_groups;
  const int first_group = blockIdx.x * groups, last_group = min(first_group + groups, num_groups);
  const int first_chunk = first_group * D / kChunk, W = (last_group * D + kChunk - 1) / kChunk - first_chunk;
  const int step = blockDim.x / W;                                 // thread rows

  const int per_split = (num_rows + splits - 1) / splits;
  auto rows_of = [&](int s) { return max(min(per_split, num_rows - s * per_split), 0); };
  const int own = rows_of(split), each = own / step, more = own % step;
  auto share = [&](int from) { return each + (from < more); };     // rows of thread row `from`: from, from + step, ...

  if (tid < step * W) {
    const int column = tid % W, from = tid / W, mine = share(from);
    const size_t first_row = (size_t)image * num_rows + split * per_split + from;
    const uint4* const source = (const uint4*)x + first_row * (C / kChunk) + first_chunk + column;
    float mean[kChunk] = {}, m2[kChunk] = {};
    for (int done = 0; done < mine; done += kTileRows) {
      const int left = min(mine - done, kTileRows);
      uint4 tile[kTileRows];
#pragma unroll
      for (int r = 0; r < kTileRows; r++) {
        tile[r] = make_uint4(0, 0, 0, 0);
        if (r < left) tile[r] = __ldg(source + (size_t)(done + r) * step * (C / kChunk));
      }
      add_tile(tile, left, done, mean, m2);
    }
#pragma unroll
    for (int i = 0; i < kChunk; i++) {
      sMean[tid * kChunk + i] = mean[i];                           // tid = from * W + column
      sM2[tid * kChunk + i] = m2[i];
    }
  }
  __syncthreads();

  auto write = [&](int group, const Moments& all) {
    float* const to = statistics + (size_t)image * 2 * num_groups + group;
    to[0] = all.mean;
    to[num_groups] = all.count > 0.f ? all.m2 / all.count : 0.f;
  };
  const float per_channel = 1.f / D;
  for (int group = first_group + warp; group < last_group; group += num_warps) {
    const int base = group * D - first_chunk * kChunk;
    auto part = [&](int i) -> Moments {                            // channel i % D as thread row i / D saw it
      const int from = (int)((i + .5f) * per_channel);             // i / D: exact, as i < 2^22
      const int at = from * W * kChunk + base + i - from * D;
      return {(float)share(from), sMean[at], sM2[at]};
    };
    const Moments all = join(lane, step * D, part);
    if (lane) continue;
    if (splits == 1) write(group, all);
    else partial[((size_t)image * num_groups + group) * splits + split] = make_float2(all.mean, all.m2);
  }
  if (splits == 1 || !last_to_arrive(arrived + image * gridDim.x + blockIdx.x, splits, flag)) return;

  for (int group = first_group + warp; group < last_group; group += num_warps) {
    const float2* const parts = partial + ((size_t)image * num_groups + group) * splits;
    auto part = [&](int s) -> Moments {
      const float2 p = __ldcg(parts + s);
      return {(float)rows_of(s) * D, p.x, p.y};
    };
    const Moments all = join(lane, splits, part);
    if (lane == 0) write(group, all);
  }
}
