// gather_rows.cu on the CPU: every kind, bit for bit. Arguments: random cases of each kind (default 24), most rows
// (300).
#include "gather_rows.cu"

#include "cases.h"

enum Kind { kSame, kInt8, kFp8 };
static const char* const kNames[] = {"gather_rows", "gather_rows_int8", "gather_rows_fp8"};

struct Case {
  Kind kind;
  int N, R, width, first, stride, scale_stride, out_stride;
  std::vector<unsigned char> source;  // [R, stride] of 2 bytes or 1
  std::vector<__half> scales;         // [R, scale_stride]
  std::vector<int> index;             // [N]
};

static Case make(Rng& g, Kind kind, int N, int width, int first, int slack) {
  Case c;
  c.kind = kind, c.N = N, c.width = width, c.first = first, c.R = uniform(g, 1, 60);
  c.stride = first + width + slack;
  c.scale_stride = (c.stride + 63) / 64 + uniform(g, 0, 2);
  c.out_stride = width + 8 * uniform(g, 0, 2);
  for (int i = 0; i < c.R * c.stride * (kind == kSame ? 2 : 1); i++) {
    unsigned char byte = uniform(g, 0, 255);
    if (kind == kFp8 && (byte & 0x7f) == 0x7f) byte = 0x80;  // NaN is never stored
    c.source.push_back(byte);
  }
  for (int i = 0; i < c.R * c.scale_stride; i++)
    c.scales.push_back(__half(std::ldexp((float)uniform(g, 0, 2047), uniform(g, -24, -4))));
  for (int i = 0; i < N; i++) c.index.push_back(uniform(g, 0, 5) ? uniform(g, 0, c.R - 1) : -1);
  if (N > 1) c.index[N / 2] = 0, c.index[N - 1] = c.R - 1;  // the first and the last row
  tighten(c.source, c.scales, c.index);
  return c;
}

constexpr uint16_t kUntouched = 0x5A5A;

static std::vector<uint16_t> run(const Case& c) {
  std::vector<uint16_t> out(c.N ? (size_t)(c.N - 1) * c.out_stride + c.width : 0, kUntouched);
  if (out.empty()) return out;  // what the launcher does
  const unsigned all = (c.N * c.width / 8 + 1023) / 1024, grid = c.N % 2 ? all : std::min(all, 2u);  // few walk
  const dim3 threads(rows::kGatherThreads);
  uint4* const to = (uint4*)out.data();
  const auto kernel = c.kind == kSame ? gather_rows : c.kind == kInt8 ? gather_rows_int8 : gather_rows_fp8;
  cudacpu::launch(dim3(grid), threads, 0, kernel, c.source.data(), c.scales.data(), c.index.data(), to, c.N, c.width,
                  c.first, c.stride, c.scale_stride, c.out_stride);
  return out;
}

// What a stored byte means, from the definition of the format.
static float decode(Kind kind, unsigned char byte) {
  if (kind == kInt8) return (float)(byte < 128 ? byte : byte - 256);
  const int exponent = byte >> 3 & 15, fraction = byte & 7;
  const float size = exponent ? std::ldexp(8.f + fraction, exponent - 10) : std::ldexp((float)fraction, -9);
  return byte & 0x80 ? -size : size;
}

static uint16_t expected(const Case& c, int n, int i) {
  const int from = c.index[n], column = c.first + i;
  if (from < 0) return 0;
  uint16_t wanted;
  if (c.kind == kSame) return memcpy(&wanted, &c.source[((size_t)from * c.stride + column) * 2], 2), wanted;
  const float scale = c.scales[from * c.scale_stride + column / 64];
  const Element value(decode(c.kind, c.source[(size_t)from * c.stride + column]) * scale);
  return memcpy(&wanted, &value, 2), wanted;
}

static bool check(const Case& c) {
  const auto out = run(c);
  for (int n = 0; n < c.N; n++)
    for (int i = 0; i < (n + 1 < c.N ? c.out_stride : c.width); i++) {
      const uint16_t got = out[(size_t)n * c.out_stride + i], wanted = i < c.width ? expected(c, n, i) : kUntouched;
      if (got == wanted) continue;
      printf("FAIL %s N=%d width=%d first=%d stride=%d: row %d column %d is %04x, wanted %04x\n", kNames[c.kind], c.N,
             c.width, c.first, c.stride, n, i, got, wanted);
      return false;
    }
  return true;
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 24, most = argc > 2 ? atoi(argv[2]) : 300;
  Rng g(seed());
  int done = 0;
  // rows, width, first column, columns behind: none, one, a chunk, a block more than a whole one, the widest
  const int fixed[][4] = {{0, 64, 0, 0},     {1, 8, 0, 0},  {1, 8, 56, 8},     {3, 2560, 0, 0},
                          {2, 2560, 72, 40}, {33, 8, 0, 0}, {130, 64, 64, 64}, {257, 40, 24, 8}};
  for (const Kind kind : {kSame, kInt8, kFp8}) {
    for (const auto& f : fixed)
      if (f[0] <= most) {
        if (!check(make(g, kind, f[0], f[1], f[2], f[3]))) return 1;
        done++;
      }
    for (int i = 0; i < cases; i++, done++)
      if (!check(
              make(g, kind, uniform(g, 1, most), 8 * uniform(g, 1, 30), 8 * uniform(g, 0, 20), 8 * uniform(g, 0, 9))))
        return 1;
    Case padding = make(g, kind, 9, 72, 8, 0);  // a bucket of which nothing is used
    std::fill(padding.index.begin(), padding.index.end(), -1);
    if (!check(padding)) return 1;
  }
  {  // every code of fp8 and int8, whatever the dice
    for (const Kind kind : {kInt8, kFp8}) {
      Case all = make(g, kind, 1, 256, 0, 0);
      for (int i = 0; i < 256; i++) all.source[i] = kind == kFp8 && (i & 0x7f) == 0x7f ? 0 : i;
      all.index[0] = 0;
      if (!check(all)) return 1;
    }
  }
  printf("gather_rows: %d cases equal to the reference (seed %d)\n", done, seed());
}
