// What the row kernels' test programs share: random cases, and how far a result may be from the reference.
#pragma once
#include <random>
#undef threadIdx  // the shim's names; <random> and the programs may have their own
#undef blockIdx
#undef blockDim
#undef gridDim

using rows::Element;
using Rng = std::mt19937;

#ifdef ROWS_BF16
constexpr double kEpsilon = 1.0 / 128;  // of a value; one rounding is at most half of it
#else
constexpr double kEpsilon = 1.0 / 1024;
#endif

inline int uniform(Rng& g, int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(g); }
inline float normal(Rng& g) { return std::normal_distribution<float>()(g); }
inline double number(Element e) { return (double)(float)e; }
inline double silu(double v) { return v / (1 + std::exp(-v)); }

// Where each image's rows begin, of `num_rows`: images without rows among them, and sometimes padding behind the last.
inline std::vector<int> starts_of(Rng& g, int images, int num_rows) {
  std::vector<int> starts{0};
  for (int i = 0; i < images; i++) starts.push_back(uniform(g, 0, 3) ? uniform(g, 0, num_rows) : starts.back());
  if (uniform(g, 0, 1)) starts.back() = num_rows;
  std::sort(starts.begin(), starts.end());
  return starts;
}

// The image of a row; padding counts as the last image's.
inline int image_at(const std::vector<int>& starts, int row) {
  int image = (int)starts.size() - 2;
  while (image > 0 && row < starts[image]) image--;
  return image;
}

// No slack behind the end, so that ASan sees one element too far.
template <class... V> void tighten(V&... vectors) { (vectors.shrink_to_fit(), ...); }

inline int seed() { return cudacpu::setting("CUDACPU_SEED", 0); }

// The same run under another order of threads and blocks.
template <class F> auto under_another_schedule(F run) {
  const std::string before = std::to_string(seed());
  setenv("CUDACPU_SEED", "77", 1);
  auto result = run();
  setenv("CUDACPU_SEED", before.c_str(), 1);
  return result;
}

inline bool same_bits(const std::vector<Element>& a, const std::vector<Element>& b) {
  return a.size() == b.size() && !memcmp(a.data(), b.data(), a.size() * sizeof(Element));
}

inline bool all_zero(const std::vector<unsigned>& counters) {
  return std::all_of(counters.begin(), counters.end(), [](unsigned c) { return c == 0; });
}
