// attention_rows.cu on the CPU against a float64 reference. Arguments: cases a kernel (6), most rows of an image (130).
#include "attention_rows.cu"
#include "cases.h"

using Function = void (*)(const Element*, const Element*, const Element*, const Element*, const Element*, const int*,
                          const int*, const int*, Element*, float*, unsigned*, int, int, int, int, float);

struct Kernel {
  int D, warps, shared;
  Function function;
};
#define KERNEL(D, WARPS) {D, WARPS, rows::AttentionTile<D, WARPS>::SMEM, attention_rows_##D##_##WARPS},
static const Kernel kernels[] = {ATTENTION_ROWS_ENTRIES(KERNEL)};

enum Mode { kRecorded, kMaskedOnly, kText };
static const char* const kModes[] = {"recorded", "masked only", "text"};

struct Shape {
  Mode mode;
  int D, heads, images, positions, splits, most_rows;
  float size;  // of queries and keys: 4 makes logits of up to a few hundred
};

struct Case : Shape {
  std::vector<int> offsets{0}, key_offsets{0}, keys;  // rows of each image; keys in the kernel's form
  std::vector<Element> qkv;                           // [N, 3, heads, D], as one fused projection leaves it
  std::vector<Element> recorded_k, recorded_v, text_k, text_v;
  int N() const { return offsets.back(); }
  int width() const { return heads * D; }
};

// Which positions of an image are rows, in order: the row's number in the batch, or -1.
static std::vector<int> rows_of(Rng& g, int positions, int count, int first_row) {
  std::vector<int> order(positions), row(positions, -1);
  for (int i = 0; i < positions; i++) order[i] = i;
  std::shuffle(order.begin(), order.end(), g);
  std::sort(order.begin(), order.begin() + count);
  for (int i = 0; i < count; i++) row[order[i]] = first_row + i;
  return row;
}

static Case make(Rng& g, Shape shape) {
  Case c;
  (Shape&)c = shape;
  const int sources = std::max(1, c.images - 1);  // at least two images share one recording
  for (int b = 0; b < c.images; b++) {
    const int count = b == 1 ? 0 : std::min(c.positions, uniform(g, 1, c.most_rows));  // the second image has no rows
    const auto rows = rows_of(g, c.positions, count, c.N());
    c.offsets.push_back(c.N() + count);
    if (c.mode == kRecorded)
      for (int i = 0; i < c.positions; i++)
        c.keys.push_back(rows[i] >= 0 ? rows[i] : -1 - (b % sources * c.positions + i));
    const int text = c.key_offsets.back() + (b == 2 ? 0 : 77);  // the third image has no text
    c.key_offsets.push_back(c.mode == kRecorded ? (int)c.keys.size() : c.mode == kMaskedOnly ? c.N() : text);
  }
  const int width = c.width();
  for (int i = 0; i < c.N() * 3 * width; i++) c.qkv.push_back(normal(g) * (i / width % 3 == 2 ? 1.f : c.size));
  for (int i = 0; c.mode == kRecorded && i < sources * c.positions * width; i++) {
    c.recorded_k.push_back(c.size * normal(g));
    c.recorded_v.push_back(normal(g));
  }
  for (int i = 0; c.mode == kText && i < c.key_offsets.back() * width; i++) {
    c.text_k.push_back(c.size * normal(g));
    c.text_v.push_back(normal(g));
  }
  tighten(c.qkv, c.recorded_k, c.recorded_v, c.text_k, c.text_v, c.keys, c.key_offsets);
  return c;
}

static std::vector<int> tiles_of(const Case& c, int queries) {
  std::vector<int> tiles;
  for (int b = 0; b < c.images; b++)
    for (int r = c.offsets[b]; r < c.offsets[b + 1]; r += queries)
      tiles.insert(tiles.end(), {b, r, std::min(r + queries, c.offsets[b + 1])});
  tiles.insert(tiles.end(), {-1, 0, 0});  // a padded grid
  tighten(tiles);
  return tiles;
}

static std::vector<Element> run(const Kernel& k, const Case& c, std::vector<unsigned>& arrived) {
  const int width = c.width(), threads = 32 * k.warps;
  const std::vector<int> tiles = tiles_of(c, 16 * k.warps);
  const size_t blocks = tiles.size() / 3 * c.heads, part = ((c.D + 15) / 16 * 2 + 1) * 4 * threads;
  std::vector<Element> out((size_t)c.N() * width, Element(777.f));
  std::vector<float> partial(c.splits > 1 ? blocks * c.splits * part : 0, NAN);
  arrived.resize(std::max(arrived.size(), blocks), 0);
  const bool text = c.mode == kText;
  const int* const no_keys = nullptr;
  cudacpu::launch(dim3(tiles.size() / 3, c.heads, c.splits), dim3(threads), k.shared, k.function,  //
                  c.qkv.data(), text ? c.text_k.data() : c.qkv.data() + width,
                  text ? c.text_v.data() : c.qkv.data() + 2 * width, c.recorded_k.data(), c.recorded_v.data(),
                  c.mode == kRecorded ? c.keys.data() : no_keys, c.key_offsets.data(), tiles.data(), out.data(),
                  partial.data(), arrived.data(), 3 * width, text ? width : 3 * width, width, width,
                  (float)(1.4426950408889634 / std::sqrt((double)c.D)));
  return out;
}

struct KeyValue { const Element *k, *v; };

// Where K and V of an image's key j lie, for one head.
static KeyValue key_value(const Case& c, int image, int j, int head) {
  const int key = c.key_offsets[image] + j, at_head = head * c.D;
  const size_t width = c.width();
  if (c.mode == kText) return {&c.text_k[key * width + at_head], &c.text_v[key * width + at_head]};
  const int row = c.mode == kRecorded ? c.keys[key] : key;
  if (row < 0) return {&c.recorded_k[(-1 - row) * width + at_head], &c.recorded_v[(-1 - row) * width + at_head]};
  const Element* const k = &c.qkv[(row * 3 + 1) * width + at_head];
  return {k, k + width};
}

// One head of one row: got against wanted, element by element; the first that differs too much, or -1.
static int first_wrong(const Case& c, int image, int row, int head, const Element* got) {
  const Element* const q = &c.qkv[(size_t)row * 3 * c.width() + head * c.D];
  const int num_keys = c.key_offsets[image + 1] - c.key_offsets[image];
  std::vector<double> p(num_keys);
  double top = -1e300, total = 0;
  for (int j = 0; j < num_keys; j++) {
    const Element* const k = key_value(c, image, j, head).k;
    double dot = 0;
    for (int i = 0; i < c.D; i++) dot += number(q[i]) * number(k[i]);
    p[j] = dot / std::sqrt((double)c.D);
    top = std::max(top, p[j]);
  }
  for (double& e : p) total += e = std::exp(e - top);
  for (int i = 0; i < c.D; i++) {
    double wanted = 0, size = 0;
    for (int j = 0; j < num_keys; j++) {
      const double product = p[j] / total * number(key_value(c, image, j, head).v[i]);
      wanted += product;
      size += std::fabs(product);
    }
    // P is rounded to Element before P V (half an ulp of each term), the result again; fp32 logits of a few hundred.
    const double tolerance = kEpsilon * .51 * (size + std::fabs(wanted)) + 2e-5 * (1 + size);
    if (std::fabs(number(got[i]) - wanted) <= tolerance) continue;
    printf("FAIL D=%d %s heads=%d images=%d positions=%d splits=%d: row %d head %d element %d is %g, wanted %g\n", c.D,
           kModes[c.mode], c.heads, c.images, c.positions, c.splits, row, head, i, number(got[i]), wanted);
    return i;
  }
  return -1;
}

static bool check(const Case& c, const std::vector<Element>& out) {
  for (int b = 0; b < c.images; b++)
    for (int n = c.offsets[b]; n < c.offsets[b + 1]; n++)
      for (int h = 0; h < c.heads; h++)
        if (first_wrong(c, b, n, h, &out[(size_t)n * c.width() + h * c.D]) >= 0) return false;
  return true;
}

static bool fail(const Kernel& k, const char* what) {
  printf("FAIL D=%d warps=%d: %s\n", k.D, k.warps, what);
  return false;
}

// Modes in turn; the first six with positions at the edges of a step of 64 keys and of a tile of queries.
static Shape shape_of(Rng& g, const Kernel& k, int i, int most_rows) {
  const int edges[] = {1, 63, 64, 300, 65, 129};  // 300 keys in one split: the list's two slots are used again
  Shape s{(Mode)(i % 3), k.D, uniform(g, 1, 2), uniform(g, 1, 3), 0, 0, most_rows, i % 4 == 3 ? 4.f : 1.f};
  s.positions = i < 6 ? edges[i] : uniform(g, 1, 300);
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
