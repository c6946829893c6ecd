// conv_rows.cu on the CPU against a float64 reference. Arguments: random cases a kernel (4), most rows (260).
#include "conv_rows.cu"
#include "cases.h"

using Function = void (*)(const Element*, const int*, const int*, const float*, const float*, const Element*,
                          const Element*, const Element*, const Element*, const float*, const float*, Element*, float*,
                          unsigned*, int, int, int);

struct Kernel {
  const char* name;
  Function function;
  int BM, BN, threads, shared;
  bool activate;
};
template <class T> Kernel kernel(const char* name, Function function, bool activate) {
  return {name, function, T::BM, T::BN, T::THREADS, T::SMEM, activate};
}
#define KERNELS(name, ...)                                                  \
  kernel<rows::ConvTile<__VA_ARGS__>>(#name, conv_rows_##name, false),      \
  kernel<rows::ConvTile<__VA_ARGS__>>(#name "_act", conv_rows_##name##_act, true),
static const Kernel kernels[] = {CONV_ROWS_TILES(KERNELS)};

struct Shape { int N, C, Cout, splits; };

struct Case : Shape {
  int M, images;  // halo rows
  bool activate, exact, bias, embedding, residual, finish;
  std::vector<int> neighbors, image;
  std::vector<float> scale, shift, out_scale, out_shift;
  std::vector<Element> x, weight, b, e, r;
};

// exact: small integers, whose sums every order of addition gets right.
static Case make(Rng& g, Shape shape, bool activate, bool integers) {
  Case c;
  (Shape&)c = shape;
  c.M = uniform(g, 0, 40);
  c.images = uniform(g, 1, 3);
  c.activate = activate;
  c.exact = integers && !activate;
  c.bias = uniform(g, 0, 1);
  c.embedding = uniform(g, 0, 1);
  c.residual = uniform(g, 0, 1);
  c.finish = !c.exact && uniform(g, 0, 2) == 0;
  const int N = c.N, C = c.C, Cout = c.Cout, R = N + c.M;
  auto value = [&](float size) { return c.exact ? (float)uniform(g, -2, 2) : size * normal(g); };
  auto weight = [&] { return c.exact ? (float)uniform(g, -1, 1) : normal(g) / std::sqrt(9.f * C); };
  for (int i = 0; i < N; i++) c.image.push_back(i * c.images / N);  // ragged: a tile may hold rows of several images
  for (int i = 0; i < N * 9; i++) c.neighbors.push_back(uniform(g, 0, 4) ? uniform(g, 0, R - 1) : -1);
  for (int t = 0; N > 1 && t < 9; t++) c.neighbors[N / 2 * 9 + t] = -1;  // a row with no input at all
  for (int i = 0; i < R * C; i++) c.x.push_back(value(1.f));
  for (int i = 0; i < 9 * C * Cout; i++) c.weight.push_back(weight());
  for (int i = 0; i < c.images * C; i++) c.scale.push_back(1.f + .3f * normal(g));
  for (int i = 0; i < c.images * C; i++) c.shift.push_back(.5f + .5f * normal(g));
  for (int i = 0; i < c.images * Cout; i++) c.out_scale.push_back(1.f + .3f * normal(g));
  for (int i = 0; i < c.images * Cout; i++) c.out_shift.push_back(.5f * normal(g));
  for (int i = 0; i < Cout; i++) c.b.push_back(value(.5f));
  for (int i = 0; i < c.images * Cout; i++) c.e.push_back(value(.5f));
  for (int i = 0; i < N * Cout; i++) c.r.push_back(value(1.f));
  tighten(c.x, c.weight, c.b, c.e, c.r, c.neighbors, c.image, c.scale, c.shift, c.out_scale, c.out_shift);
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
  const float* const no_floats = nullptr;
  cudacpu::launch(dim3(row_blocks, channel_blocks, c.splits), dim3(k.threads), k.shared, k.function,  //
                  c.x.data(), c.neighbors.data(), c.image.data(), c.scale.data(), c.shift.data(), c.weight.data(),
                  c.bias ? c.b.data() : nothing, c.embedding ? c.e.data() : nothing, c.residual ? c.r.data() : nothing,
                  c.finish ? c.out_scale.data() : no_floats, c.out_shift.data(), out.data(), partial.data(),
                  arrived.data(), c.N, c.C, c.Cout);
  return out;
}

// One row's nine neighbours, as the product reads them: activations are rounded to Element.
static std::vector<double> gathered(const Case& c, int n) {
  std::vector<double> a;
  for (int t = 0; t < 9; t++) {
    const int source = c.neighbors[n * 9 + t];
    for (int i = 0; i < c.C; i++) {
      double v = source < 0 ? 0 : number(c.x[source * c.C + i]);
      const int at = c.image[n] * c.C + i;
      if (source >= 0 && c.activate) v = number(Element((float)silu(v * c.scale[at] + c.shift[at])));
      a.push_back(v);
    }
  }
  return a;
}

struct Wanted { double value, tolerance; };

static Wanted reference(const Case& c, const std::vector<double>& a, int n, int o) {
  double sum = 0, size = 0, top = 0;
  for (int k = 0; k < 9 * c.C; k++) {
    const double product = a[k] * number(c.weight[k * c.Cout + o]);
    sum += product;
    size += std::fabs(product);
    top = std::max(top, std::fabs(product));
  }
  if (c.bias) sum += number(c.b[o]);
  if (c.embedding) sum += number(c.e[c.image[n] * c.Cout + o]);
  if (c.residual) sum += number(c.r[n * c.Cout + o]);
  if (c.exact) return {number(Element((float)sum)), 0};
  if (c.finish) {
    const int at = c.image[n] * c.Cout + o;
    sum = silu(sum * c.out_scale[at] + c.out_shift[at]);
    size *= std::fabs(c.out_scale[at]) * 1.1;  // the slope of SiLU is at most 1.1
    top *= std::fabs(c.out_scale[at]) * 1.1;
  }
  // Rounding of the result; fp32 sums of `size`; an activation may fall to the other side of a rounding, a few at once.
  const double activations = c.activate ? 4 * kEpsilon * top : 0;
  return {sum, kEpsilon * std::fabs(sum) * .51 + 1e-6 * size + activations + 1e-7};
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
    const Case c = make(g, shape, k.activate, integers);
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

// The prologue as its own kernel.
static bool test_activate_rows(Rng& g) {
  const int R = 77, C = 40, images = 3;
  std::vector<Element> x, y(R * C);
  std::vector<int> image;
  std::vector<float> scale, shift;
  for (int i = 0; i < R * C; i++) x.push_back(normal(g));
  for (int i = 0; i < R; i++) image.push_back(uniform(g, 0, images - 1));
  for (int i = 0; i < images * C; i++) scale.push_back(normal(g)), shift.push_back(normal(g));
  tighten(x, y, image, scale, shift);
  cudacpu::launch(dim3((R * C / 8 + 255) / 256), dim3(256), 0, activate_rows, x.data(), image.data(), scale.data(),
                  shift.data(), y.data(), R, C);
  for (int i = 0; i < R * C; i++) {
    const int at = image[i / C] * C + i % C;
    const double wanted = silu(number(x[i]) * scale[at] + shift[at]);
    if (std::fabs(wanted - number(y[i])) <= kEpsilon * std::fabs(wanted) + 1e-6) continue;
    printf("FAIL activate_rows: element %d is %g, wanted %g\n", i, number(y[i]), wanted);
    return false;
  }
  return true;
}

int main(int argc, char** argv) {
  const int random_cases = argc > 1 ? atoi(argv[1]) : 4, most_rows = argc > 2 ? atoi(argv[2]) : 260;
  Rng g(seed());
  for (const Kernel& k : kernels)
    if (!test(k, g, random_cases, most_rows)) return 1;
  if (!test_activate_rows(g)) return 1;
  printf("conv_rows: %d cases equal to the reference (seed %d)\n", checked, seed());
}
