// activate_rows.cu on the CPU against float64. Arguments: random cases (default 40), most rows (200).
#include "activate_rows.cu"

#include <numeric>

#include "cases.h"

// Columns of a wider array: `width` of each `stride`.
struct Part {
  int width = 0, stride = 0, first = 0;
  std::vector<Element> values;
  const Element* data() const { return values.data() + first; }
  double at(int row, int column) const { return number(values[(size_t)row * stride + first + column]); }
};

struct Case {
  int N, M, G, images;
  bool norm, activate;
  float eps;
  Part x, halo, other;
  std::vector<int> starts, halo_starts;
  std::vector<float> statistics;
  std::vector<Element> gamma, beta;
  int C() const { return x.width; }
};

static Part make_part(Rng& g, int num_rows, int width) {
  Part p;
  p.width = width, p.first = 8 * uniform(g, 0, 2), p.stride = p.first + width + 8 * uniform(g, 0, 2);
  for (int i = 0; i < num_rows * p.stride; i++) p.values.push_back(2 * normal(g));
  if (num_rows) p.values.resize((size_t)(num_rows - 1) * p.stride + p.first + width);  // none behind the last
  else p.first = 0;
  tighten(p.values);
  return p;
}

static Case make(Rng& g, int N, int M, int C, int G) {
  Case c;
  c.N = N, c.M = M, c.G = G, c.images = uniform(g, 1, 4);
  c.norm = uniform(g, 0, 4), c.activate = c.norm && uniform(g, 0, 2), c.eps = uniform(g, 0, 1) ? 1e-5f : 1e-6f;
  const int width = 8 * (uniform(g, 0, 2) ? uniform(g, 1, C / 8) : C / 8);  // of the halo's first part
  c.x = make_part(g, N, C), c.halo = make_part(g, M, width), c.other = make_part(g, M, C - width);
  c.starts = starts_of(g, c.images, N), c.halo_starts = starts_of(g, c.images, M);
  for (int b = 0; b < c.images; b++) {
    for (int i = 0; i < G; i++) c.statistics.push_back(normal(g));
    for (int i = 0; i < G; i++) c.statistics.push_back(i % 5 == 4 ? 0.f : .2f + std::fabs(normal(g)));
  }
  for (int i = 0; i < C; i++) c.gamma.push_back(1 + .5f * normal(g)), c.beta.push_back(normal(g));
  tighten(c.starts, c.halo_starts, c.statistics, c.gamma, c.beta);
  return c;
}

static std::vector<Element> run(const Case& c) {
  const int R = c.N + c.M, threads = (R + rows::kActivatedRows - 1) / rows::kActivatedRows * (c.C() / 8);
  std::vector<Element> out((size_t)R * c.C(), Element(777.f));
  if (!R) return out;  // what the launcher does
  const float* const none = nullptr;
  const int* const nowhere = nullptr;
  cudacpu::launch(dim3((threads + 127) / 128), dim3(128), 0, activate_rows, c.x.data(), c.halo.data(), c.other.data(),
                  c.norm ? c.starts.data() : nowhere, c.norm ? c.halo_starts.data() : nowhere,
                  c.norm ? c.statistics.data() : none, c.gamma.data(), c.beta.data(), out.data(), c.N, c.M, c.C(),
                  c.halo.width, c.x.stride, c.halo.stride, c.other.stride, c.images, c.G, 2 * c.G, c.eps, (int)c.activate);
  return out;
}

static bool check(const Case& c) {
  const auto out = run(c);
  for (int n = 0; n < c.N + c.M; n++)
    for (int i = 0; i < c.C(); i++) {
      const double x = n < c.N            ? c.x.at(n, i)
                       : i < c.halo.width ? c.halo.at(n - c.N, i)
                                          : c.other.at(n - c.N, i - c.halo.width);
      double wanted = x, tolerance = 0;
      if (c.norm) {
        const int image = n < c.N ? image_at(c.starts, n) : image_at(c.halo_starts, n - c.N), group = i / (c.C() / c.G);
        const float* const of = &c.statistics[(size_t)image * 2 * c.G];
        const double scale = number(c.gamma[i]) / std::sqrt((double)of[c.G + group] + c.eps);
        wanted = (x - of[group]) * scale + number(c.beta[i]);
        // Rounding of the result, and fp32 roundings of what the sum is made of; SiLU's slope is at most 1.1.
        const double terms = std::fabs(x * scale) + std::fabs(of[group] * scale) + std::fabs(number(c.beta[i]));
        if (c.activate) wanted = silu(wanted);
        tolerance = kEpsilon * .51 * std::fabs(wanted) + 5e-7 * terms + 1e-7;
      }
      const double got = number(out[(size_t)n * c.C() + i]);
      if (std::fabs(got - wanted) <= tolerance) continue;
      printf("FAIL N=%d M=%d C=%d G=%d images=%d norm=%d silu=%d: row %d channel %d is %g, wanted %g\n", c.N, c.M,
             c.C(), c.G, c.images, c.norm, c.activate, n, i, got, wanted);
      return false;
    }
  return true;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 40, most = argc > 2 ? atoi(argv[2]) : 200;
  Rng g(seed());
  int done = 0;
  // rows, halo, channels, groups: nothing, one of either, groups of 10 and of 1, a block more than a whole one
  const int fixed[][4] = {{0, 0, 64, 8},   {1, 0, 8, 1},    {0, 1, 8, 8},     {1, 1, 320, 32},
                          {3, 5, 960, 32}, {33, 9, 40, 40}, {130, 127, 8, 2}, {2, 0, 2560, 32}};
  for (const auto& f : fixed)
    if (f[0] <= most) {
      if (!check(make(g, f[0], f[1], f[2], f[3]))) return 1;
      done++;
    }
  for (int i = 0; i < cases; i++, done++) {
    const int per_group = uniform(g, 1, 24), G = 8 / std::gcd(per_group, 8) * uniform(g, 1, 4);
    if (!check(make(g, uniform(g, 0, most), uniform(g, 0, most / 2), G * per_group, G))) return 1;
  }
  printf("activate_rows: %d cases equal to the reference (seed %d)\n", done, seed());
}
