// attention_rows.cu on the CPU against a float64 reference. Arguments: cases a kernel (6), most rows of an image (130).
#include "attention_rows.cu"
#include "cases.h"

using Function = void (*)(const Element*, const Element*, const Element*, const int*, const int*, Element*, float*,
                          unsigned*, int, int, int, int, int, float);

struct Kernel {
  int DP, warps, shared;
  Function function;
};
#define KERNEL(DP, WARPS) {DP, WARPS, rows::AttentionTile<DP, WARPS>::SMEM, attention_rows_##DP##_##WARPS},
static const Kernel kernels[] = {ATTENTION_ROWS_ENTRIES(KERNEL)};

struct Shape {
  int D, heads, images, keys, splits, most_rows;  // keys: of an image, at most
  bool own;                                       // keys are the queries' rows, in one array with them
  float size;                                     // of queries and keys: 4 makes logits of up to a few hundred
};

struct Case : Shape {
  int padding;  // rows behind the last image
  std::vector<int> starts{0}, key_starts{0};
  std::vector<Element> q, kv;  // [N, width] and [L, 2, width], or with `own` q alone: [N, 3, width]
  int N() const { return starts.back() + padding; }
  int width() const { return heads * D; }
  int stride() const { return own ? 3 * width() : width(); }
  int key_stride() const { return own ? 3 * width() : 2 * width(); }
  const Element* k() const { return own ? q.data() + width() : kv.data(); }
  const Element* v() const { return k() + width(); }
};

static Case make(Rng& g, Shape shape) {
  Case c;
  (Shape&)c = shape;
  for (int b = 0; b < c.images; b++) {
    c.starts.push_back(c.starts.back() + (b == 1 ? 0 : uniform(g, 1, c.most_rows)));  // the second image has no rows
    const int keys = b == 0 ? c.keys : b == 2 ? 0 : uniform(g, 1, c.keys);            // the third has no keys
    c.key_starts.push_back(c.own ? c.starts.back() : c.key_starts.back() + keys);
  }
  c.padding = uniform(g, 0, 2) ? 0 : uniform(g, 1, c.most_rows);
  const int width = c.width();
  for (int i = 0; i < c.N() * c.stride(); i++) c.q.push_back(normal(g) * (i / width % 3 == 2 ? 1.f : c.size));
  for (int i = 0; !c.own && i < c.key_starts.back() * 2 * width; i++)
    c.kv.push_back(normal(g) * (i / width % 2 ? 1.f : c.size));
  tighten(c.q, c.kv, c.starts, c.key_starts);
  return c;
}

static std::vector<Element> run(const Kernel& k, const Case& c, std::vector<unsigned>& arrived) {
  const int threads = 32 * k.warps;
  const unsigned queries = 16 * k.warps, tiles = (c.N() + queries - 1) / queries + c.images;
  const size_t blocks = tiles * c.heads, part = (k.DP / 8 + 1) * 4 * threads;
  std::vector<Element> out((size_t)c.N() * c.width(), Element(777.f));
  std::vector<float> partial(c.splits > 1 ? blocks * c.splits * part : 0, NAN);
  arrived.resize(std::max(arrived.size(), blocks), 0);
  cudacpu::launch(dim3(tiles, c.heads, c.splits), dim3(threads), k.shared, k.function,  //
                  c.q.data(), c.k(), c.v(), c.starts.data(), c.key_starts.data(), out.data(), partial.data(),
                  arrived.data(), c.N(), c.images, c.D, c.stride(), c.key_stride(),
                  (float)(1.4426950408889634 / std::sqrt((double)c.D)));
  return out;
}

// One head of one row: got against wanted, element by element; the first that differs too much, or -1.
static int first_wrong(const Case& c, int image, int row, int head, const Element* got) {
  const int first = c.key_starts[image], num_keys = c.key_starts[image + 1] - first, at_head = head * c.D;
  const Element* const q = &c.q[(size_t)row * c.stride() + at_head];
  auto at = [&](const Element* of, int j) { return of + (size_t)(first + j) * c.key_stride() + at_head; };
  std::vector<double> p(num_keys);
  double top = -1e300, total = 0;
  for (int j = 0; j < num_keys; j++) {
    double dot = 0;
    for (int i = 0; i < c.D; i++) dot += number(q[i]) * number(at(c.k(), j)[i]);
    p[j] = dot / std::sqrt((double)c.D);
    top = std::max(top, p[j]);
  }
  for (double& e : p) total += e = std::exp(e - top);
  for (int i = 0; i < c.D; i++) {
    double wanted = 0, size = 0;
    for (int j = 0; j < num_keys; j++) {
      const double product = p[j] / total * number(at(c.v(), j)[i]);
      wanted += product;
      size += std::fabs(product);
    }
    // P is rounded to Element before P V (half an ulp of each term), the result again; fp32 logits of a few hundred.
    const double tolerance = kEpsilon * .51 * (size + std::fabs(wanted)) + 2e-5 * (1 + size);
    if (std::fabs(number(got[i]) - wanted) <= tolerance) continue;
    printf("FAIL D=%d own=%d heads=%d images=%d keys=%d splits=%d: row %d head %d element %d is %g, wanted %g\n", c.D,
           c.own, c.heads, c.images, num_keys, c.splits, row, head, i, number(got[i]), wanted);
    return i;
  }
  return -1;
}

static bool check(const Case& c, const std::vector<Element>& out) {
  for (int b = 0; b < c.images; b++)
    for (int n = c.starts[b]; n < c.starts[b + 1]; n++)
      for (int h = 0; h < c.heads; h++)
        if (first_wrong(c, b, n, h, &out[(size_t)n * c.width() + h * c.D]) >= 0) return false;
  for (size_t i = (size_t)c.starts.back() * c.width(); i < out.size(); i++)
    if (number(out[i]) != 0) return printf("FAIL D=%d: padding is %g, wanted 0\n", c.D, number(out[i])), false;
  return true;
}

static bool fail(const Kernel& k, const char* what) {
  printf("FAIL DP=%d warps=%d: %s\n", k.DP, k.warps, what);
  return false;
}

// The first six with keys at the edges of a step of 64.
static Shape shape_of(Rng& g, const Kernel& k, int i, int most_rows) {
  const int edges[] = {1, 63, 64, 300, 65, 129};
  Shape s{k.DP - 8 * (i % 2), uniform(g, 1, 2), uniform(g, 1, 3), 0, 0, most_rows, i % 3 == 1, i % 4 == 3 ? 4.f : 1.f};
  s.keys = i < 6 ? edges[i] : uniform(g, 1, 300);
  s.splits = i < 3 ? 1 + i : i == 3 ? 1 : uniform(g, 1, 5);
  return s;
}

static int checked = 0;

static bool test(const Kernel& k, Rng& g, int cases, int most_rows) {
  std::vector<unsigned> arrived;  // kept from launch to launch: each leaves zeros
  for (int i = 0; i < cases; i++) {
    const Case c = make(g, shape_of(g, k, i, most_rows));
    const auto out = run(k, c, arrived);
    if (!check(c, out)) return fail(k, "wrong");
    if (!all_zero(arrived)) return fail(k, "an arrival counter is not zero");
    if (i == 1 && !same_bits(out, under_another_schedule([&] { return run(k, c, arrived); })))
      return fail(k, "another schedule gave other bits");
    checked++;
  }
  return true;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 6, most_rows = argc > 2 ? atoi(argv[2]) : 130;
  Rng g(seed());
  for (const Kernel& k : kernels)
    if (!test(k, g, cases, most_rows)) return 1;
  printf("attention_rows: %d cases equal to the reference (seed %d)\n", checked, seed());
}
