// From a mask to rows: what is active at each resolution, and the list of it.
//
//     mask_pyramid    lower masks: active where the 2^l x 2^l cell is (max-pooled, the last cells partial)
//     mask_rows       index: the active positions, ascending; starts: where each image's begin
//
// torch.nonzero makes the list, too, but its length is a tensor's shape, so the host waits for the device. Here the
// list has room for `capacity`, and -1 behind its end: no row, as every kernel on rows reads it. The count stays on the
// device, starts[images], true even where it exceeds the capacity (the list is then the first `capacity`). Exact.
//
// mask_pyramid: a thread a position of a lower mask, grid (any, levels - 1); each level is pooled from the highest one,
// as a cell of cells is a cell. mask_rows: one block. A thread takes a run of n / blockDim positions one after another,
// counts its active ones, learns by one scan how many lie before its run, and walks it again. Which thread writes what
// follows from the mask alone: the same list every time, in order, without atomics.
//
// What bounds it: two images of 96 x 96 are 18 bytes a thread, in L1 the second time; a launch is most of it.
#include "rows.cuh"

namespace rows {

constexpr int kListThreads = 1024;                                 // at most

// How many `counts` threads before this one have, and all together. Every thread calls it once.
struct Scan { int before, all; };
__device__ __forceinline__ Scan scan(int count, int* warps) {      // [32]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int upto = count;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, upto, by);
    if (lane >= by) upto += other;
  }
  if (lane == 31) warps[warp] = upto;
  __syncthreads();
  Scan result = {upto - count, 0};
  for (int w = 0; w < (int)blockDim.x / 32; w++) {
    if (w < warp) result.before += warps[w];
    result.all += warps[w];
  }
  return result;
}

}  // namespace rows

// Grid: (any, levels - 1), any number of threads. out: the masks of the lower levels, [images, ceil(H / 2^l),
// ceil(W / 2^l)] each, one behind another. All together fewer than 2^31 positions.
extern "C" __global__ void __launch_bounds__(rows::kListThreads) mask_pyramid(
    const unsigned char* __restrict__ mask,    // [images, H, W]
    unsigned char* __restrict__ out, int images, int H, int W) {
  const int level = blockIdx.y + 1;
  int h = H, w = W;
  for (int l = 1; l < level; l++) {
    h = (h + 1) / 2, w = (w + 1) / 2;
    out += (size_t)images * h * w;
  }
  h = (h + 1) / 2, w = (w + 1) / 2;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < images * h * w; i += gridDim.x * blockDim.x) {
    const int image = i / (h * w), top = i / w % h << level, left = i % w << level;
    const int bottom = min(top + (1 << level), H), right = min(left + (1 << level), W);
    int any = 0;
    for (int y = top; y < bottom; y++)
      for (int x = left; x < right; x++) any |= mask[((size_t)image * H + y) * W + x];
    out[i] = any;
  }
}

// Grid: one block of a multiple of 32 and at most 1024 threads. Dynamic shared memory: 128 bytes. 0 < images * area <
// 2^31 - 1024.
extern "C" __global__ void __launch_bounds__(rows::kListThreads) mask_rows(
    const unsigned char* __restrict__ mask,    // [images, area]
    int* __restrict__ index,                   // [capacity] positions (image, area), flattened; then -1
    int* __restrict__ starts,                  // [images + 1]
    int images, int area, int capacity) {
  using namespace rows;
  DYN_SMEM(int, warps);
  const int num = images * area, each = (num + blockDim.x - 1) / blockDim.x;
  const int begin = min((int)threadIdx.x * each, num), end = min(begin + each, num);
  int count = 0;
  for (int i = begin; i < end; i++) count += mask[i];
  const Scan rows_of = scan(count, warps);
  int image = (begin + area - 1) / area, row = rows_of.before;     // image: the next to begin
  for (int i = begin; i < end; i++) {
    if (i == image * area) starts[image++] = row;
    if (!mask[i]) continue;
    if (row < capacity) index[row] = i;
    row++;
  }
  if (threadIdx.x == 0) starts[images] = rows_of.all;
  for (int i = rows_of.all + threadIdx.x; i < capacity; i += blockDim.x) index[i] = -1;
}
