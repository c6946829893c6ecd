// The edit mask: which positions of an image an edit changes, found where the latents are.
//
//     difference_image  latents after S steps -> how strongly each position differs, one byte; the paper's D8
//     probe_mask        predicted pictures of S steps -> where they differ by a part of the largest difference
//     paper_mask        difference -> Otsu's threshold, 2x2 erosion, 2x2 dilation; the paper's mask
//     grown_mask        difference -> the same without OpenCV's shift, grown into weaker differences that touch it
//     clean_mask        mask -> without small components, holes filled, some positions added around
//     widen_mask        mask -> some positions added around
//
// service/engine/masks.py is what each means; all are exact, bit for bit:
//
//     d_s = sum over c of |fresh - recorded|      fp32, in the order of the channels
//     D   = sum over s of minmax(d_s)             minmax(d) = (d - low) / (high - low), rounded twice; 0 if constant
//     D8  = 255 minmax(D), truncated
//
// Nothing there is a product that is added to something, so no compiler can fuse it. Otsu's threshold is: rounding
// decides between equally good ones, so it is OpenCV's recurrence, in its order, in fp64, without fused operations. A
// NaN spreads as in NumPy: it is the largest value of its step, which then has no range, so the step counts nothing;
// and to a probe no position differs by more than a part of NaN. Infinity minus infinity likewise.
//
// A block is an image, a thread the positions threadIdx.x, + blockDim.x, ...; grid (images), any multiple of 32 threads
// up to 1024. A latent image is small (96 x 96 of 768 x 768 pixels), and nearly every operator needs all of it before
// any position is known: so one block and its barriers, instead of a launch for each half of an operator. Four bytes
// and twice one byte a position are its work: in shared memory where they fit (128 x 128 on every card), else in
// `scratch`, which is global memory; the code is the same.
//
// Components are found by union and find. Each position points at another of its component, at first itself. Two that
// touch are joined by hanging the greater root on the lesser one (atomicMin), so the root that remains is the least
// position of the component, in whatever order threads come. One pass over the positions and a flattening, not one pass
// for each position of the longest path. Then a root's own cell is free to count: it becomes ~count, below zero.
//
// What bounds it: difference_image reads 2 S C floats a position, twice, through one SM: 2.9 MB for 10 steps of
// [4, 96, 96], about 0.1 ms from L2. Otsu is one thread, 256 levels of two dependent fp64 divisions, 50 us. The others
// take some us. All of it once for an edit whose detection runs the network for 75 ms; nothing waits for the host.
#include "rows.cuh"

namespace rows {

constexpr int kMaskThreads = 1024;                                 // at most
constexpr int kLevels = 256;                                       // of a difference image
constexpr double kLeastShare = 1.1920928955078125e-7;              // OpenCV: a class with less of them is no class

using Byte = unsigned char;

struct Range { float low, high; };                                 // high is NaN where a value was

// What a block works with.
struct Work {
  int* histogram;                                                  // [256], and one more
  Range* warps;                                                    // [32]
  int* cells;                                                      // [area + 1]
  float* sums;                                                     // the same memory, before it holds cells
  Byte *first, *second;                                            // [area] each
  // FIXED words, and area + 1 + ceil(area / 2) in shared memory behind them, or for each image in scratch.
  static constexpr int FIXED = 384;
  __device__ Work(int* shared, int* scratch, int area) {
    histogram = shared, warps = (Range*)(shared + kLevels + 64);
    cells = scratch ? scratch + (size_t)blockIdx.x * (area + 1 + (area + 1) / 2) : shared + FIXED;
    sums = (float*)cells, first = (Byte*)(cells + area + 1), second = first + area;
  }
};

template <class Each> __device__ __forceinline__ void each_position(int area, const Each& each) {
  for (int i = threadIdx.x; i < area; i += blockDim.x) each(i);
}
template <class Each> __device__ __forceinline__ void each_position(int H, int W, const Each& each) {
  for (int i = threadIdx.x; i < H * W; i += blockDim.x) each(i, i / W, i % W);
}

// ---- values -------------------------------------------------------------------------------------------------------
__device__ __forceinline__ float greater(float a, float b) { return b > a || b != b ? b : a; }
__device__ __forceinline__ Range both(Range a, Range b) { return {fminf(a.low, b.low), greater(a.high, b.high)}; }

// Of all threads' ranges. Every thread calls it and gets it.
__device__ __forceinline__ Range range_of_block(Range mine, Range* warps) {
#pragma unroll
  for (int m = 16; m; m /= 2)
    mine = both(mine, {__shfl_xor_sync(0xffffffffu, mine.low, m), __shfl_xor_sync(0xffffffffu, mine.high, m)});
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  for (int w = 0; w < (int)blockDim.x / 32; w++) mine = both(mine, warps[w]);
  __syncthreads();                                                 // `warps` may be written again
  return mine;
}
template <class Value> __device__ __forceinline__ Range range_of(int area, Range* warps, const Value& value) {
  Range mine = {-minus_infinity(), minus_infinity()};
  each_position(area, [&](int i) {
    const float v = value(i);
    mine = both(mine, {v, v});
  });
  return range_of_block(mine, warps);
}

__device__ __forceinline__ float minmax(float x, Range all) {
  return all.high > all.low ? (x - all.low) / (all.high - all.low) : 0.f;
}

// Sum over `planes` of |fresh - recorded| at one position, in their order. `largest` gets the largest of them.
__device__ __forceinline__ float distance(
    const float* fresh, const float* recorded, int planes, int area, int i, float& largest) {
  float sum = 0.f;
  for (int p = 0; p < planes; p++) {
    const size_t at = (size_t)p * area + i;
    const float x = fabsf(__ldg(fresh + at) - __ldg(recorded + at));
    largest = greater(largest, x), sum += x;
  }
  return sum;
}

// Otsu's threshold of a difference image, as masks.otsu; every thread calls it and gets it.
__device__ __forceinline__ int otsu(const Byte* image, int area, int* histogram) {
  each_position(kLevels, [&](int level) { histogram[level] = 0; });
  __syncthreads();
  each_position(area, [&](int i) { atomicAdd(histogram + image[i], 1); });
  __syncthreads();
  if (threadIdx.x == 0) {
    const double scale = __ddiv_rn(1., (double)area);
    long long total = 0;
    for (int level = 0; level < kLevels; level++) total += (long long)level * histogram[level];
    const double mean = __dmul_rn((double)total, scale);
    int threshold = 0;
    double best = 0., below = 0., mean_below = 0.;
    for (int level = 0; level < kLevels; level++) {
      const double share = __dmul_rn((double)histogram[level], scale);
      mean_below = __dmul_rn(mean_below, below);
      below = __dadd_rn(below, share);
      const double above = __dadd_rn(1., -below);
      if (below < kLeastShare || above < kLeastShare) continue;
      mean_below = __ddiv_rn(__dadd_rn(mean_below, __dmul_rn((double)level, share)), below);
      const double mean_above = __ddiv_rn(__dadd_rn(mean, -__dmul_rn(below, mean_below)), above);
      const double apart = __dadd_rn(mean_below, -mean_above);
      const double variance = __dmul_rn(__dmul_rn(__dmul_rn(below, above), apart), apart);
      if (variance > best) threshold = level, best = variance;
    }
    histogram[kLevels] = threshold;
  }
  __syncthreads();
  return histogram[kLevels];
}

// ---- shapes -------------------------------------------------------------------------------------------------------
// at(y, x): bits of a position, each bit a mask. The bits that all of the 2 x 2 positions (y - 1, x - 1) .. (y, x)
// have; what is outside has all.
template <class At> __device__ __forceinline__ int eroded(int y, int x, const At& at) {
  int bits = at(y, x);
  if (x) bits &= at(y, x - 1);
  if (y) bits &= at(y - 1, x);
  if (x && y) bits &= at(y - 1, x - 1);
  return bits;
}

// The bits that any of the 2 x 2 positions (y, x) .. (y + by, x + by) has, by = 1 or -1; what is outside has none.
template <class At> __device__ __forceinline__ int dilated(int y, int x, int by, int H, int W, const At& at) {
  const bool row = (unsigned)(y + by) < (unsigned)H, column = (unsigned)(x + by) < (unsigned)W;
  int bits = at(y, x);
  if (column) bits |= at(y, x + by);
  if (row) bits |= at(y + by, x);
  if (row && column) bits |= at(y + by, x + by);
  return bits;
}

// out: every position within a square of `by` around one of `mask`; `across` is for what lies between.
__device__ __forceinline__ void widen(const Byte* mask, Byte* across, Byte* out, int H, int W, int by) {
  each_position(H, W, [&](int i, int, int x) {
    int any = 0;
    for (int dx = max(-by, -x); dx <= min(by, W - 1 - x); dx++) any |= mask[i + dx];
    across[i] = any;
  });
  __syncthreads();
  each_position(H, W, [&](int i, int y, int) {
    int any = 0;
    for (int dy = max(-by, -y); dy <= min(by, H - 1 - y); dy++) any |= across[i + dy * W];
    out[i] = any;
  });
}

// ---- components ---------------------------------------------------------------------------------------------------
// What other threads' atomics may change meanwhile.
__device__ __forceinline__ int peek(const int* cell) {
#ifdef CUDACPU
  return cudacpu::atomic_load(cell);
#else
  return *(const volatile int*)cell;
#endif
}

__device__ __forceinline__ int find(const int* cells, int i) {
  for (int up; (up = peek(cells + i)) != i; i = up) {}
  return i;
}

__device__ __forceinline__ void join(int* cells, int a, int b) {
  for (;;) {
    a = find(cells, a), b = find(cells, b);
    if (a == b) return;
    const int high = max(a, b), low = min(a, b);
    const int before = atomicMin(cells + high, low);
    if (before == high) return;
    a = before, b = low;                                           // another thread had hung `high` on something
  }
}

// Joins each position for which set(i) to those before it that it touches: four of eight, or two of four.
template <bool DIAGONALS, class Set>
__device__ __forceinline__ void join_neighbours(int* cells, int H, int W, const Set& set) {
  each_position(H, W, [&](int i, int y, int x) {
    if (!set(i)) return;
    if (x && set(i - 1)) join(cells, i, i - 1);
    if (!y) return;
    if (set(i - W)) join(cells, i, i - W);
    if (DIAGONALS && x && set(i - W - 1)) join(cells, i, i - W - 1);
    if (DIAGONALS && x + 1 < W && set(i - W + 1)) join(cells, i, i - W + 1);
  });
}

// Then cells[i] is the root of i.
__device__ __forceinline__ void flatten(int* cells, int num) {
  each_position(num, [&](int i) { atomicMin(cells + i, find(cells, i)); });
}

__device__ __forceinline__ int root_of(const int* cells, int i) {
  const int up = peek(cells + i);
  return up < 0 ? i : up;                                          // a root, which counts
}

// 8-connected components of set(i), and how many counted(i) each has: ~cells[root_of(cells, i)].
template <class Set, class Counted>
__device__ __forceinline__ void label(int* cells, int H, int W, const Set& set, const Counted& counted) {
  each_position(H * W, [&](int i) { cells[i] = i; });
  __syncthreads();
  join_neighbours<true>(cells, H, W, set);
  __syncthreads();
  flatten(cells, H * W);
  __syncthreads();
  each_position(H * W, [&](int i) { if (cells[i] == i) cells[i] = ~0; });
  __syncthreads();
  each_position(H * W, [&](int i) { if (set(i) && counted(i)) atomicAdd(cells + root_of(cells, i), -1); });
  __syncthreads();
}

// filled: `mask` and what it encloses: the positions from which no 4-connected path outside of it leads to the border.
__device__ __forceinline__ void fill_holes(const Byte* mask, int* cells, Byte* filled, int H, int W) {
  const int outside = H * W;                                       // what the border touches
  auto open = [&](int i) { return !mask[i]; };
  each_position(H * W + 1, [&](int i) { cells[i] = i; });
  __syncthreads();
  join_neighbours<false>(cells, H, W, open);
  each_position(H, W, [&](int i, int y, int x) {
    if (open(i) && (!x || !y || x == W - 1 || y == H - 1)) join(cells, i, outside);
  });
  __syncthreads();
  flatten(cells, H * W + 1);
  __syncthreads();
  each_position(H * W, [&](int i) { filled[i] = mask[i] || cells[i] != cells[outside]; });
  __syncthreads();
}

}  // namespace rows

// Every entry: grid (images) of a multiple of 32 and at most 1024 threads; one block an SM, or the compiler would spill
// to make room for two. Dynamic shared memory: 4 * Work::FIXED bytes, and 4 * (H * W + 1 + ceil(H * W / 2)) more where
// scratch is null; else scratch holds so many for each image. Masks are bytes, 0 or 1. 0 < H * W < 2^28.

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) difference_image(
    const float* __restrict__ fresh,           // [images, S, C, area]
    const float* __restrict__ recorded,        // the same
    unsigned char* __restrict__ image,         // [images, area]
    int* scratch, int S, int C, int area,
    float least) {                             // all is 0 where no value differs by so much
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, area);
  const size_t of_image = (size_t)blockIdx.x * S * C * area;
  float largest = 0.f;
  each_position(area, [&](int i) { work.sums[i] = 0.f; });
  for (int s = 0; s < S; s++) {
    const size_t of_step = of_image + (size_t)s * C * area;
    auto step = [&](int i) { return distance(fresh + of_step, recorded + of_step, C, area, i, largest); };
    const Range all = range_of(area, work.warps, step);
    each_position(area, [&](int i) { work.sums[i] += minmax(step(i), all); });
  }
  const bool differs = !(range_of_block({0.f, largest}, work.warps).high < least);
  const Range all = range_of(area, work.warps, [&](int i) { return work.sums[i]; });
  each_position(area, [&](int i) {
    image[(size_t)blockIdx.x * area + i] = differs ? (Byte)(255.f * minmax(work.sums[i], all)) : 0;
  });
}

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) probe_mask(
    const float* __restrict__ fresh,           // [images, planes, area]
    const float* __restrict__ recorded,        // the same
    unsigned char* __restrict__ mask,          // [images, area]
    int* scratch, int planes, int area,
    float ratio,                               // of the largest difference: what differs more, changes
    float least) {                             // all is 0 where no value differs by so much
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, area);
  const size_t of_image = (size_t)blockIdx.x * planes * area;
  float largest = 0.f;
  each_position(area, [&](int i) {
    work.sums[i] = distance(fresh + of_image, recorded + of_image, planes, area, i, largest);
  });
  const bool differs = !(range_of_block({0.f, largest}, work.warps).high < least);
  const float top = range_of(area, work.warps, [&](int i) { return work.sums[i]; }).high, enough = ratio * top;
  each_position(area, [&](int i) { mask[(size_t)blockIdx.x * area + i] = differs && work.sums[i] > enough; });
}

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) paper_mask(
    const unsigned char* __restrict__ images,  // [images, H, W]
    unsigned char* __restrict__ masks,         // [images, H, W]
    int* scratch, int H, int W) {
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, H * W);
  const Byte* const image = images + (size_t)blockIdx.x * H * W;
  Byte* const mask = masks + (size_t)blockIdx.x * H * W;
  const int threshold = otsu(image, H * W, work.histogram);
  each_position(H, W, [&](int i, int y, int x) {
    work.first[i] = eroded(y, x, [&](int v, int u) { return image[v * W + u] > threshold; });
  });
  __syncthreads();
  each_position(H, W, [&](int i, int y, int x) {                   // OpenCV's anchor: one position down and right
    mask[i] = dilated(y, x, -1, H, W, [&](int v, int u) { return work.first[v * W + u]; });
  });
}

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) grown_mask(
    const unsigned char* __restrict__ images,  // [images, H, W]
    const int* __restrict__ weaker,            // [256] of each threshold: what is above it is weak
    unsigned char* __restrict__ masks,         // [images, H, W]
    int* scratch, int H, int W) {
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, H * W);
  const Byte* const image = images + (size_t)blockIdx.x * H * W;
  const int strong = otsu(image, H * W, work.histogram), weak = weaker[strong];
  each_position(H, W, [&](int i, int y, int x) {                   // bit 0: strong, bit 1: weak
    work.first[i] = eroded(y, x, [&](int v, int u) {
      return (image[v * W + u] > strong) | (image[v * W + u] > weak) << 1;
    });
  });
  __syncthreads();
  each_position(H, W, [&](int i, int y, int x) {
    work.second[i] = dilated(y, x, 1, H, W, [&](int v, int u) { return work.first[v * W + u]; });
  });
  __syncthreads();
  auto set = [&](int i) { return work.second[i] != 0; };
  label(work.cells, H, W, set, [&](int i) { return (work.second[i] & 1) != 0; });
  each_position(H * W, [&](int i) {
    masks[(size_t)blockIdx.x * H * W + i] = set(i) && ~work.cells[root_of(work.cells, i)] > 0;
  });
}

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) clean_mask(
    const unsigned char* __restrict__ masks,   // [images, H, W]
    unsigned char* __restrict__ cleaned,       // [images, H, W]
    int* scratch, int H, int W,
    int least,                                 // smaller components are dropped, but not the largest
    int dilation) {
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, H * W);
  const Byte* const mask = masks + (size_t)blockIdx.x * H * W;
  int* const largest = work.histogram;
  auto set = [&](int i) { return mask[i] != 0; };
  auto size_of = [&](int i) { return ~work.cells[root_of(work.cells, i)]; };
  if (threadIdx.x == 0) *largest = 0;
  label(work.cells, H, W, set, set);
  each_position(H * W, [&](int i) { if (set(i) && work.cells[i] < 0) atomicMax(largest, size_of(i)); });
  __syncthreads();
  each_position(H * W, [&](int i) { work.first[i] = set(i) && size_of(i) >= min(least, *largest); });
  __syncthreads();
  fill_holes(work.first, work.cells, work.second, H, W);
  widen(work.second, work.first, cleaned + (size_t)blockIdx.x * H * W, H, W, dilation);
}

extern "C" __global__ void __launch_bounds__(rows::kMaskThreads, 1) widen_mask(
    const unsigned char* __restrict__ masks,   // [images, H, W]
    unsigned char* __restrict__ wide,          // [images, H, W]
    int* scratch, int H, int W, int by) {
  using namespace rows;
  DYN_SMEM(int, shared);
  const Work work(shared, scratch, H * W);
  const size_t at = (size_t)blockIdx.x * H * W;
  widen(masks + at, work.first, wide + at, H, W, by);
}
