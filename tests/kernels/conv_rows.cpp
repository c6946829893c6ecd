// conv_rows.cu on the CPU against a float64 reference. Arguments: random cases a kernel (4), most rows (260).
#include "conv_rows.cu"
#include "cases.h"

using Function = void (*)(const Element*, const int*, const Element*, const Element*, const Element*, const int*,
                          const Element*, Element*, float*, unsigned*, int, int, int, int);

struct Kernel {
  const char* name;
  Function function;
  int BM, BN, threads, shared;
};
template <class T> Kernel kernel(const char* name, Function function) {
  return {name, function, T::BM, T::BN, T::THREADS, T::SMEM};
}
#define KERNEL(name, ...) kernel<rows::ConvTile<__VA_ARGS__>>(#name, conv_rows_##name),
static const Kernel kernels[] = {CONV_ROWS_TILES(KERNEL)};

struct Shape { int N, C, Cout, splits; };

struct Case : Shape {
  int M, images;  // halo rows
  bool exact, bias, embedding, residual;
  std::vector<int> neighbors, starts;
  std::vector<Element> x, weight, b, e, r;
};

// exact: small integers, whose sums every order of addition gets right.
static Case make(Rng& g, Shape shape, bool exact) {
  Case c;
  (Shape&)c = shape;
  c.M = uniform(g, 0, 40);
  c.images = uniform(g, 1, 4);
  c.exact = exact;
  c.bias = uniform(g, 0, 1);
  c.embedding = uniform(g, 0, 1);
  c.residual = uniform(g, 0, 1);
  const int N = c.N, C = c.C, Cout = c.Cout, R = N + c.M;
  auto value = [&](float size) { return exact ? (float)uniform(g, -2, 2) : size * normal(g); };
  auto weight = [&] { return exact ? (float)uniform(g, -1, 1) : normal(g) / std::sqrt(9.f * C); };
  c.starts = starts_of(g, c.images, N);  // ragged: a tile may hold rows of several images, and padding behind them
  for (int i = 0; i < N * 9; i++) c.neighbors.push_back(uniform(g, 0, 4) ? uniform(g, 0, R - 1) : -1);
  for (int t = 0; N > 1 && t < 9; t++) c.neighbors[N / 2 * 9 + t] = -1;  // a row with no input at all
  for (int i = 0; i < R * C; i++) c.x.push_back(value(1.f));
  for (int i = 0; i < Cout * 9 * C; i++) c.weight.push_back(weight());
  for (int i = 0; i < Cout; i++) c.b.push_back(value(.5f));
  for (int i = 0; i < c.images * Cout; i++) c.e.push_back(value(.5f));
  for (int i = 0; i < N * Cout; i++) c.r.push_back(value(1.f));
  tighten(c.x, c.weight, c.b, c.e, c.r, c.neighbors, c.starts);
  return c;
}

static std::vector<Element> run(const Kernel& k, const Case& c, std::vector<unsigned>& arrived) {
  std::vector<Element> out(c.N * c.Cout, Element(777.f));
  if (!c.N) return out;  // what the launcher does
  const unsigned row_blocks = (c.N + k.BM - 1) / k.BM, channel_blocks = (c.Cout + k.BN - 1) / k.BN;
  const size_t tiles = row_blocks * channel_blocks;
  std::vector<float> partial(c.splits > 1 ? tiles * c.splits * k.BM * k.BN : 0, NAN);
  arrived.resize(std::max(arrived.size(), tiles), 0);
  const Element* const nothing = nullptr;
  const int* const nowhere = nullptr;
  cudacpu::launch(dim3(row_blocks, channel_blocks, c.splits), dim3(k.threads), k.shared, k.function,  //
                  c.x.data(), c.neighbors.data(), c.weight.data(), c.bias ? c.b.data() : nothing,
                  c.embedding ? c.e.data() : nothing, c.embedding ? c.starts.data() : nowhere,
                  c.residual ? c.r.data() : nothing, out.data(), partial.data(), arrived.data(), c.N, c.C, c.Cout,
                  c.images);
  return out;
}

// One row's nine neighbours, as the product reads them.
static std::vector<double> gathered(const Case& c, int n) {
  std::vector<double> a;
  for (int t = 0; t < 9; t++) {
    const int source = c.neighbors[n * 9 + t];
    for (int i = 0; i < c.C; i++) a.push_back(source < 0 ? 0 : number(c.x[source * c.C + i]));
  }
  return a;
}

struct Wanted { double value, tolerance; };

static Wanted reference(const Case& c, const std::vector<double>& a, int n, int o) {
  double sum = 0, size = 0;
  for (int k = 0; k < 9 * c.C; k++) {
    const double product = a[k] * number(c.weight[(size_t)o * 9 * c.C + k]);
    sum += product;
    size += std::fabs(product);
  }
  if (c.bias) sum += number(c.b[o]);
  if (c.embedding) sum += number(c.e[image_at(c.starts, n) * c.Cout + o]);
  if (c.residual) sum += number(c.r[n * c.Cout + o]);
  if (c.exact) return {number(Element((float)sum)), 0};
  // Rounding of the result; fp32 sums of `size`.
  return {sum, kEpsilon * std::fabs(sum) * .51 + 1e-6 * size + 1e-7};
}

static bool check(const Kernel& k, const Case& c, const std::vector<Element>& out) {
  for (int n = 0; n < c.N; n++) {
    const std::vector<double> a = gathered(c, n);
    for (int o = 0; o < c.Cout; o++) {
      const Wanted wanted = reference(c, a, n, o);
      const double got = number(out[n * c.Cout + o]);
      if (std::fabs(got - wanted.value) <= wanted.tolerance) continue;
      printf("FAIL %s N=%d M=%d C=%d Cout=%d splits=%d exact=%d: row %d channel %d is %g, wanted %g\n", k.name, c.N,
             c.M, c.C, c.Cout, c.splits, c.exact, n, o, got, wanted.value);
      return false;
    }
  }
  return true;
}

static bool fail(const Kernel& k, const char* what) {
  printf("FAIL %s: %s\n", k.name, what);
  return false;
}

static const Shape kEdges[] = {
    {0, 32, 64, 1},  {1, 32, 64, 1},   {1, 8, 8, 3},     {63, 32, 72, 2}, {64, 64, 64, 1},
    {65, 40, 56, 4}, {129, 32, 136, 2}, {130, 96, 64, 5}, {200, 24, 8, 40}, {260, 16, 24, 2},
};

static int checked = 0;

static bool test(const Kernel& k, Rng& g, int random_cases, int most_rows) {
  std::vector<unsigned> arrived;  // kept from launch to launch: each leaves zeros
  auto try_one = [&](Shape shape, bool integers, bool twice) {
    const Case c = make(g, shape, integers);
    const auto out = run(k, c, arrived);
    if (!check(k, c, out)) return false;
    if (!all_zero(arrived)) return fail(k, "an arrival counter is not zero");
    if (twice && !same_bits(out, under_another_schedule([&] { return run(k, c, arrived); })))
      return fail(k, "another schedule gave other bits");
    checked++;
    return true;
  };
  for (int i = 0; i < random_cases; i++) {
    const Shape shape{uniform(g, 1, most_rows), 8 * uniform(g, 1, 12), 8 * uniform(g, 1, 18), uniform(g, 1, 5)};
    if (!try_one(shape, uniform(g, 0, 1), i == 0)) return false;
  }
  bool integers = false;
  for (const Shape& shape : kEdges) {
    if (shape.N <= most_rows && !try_one(shape, integers, false)) return false;
    integers = !integers;
  }
  return true;
}

int main(int argc, char** argv) {
  const int random_cases = argc > 1 ? atoi(argv[1]) : 4, most_rows = argc > 2 ? atoi(argv[2]) : 260;
  Rng g(seed());
  for (const Kernel& k : kernels)
    if (!test(k, g, random_cases, most_rows)) return 1;
  printf("conv_rows: %d cases equal to the reference (seed %d)\n", checked, seed());
}
