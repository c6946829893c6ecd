// quantise_rows.cu on the CPU: the formula bit for bit, and its bounds. Arguments: random cases of each kind (default
// 24), most rows (60). Or: int8|fp8 N C INPUT OUTPUT quantises a file of N x C Elements: all values, then all scales.
#include "quantise_rows.cu"

#include <string>

#include "cases.h"

enum Kind { kInt8, kFp8 };
static const char* const kNames[] = {"quantise_rows_int8", "quantise_rows_fp8"};
static const float kLimits[] = {127, 448};
static const float kMaxScales[] = {515.5, 146.125};

struct Case {
  Kind kind;
  int N, width, stride, value_stride, scale_stride;
  std::vector<Element> source;  // [N, stride]
};
struct Result {
  std::vector<unsigned char> values;  // [N, value_stride]
  std::vector<__half> scales;         // [N, scale_stride]
};

constexpr unsigned char kUntouched = 0x5A;

static Result run(const Case& c) {
  Result r{std::vector<unsigned char>((size_t)c.N * c.value_stride, kUntouched),
           std::vector<__half>((size_t)c.N * c.scale_stride, __half(-7.f))};
  if (!c.N) return r;  // what the launcher does
  const unsigned grid = (c.N * ((c.width + 63) / 64) + 31) / 32;
  cudacpu::launch(dim3(grid), dim3(rows::kQuantiseThreads), 0, c.kind == kInt8 ? quantise_rows_int8 : quantise_rows_fp8,
                  c.source.data(), r.values.data(), r.scales.data(), c.N, c.width, c.stride, c.value_stride,
                  c.scale_stride);
  return r;
}

static Case make(Rng& g, Kind kind, int N, int width) {
  Case c;
  c.kind = kind, c.N = N, c.width = width;
  c.stride = width + 8 * uniform(g, 0, 2), c.value_stride = width + 8 * uniform(g, 0, 2),
  c.scale_stride = (width + 63) / 64 + uniform(g, 0, 2);
  const float strange[] = {0.f,      -0.f,          INFINITY, -INFINITY, NAN,    65504.f,
                           -65504.f, 5.9604645e-8f, 6.1e-5f,  1e30f,     1e-30f, 1.f};
  std::vector<float> size((c.stride + 63) / 64);
  for (int n = 0; n < N; n++) {
    for (float& s : size)
      s = uniform(g, 0, 5) ? std::ldexp(1.f, uniform(g, -20, 10))
                           : 0.f;  // blocks of very different sizes, and of zeros
    const bool odd = uniform(g, 0, 3) == 0;
    for (int i = 0; i < c.stride; i++) {
      const float x = odd && uniform(g, 0, 30) == 0 ? strange[uniform(g, 0, 11)] : size[i / 64] * normal(g);
      c.source.push_back(i < width ? Element(x) : Element(1e4f));  // columns behind must not count
    }
  }
  tighten(c.source);
  return c;
}

static float value_of(Kind kind, unsigned char byte) {
  if (kind == kInt8) return (float)(byte < 128 ? byte : byte - 256);
  const int exponent = byte >> 3 & 15, fraction = byte & 7;
  const float size = exponent ? std::ldexp(8.f + fraction, exponent - 10) : std::ldexp((float)fraction, -9);
  return byte & 0x80 ? -size : size;
}

// The nearest code by looking at all; of two equally near ones the even one. |x| is at most the limit.
static unsigned char nearest(Kind kind, float x) {
  if (kind == kInt8) return (unsigned char)(int)std::nearbyint(x);
  int best = 0;
  for (int code = 1; code < 0x7f; code++) {
    const double now = std::fabs(value_of(kFp8, code) - std::fabs(x)),
                 before = std::fabs(value_of(kFp8, best) - std::fabs(x));
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(x) ? 0x80 : 0);
}

static float smallest_half_above(float x) {
  if (x == 0) return 0;
  int exponent;
  std::frexp(x, &exponent);  // x = m * 2^exponent, .5 <= m < 1
  const int step = std::max(exponent - 11, -24);
  return std::ldexp(std::ceil(std::ldexp((double)x, -step)), step);
}

static bool fail(const Case& c, const char* what, int n, int i, double got, double wanted) {
  printf("FAIL %s N=%d width=%d: %s of row %d column %d is %g, wanted %g\n", kNames[c.kind], c.N, c.width, what, n, i,
         got, wanted);
  return false;
}

static bool check(const Case& c) {
  const Result r = run(c);
  const float limit = kLimits[c.kind];
  for (int n = 0; n < c.N; n++) {
    for (int first = 0; first < c.width; first += 64) {
      const int last = std::min(first + 64, c.width);
      auto at = [&](int i) {
        const float x = c.source[(size_t)n * c.stride + i];
        return x == x ? x : 0.f;
      };
      float largest = 0;
      for (int i = first; i < last; i++) largest = std::max(largest, std::fabs(at(i)));
      const float scale = smallest_half_above(std::min(largest * (1.f / limit), kMaxScales[c.kind]));
      const float got_scale = r.scales[(size_t)n * c.scale_stride + first / 64];
      if (got_scale != scale) return fail(c, "scale", n, first, got_scale, scale);
      for (int i = first; i < last; i++) {
        const unsigned char code = r.values[(size_t)n * c.value_stride + i];
        const float scaled = at(i) * (scale ? 1.f / scale : 0.f), clamped = std::min(std::max(scaled, -limit), limit);
        if (code != nearest(c.kind, clamped)) return fail(c, "code", n, i, code, nearest(c.kind, clamped));
        const double back = (double)value_of(c.kind, code) * scale, x = at(i);
        if (!std::isfinite((float)__half((float)back))) return fail(c, "value read back", n, i, back, x);
        // half a step; the reciprocal and the product are rounded to 2^-24 each, which may decide a tie
        const double step = c.kind == kInt8 ? scale * .5 : std::max(std::fabs(x) / 16, scale / 1024.);
        if (std::fabs(x) <= limit * (double)scale && !(std::fabs(back - x) <= step * (1 + 1e-4)))
          return fail(c, "value read back", n, i, back, x);
      }
    }
    for (int i = c.width; i < c.value_stride; i++)
      if (r.values[(size_t)n * c.value_stride + i] != kUntouched)
        return fail(c, "byte behind the end", n, i, r.values[(size_t)n * c.value_stride + i], kUntouched);
    for (int k = (c.width + 63) / 64; k < c.scale_stride; k++)
      if (r.scales[(size_t)n * c.scale_stride + k] != -7.f)
        return fail(c, "scale behind the end", n, k, r.scales[(size_t)n * c.scale_stride + k], -7);
  }
  return true;
}

static int quantise_file(char** argv) {
  Case c;
  c.kind = std::string(argv[1]) == "int8" ? kInt8 : kFp8, c.N = atoi(argv[2]),
  c.width = c.stride = c.value_stride = atoi(argv[3]);
  c.scale_stride = (c.width + 63) / 64, c.source.resize((size_t)c.N * c.width);
  FILE *in = fopen(argv[4], "rb"), *out = fopen(argv[5], "wb");
  if (!in || !out || fread(c.source.data(), 2, c.source.size(), in) != c.source.size())
    return printf("FAIL to read %s\n", argv[4]), 1;
  const Result r = run(c);
  fwrite(r.values.data(), 1, r.values.size(), out), fwrite(r.scales.data(), 2, r.scales.size(), out);
  return fclose(in), fclose(out);
}

int main(int argc, char** argv) {
  if (argc == 6) return quantise_file(argv);
  const int cases = argc > 1 ? atoi(argv[1]) : 24, most = argc > 2 ? atoi(argv[2]) : 60;
  Rng g(seed());
  int done = 0;
  const int fixed[][2] = {{0, 64}, {1, 8}, {1, 64}, {1, 2560}, {3, 72}, {5, 320}, {33, 8}, {40, 56}};
  for (const Kind kind : {kInt8, kFp8}) {
    for (const auto& f : fixed)
      if (f[0] <= most) {
        if (!check(make(g, kind, f[0], f[1]))) return 1;
        done++;
      }
    for (int i = 0; i < cases; i++, done++)
      if (!check(make(g, kind, uniform(g, 1, most), 8 * uniform(g, 1, 40)))) return 1;
  }
  for (int code = 0; code < 0x7f; code++)  // the encoder alone: codes, the middles between them, and just beside
    for (const float sign : {1.f, -1.f}) {
      const float here = value_of(kFp8, code), middle = (here + value_of(kFp8, std::min(code + 1, 0x7e))) / 2;
      for (const float x : {here, middle, std::nextafter(middle, 0.f), std::nextafter(middle, 448.f)})
        if (rows::ToFp8::encode(sign * x) != nearest(kFp8, sign * x))
          return printf("FAIL e4m3 of %g is %x\n", sign * x, rows::ToFp8::encode(sign * x)), 1;
    }
  printf("quantise_rows: %d cases equal to the reference (seed %d)\n", done, seed());
}
