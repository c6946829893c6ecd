// cross_attention_rows.cu on the CPU against float64. Arguments: random cases (default 20), most rows (60).
#include "cross_attention_rows.cu"
#include "cases.h"

struct Case {
  int N, T, D, heads, images;
  bool moves, keeps;
  float size;  // of queries and keys: 4 makes logits of up to a hundred
  std::vector<int> starts;
  std::vector<Element> q, k, v, moved;
  std::vector<float> alpha;
};
struct Result {
  std::vector<Element> out, maps;
};

static Case make(Rng& g, int N, int T, int D) {
  Case c;
  c.N = N, c.T = T, c.D = D, c.heads = uniform(g, 1, 3), c.images = uniform(g, 1, 3);
  c.moves = uniform(g, 0, 1), c.keeps = uniform(g, 0, 2), c.size = uniform(g, 0, 3) ? 1.f : 4.f;
  c.starts = starts_of(g, c.images, N);
  const int width = c.heads * D;
  for (int i = 0; i < N * width; i++) c.q.push_back(c.size * normal(g));
  for (int i = 0; i < c.images * T * width; i++) c.k.push_back(c.size * normal(g)), c.v.push_back(normal(g));
  for (int i = 0; i < N * c.heads * T; i++) c.moved.push_back(uniform(g, 0, 99) / 100.f);
  for (int i = 0; i < c.images * T; i++) c.alpha.push_back(uniform(g, 0, 2) ? uniform(g, 0, 1) : .3f);
  tighten(c.starts, c.q, c.k, c.v, c.moved, c.alpha);
  return c;
}

static Result run(const Case& c) {
  Result r{std::vector<Element>(c.q.size(), Element(777.f)),
           std::vector<Element>(c.keeps ? c.moved.size() : 0, Element(777.f))};
  if (!c.N) return r;  // what the launcher does
  const Element* const nothing = nullptr;
  const size_t shared = (16 + 64) * ((c.D / 8) | 1) * 16 + 16 * c.T * 4;
  cudacpu::launch(dim3((c.N + 15) / 16 + c.images, c.heads), dim3(256), shared, cross_attention_rows, c.q.data(),
                  c.k.data(), c.v.data(), c.starts.data(), c.moves ? c.moved.data() : nothing, c.alpha.data(),
                  r.out.data(), c.keeps ? r.maps.data() : (Element*)nullptr, c.N, c.images, c.T, c.D,
                  (float)(1.4426950408889634 / std::sqrt((double)c.D)));
  return r;
}

static std::vector<double> maps_of(const Case& c, int n, int head, int image) {
  std::vector<double> p(c.T);
  double top = -1e300, total = 0;
  for (int t = 0; t < c.T; t++) {
    for (int i = 0; i < c.D; i++)
      p[t] += number(c.q[((size_t)n * c.heads + head) * c.D + i]) *
              number(c.k[(((size_t)image * c.T + t) * c.heads + head) * c.D + i]);
    top = std::max(top, p[t] /= std::sqrt((double)c.D));
  }
  for (double& e : p) total += e = std::exp(e - top);
  for (int t = 0; t < c.T; t++) {
    const double share = c.moves ? c.alpha[image * c.T + t] : 0;
    p[t] = p[t] / total * (1 - share);
    if (c.moves) p[t] += share * number(c.moved[((size_t)n * c.heads + head) * c.T + t]);
  }
  return p;
}

static bool close(const Case& c, const char* what, int n, int head, int i, double got, double wanted, double size) {
  // The result is rounded once; fp32 logits of a hundred.
  if (std::fabs(got - wanted) <= kEpsilon * .51 * std::fabs(wanted) + 2e-5 * (1 + size)) return true;
  printf("FAIL N=%d T=%d D=%d heads=%d images=%d: %s of row %d head %d at %d is %g, wanted %g\n", c.N, c.T, c.D,
         c.heads, c.images, what, n, head, i, got, wanted);
  return false;
}

static bool check(const Case& c) {
  const Result r = run(c);
  for (int n = 0; n < c.N; n++)
    for (int head = 0; head < c.heads; head++) {
      const bool padding = n >= c.starts.back();
      const int image = image_at(c.starts, n);
      const auto maps = padding ? std::vector<double>(c.T, 0.) : maps_of(c, n, head, image);
      const size_t at = (size_t)n * c.heads + head;
      for (int t = 0; c.keeps && t < c.T; t++)
        if (!close(c, "map", n, head, t, number(r.maps[at * c.T + t]), maps[t], 0)) return false;
      for (int i = 0; i < c.D; i++) {
        double wanted = 0, size = 0;
        for (int t = 0; t < c.T; t++) {
          const double product = maps[t] * number(c.v[(((size_t)image * c.T + t) * c.heads + head) * c.D + i]);
          wanted += product;
          size += std::fabs(product);
        }
        if (!close(c, "result", n, head, i, number(r.out[at * c.D + i]), wanted, size)) return false;
      }
    }
  return true;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 20, most = argc > 2 ? atoi(argv[2]) : 60;
  Rng g(seed());
  int done = 0;
  // rows, tokens, head size: nothing, one of each, the text of Stable Diffusion, a step more than a whole one, the most
  const int fixed[][3] = {{0, 77, 64}, {1, 1, 8}, {17, 77, 64}, {16, 77, 40}, {33, 65, 80}, {5, 256, 160}, {9, 64, 72}};
  for (const auto& f : fixed)
    if (f[0] <= most) {
      if (!check(make(g, f[0], f[1], f[2]))) return 1;
      done++;
    }
  for (int i = 0; i < cases; i++, done++)
    if (!check(make(g, uniform(g, 1, most), uniform(g, 1, 140), 8 * uniform(g, 1, 20)))) return 1;
  printf("cross_attention_rows: %d cases equal to the reference (seed %d)\n", done, seed());
}
