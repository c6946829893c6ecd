// group_norm_statistics.cu on the CPU against float64. Arguments: random cases (default 24), most rows of an image
// (200).
#include "group_norm_statistics.cu"

#include <numeric>

#include "cases.h"

struct Case {
  int images, num_rows, C, G, groups, splits, threads;
  float mean, deviation;
  std::vector<Element> x;
};

static Case make(Rng& g, int images, int num_rows, int C, int G, float mean, float deviation) {
  Case c;
  c.images = images, c.num_rows = num_rows, c.C = C, c.G = G, c.mean = mean, c.deviation = deviation;
  c.groups = uniform(g, 1, std::min(G, std::max(1, 320 * G / C))), c.splits = uniform(g, 1, 5);
  const int chunks = (c.groups * (C / G) + 6) / 8 + 1;
  c.threads = std::min(512, (chunks + 31) / 32 * 32 + 32 * uniform(g, 0, 5));
  for (int b = 0; b < images; b++) {
    const int outlier = uniform(g, 0, 3) ? -1 : uniform(g, 0, 1) * (num_rows - 1);  // a first or last row unlike others
    for (int r = 0; r < num_rows; r++)
      for (int i = 0; i < C; i++)
        c.x.push_back(r == outlier ? mean + 20 * deviation * normal(g)
                                   : mean * (1 + .01f * (i / (C / G) % 3)) + deviation * normal(g));
  }
  tighten(c.x);
  return c;
}

static std::vector<float> run(const Case& c, std::vector<unsigned>& arrived) {
  const unsigned ranges = (c.G + c.groups - 1) / c.groups;
  std::vector<float> statistics(c.images * 2 * c.G, NAN);
  std::vector<float2> partial(c.splits > 1 ? (size_t)c.images * c.G * c.splits : 0, float2{NAN, NAN});
  arrived.resize(std::max<size_t>(arrived.size(), c.images * ranges), 0);
  if (!c.images) return statistics;  // what the launcher does
  cudacpu::launch(dim3(ranges, c.splits, c.images), dim3(c.threads), c.threads * 64 + 16, group_norm_statistics,
                  c.x.data(), statistics.data(), partial.data(), arrived.data(), c.num_rows, c.C, c.G, c.groups);
  return statistics;
}

static double worst_mean, worst_variance;  // as parts of the tolerance

static bool check(const Case& c, const std::vector<float>& out) {
  const int D = c.C / c.G;
  for (int b = 0; b < c.images; b++)
    for (int group = 0; group < c.G; group++) {
      double mean = 0, variance = 0, top = 0;
      const double count = (double)c.num_rows * D;
      auto each = [&](auto&& f) {
        for (int r = b * c.num_rows; r < (b + 1) * c.num_rows; r++)
          for (int i = 0; i < D; i++) f((double)(float)c.x[(size_t)r * c.C + group * D + i]);
      };
      if (count > 0) {
        each([&](double x) { mean += x / count, top = std::max(top, std::fabs(x)); });
        each([&](double x) { variance += (x - mean) * (x - mean) / count; });
      }
      // A mean of values of size `top` is rounded to 2^-24 of it, a few times over; such an error meets a deviation
      // once in the squares, and itself. The sum of squares is one of some hundred roundings in a row.
      const double unit = top / (1 << 24), for_mean = 4 * unit + 1e-30;
      const double for_variance = 4e-6 * variance + unit * std::sqrt(variance) + 16 * unit * unit + 1e-30;
      const double got[] = {out[(b * 2) * c.G + group], out[(b * 2 + 1) * c.G + group]};
      worst_mean = std::max(worst_mean, std::fabs(got[0] - mean) / for_mean);
      worst_variance = std::max(worst_variance, std::fabs(got[1] - variance) / for_variance);
      if (std::fabs(got[0] - mean) <= for_mean && std::fabs(got[1] - variance) <= for_variance) continue;
      printf(
          "FAIL C=%d G=%d groups=%d splits=%d threads=%d: image %d of %g values, group %d has %.9g %.9g, wanted %.9g "
          "%.9g\n",
          c.C, c.G, c.groups, c.splits, c.threads, b, count, group, got[0], got[1], mean, variance);
      return false;
    }
  return true;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 24, most = argc > 2 ? atoi(argv[2]) : 200;
  Rng g(seed());
  std::vector<unsigned> arrived;  // kept from launch to launch: each leaves zeros
  int done = 0;
  auto pass = [&](const Case& c) {
    const auto out = run(c, arrived);
    if (!check(c, out)) return false;
    if (!all_zero(arrived)) return printf("FAIL: an arrival counter was not left at zero\n"), false;
    if (done++ % 4) return true;
    const auto again = under_another_schedule([&] { return run(c, arrived); });
    if (!out.empty() && memcmp(out.data(), again.data(), out.size() * 4))
      return printf("FAIL: another schedule gave other bits\n"), false;
    return true;
  };
  struct Fixed {
    int images, num_rows, C, G;
    float mean, deviation;
  };
  const Fixed fixed[] = {
      {1, 1, 8, 1, 0, 1},       {3, 9, 8, 8, 1, 1},     {1, 0, 320, 32, 0, 1},    {0, 5, 320, 32, 0, 1},
      {2, 100, 320, 32, 100, .1f}, {1, 65, 56, 8, 100, .1f}, {2, 5, 2560, 32, 0, 1}, {1, 3, 2560, 1, 3, 1},
      {3, 17, 960, 32, -5, 2},  {1, 130, 24, 3, 1000, 2}, {1, 64, 40, 4, 7, 0},
  };
  for (const Fixed& f : fixed)
    if (!pass(make(g, f.images, f.num_rows, f.C, f.G, f.mean, f.deviation))) return 1;
  for (int i = 0; i < cases; i++) {
    const int per_group = uniform(g, 1, 24), G = 8 / std::gcd(per_group, 8) * uniform(g, 1, 4);
    const float means[] = {0, 1, 100, -100}, deviations[] = {.1f, 1, 30};
    const float mean = means[uniform(g, 0, 3)], deviation = deviations[uniform(g, 0, 2)];
    if (!pass(make(g, uniform(g, 1, 3), uniform(g, 1, most), G * per_group, G, mean, deviation))) return 1;
  }
  printf(
      "group_norm_statistics: %d cases equal to the reference (seed %d); of the tolerance: mean %.2f variance %.2f\n",
      done, seed(), worst_mean, worst_variance);
}
