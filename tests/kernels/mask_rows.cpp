// mask_rows.cu on the CPU against plain loops. Arguments: random cases (default 60), the longest side of one (40).
#include "mask_rows.cu"

#include "cases.h"

using Bytes = std::vector<unsigned char>;

static Bytes make(Rng& g, int num) {
  const int share = uniform(g, 0, 5) ? uniform(g, 1, 9) : 10 * uniform(g, 0, 1);  // some are empty, some are full
  Bytes mask;
  for (int i = 0; i < num; i++) mask.push_back(uniform(g, 0, 9) < share);
  tighten(mask);
  return mask;
}

static Bytes pooled(const Bytes& mask, int images, int H, int W) {
  const int h = (H + 1) / 2, w = (W + 1) / 2;
  Bytes out(images * h * w);
  for (int i = 0; i < images * H * W; i++) out[(i / (H * W) * h + i / W % H / 2) * w + i % W / 2] |= mask[i];
  return out;
}

static bool check_pyramid(Rng& g, int images, int H, int W) {
  const Bytes mask = make(g, images * H * W);
  const int levels = uniform(g, 2, 5);
  Bytes wanted;
  Bytes one = mask;
  for (int l = 1, h = H, w = W; l < levels; l++, h = (h + 1) / 2, w = (w + 1) / 2) {
    one = pooled(one, images, h, w);
    wanted.insert(wanted.end(), one.begin(), one.end());
  }
  Bytes got(wanted.size(), 7);
  tighten(got);
  cudacpu::launch(dim3(uniform(g, 1, 3), levels - 1), dim3(32 * uniform(g, 1, 3)), 0, mask_pyramid, mask.data(),
                  got.data(), images, H, W);
  if (got == wanted) return true;
  return printf("FAIL mask_pyramid: %d images of %d x %d, %d levels\n", images, H, W, levels), false;
}

static bool check_rows(Rng& g, int images, int area) {
  const Bytes mask = make(g, images * area);
  std::vector<int> wanted, starts;
  for (int i = 0; i < images * area; i++) {
    if (i % area == 0) starts.push_back(wanted.size());
    if (mask[i]) wanted.push_back(i);
  }
  starts.push_back(wanted.size());
  const int capacity = std::max(0, (int)wanted.size() + uniform(g, -2, 40)), threads = 32 * uniform(g, 1, 6);
  wanted.resize(capacity, -1);
  std::vector<int> got(capacity, 77), got_starts(images + 1, 77);
  tighten(got, got_starts);
  cudacpu::launch(dim3(1), dim3(threads), 128, mask_rows, mask.data(), got.data(), got_starts.data(), images, area,
                  capacity);
  if (got == wanted && got_starts == starts) return true;
  return printf("FAIL mask_rows: %d images of %d, capacity %d, %d threads\n", images, area, capacity, threads), false;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 60, longest = argc > 2 ? atoi(argv[2]) : 40;
  Rng g(seed());
  const int fixed[][3] = {{1, 1, 1}, {3, 1, 1}, {1, 1, 33}, {2, 33, 1}, {40, 2, 3}, {1, 32, 32}};
  int done = 0;
  for (const auto& f : fixed)
    for (int again = 0; again < 4; again++, done++)
      if (!check_pyramid(g, f[0], f[1], f[2]) || !check_rows(g, f[0], f[1] * f[2])) return 1;
  for (int i = 0; i < cases; i++, done++) {
    const int images = uniform(g, 1, 4), H = uniform(g, 1, longest), W = uniform(g, 1, longest);
    if (!check_pyramid(g, images, H, W) || !check_rows(g, images, H * W)) return 1;
  }
  printf("mask_rows: %d cases equal to the reference (seed %d)\n", done, seed());
}
