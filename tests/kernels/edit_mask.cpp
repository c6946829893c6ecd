// edit_mask.cu on the CPU against plain loops: fp64 sums, exact fractions for Otsu, flood fills for components.
// Arguments: random cases of each operator (default 30), the longest side of one (28).
#include "edit_mask.cu"

#include <set>

#include "cases.h"

using Bytes = std::vector<unsigned char>;
using Floats = std::vector<float>;

struct Size {
  int images, H, W;
  int area() const { return H * W; }
};

// How one launch is made: threads, and whether its work lies in shared memory or in scratch. Both must give the same.
struct Place {
  int threads;
  bool shared;
};
static Place some_place(Rng& g) { return {32 * uniform(g, 1, 5), uniform(g, 0, 1) == 0}; }

template <class Kernel> static void launch(Size size, Place place, const Kernel& kernel) {
  const size_t words = size.area() + 1 + (size.area() + 1) / 2;
  std::vector<int> outside(place.shared ? 0 : words * size.images, -1);
  const size_t bytes = 4 * (rows::Work::FIXED + (place.shared ? words : 0));
  cudacpu::launch(dim3(size.images), dim3(place.threads), bytes, kernel, place.shared ? nullptr : outside.data());
}

static bool fail(const char* what, Size size, Place place, int i, double got, double wanted) {
  printf("FAIL %s: %d images of %d x %d, %d threads, %s: position %d is %g, wanted %g\n", what, size.images, size.H,
         size.W, place.threads, place.shared ? "shared" : "scratch", i, got, wanted);
  return false;
}
static bool equal(const char* what, Size size, Place place, const Bytes& got, const Bytes& wanted) {
  for (size_t i = 0; i < wanted.size(); i++)
    if (got[i] != wanted[i]) return fail(what, size, place, i, got[i], wanted[i]);
  return true;
}

// ---- plain loops ----------------------------------------------------------------------------------------------------
static bool at(const Bytes& mask, Size s, int y, int x, bool beyond) {  // beyond: what is outside
  return y < 0 || x < 0 || y >= s.H || x >= s.W ? beyond : mask[y * s.W + x] != 0;
}

// The component of each position for which inside(i), -1 for others, by flooding.
template <class Inside> static std::vector<int> components(Size s, bool diagonals, const Inside& inside) {
  std::vector<int> of(s.area(), -1), todo;
  for (int start = 0, name = 0; start < s.area(); start++) {
    if (!inside(start) || of[start] >= 0) continue;
    for (todo = {start}, of[start] = name; !todo.empty();) {
      const int y = todo.back() / s.W, x = todo.back() % s.W;
      todo.pop_back();
      for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++) {
          const int v = y + dy, u = x + dx, i = v * s.W + u;
          if ((!diagonals && dy && dx) || v < 0 || u < 0 || v >= s.H || u >= s.W || !inside(i) || of[i] >= 0) continue;
          of[i] = name, todo.push_back(i);
        }
    }
    name++;
  }
  return of;
}

static Bytes widened(const Bytes& mask, Size s, int by) {
  Bytes out(s.area());
  for (int i = 0; i < s.area(); i++)
    for (int dy = -by; dy <= by; dy++)
      for (int dx = -by; dx <= by; dx++) out[i] |= at(mask, s, i / s.W + dy, i % s.W + dx, false);
  return out;
}

// 2x2 erosion and dilation; `by`: the dilation's direction, -1 as OpenCV's or 1.
static Bytes opened(const Bytes& mask, Size s, int by) {
  Bytes small(s.area()), out(s.area());
  for (int i = 0; i < s.area(); i++) {
    const int y = i / s.W, x = i % s.W;
    small[i] = at(mask, s, y, x, true) && at(mask, s, y - 1, x, true) && at(mask, s, y, x - 1, true) &&
               at(mask, s, y - 1, x - 1, true);
  }
  for (int i = 0; i < s.area(); i++) {
    const int y = i / s.W, x = i % s.W;
    out[i] = at(small, s, y, x, false) || at(small, s, y + by, x, false) || at(small, s, y, x + by, false) ||
             at(small, s, y + by, x + by, false);
  }
  return out;
}
static Bytes above(const Bytes& image, double level) {
  Bytes out(image.size());
  for (size_t i = 0; i < image.size(); i++) out[i] = image[i] > level;
  return out;
}

// Every level whose variance between classes is the largest, up to the rounding of fp64. By whole numbers:
// (N below_sum - below total)^2 / (below above).
static std::set<int> best_levels(const Bytes& image) {
  long double best = 0;
  std::vector<long double> variance(256);
  long long count = image.size(), total = 0, below = 0, sum = 0;
  for (const int v : image) total += v;
  for (int level = 0; level < 256; level++) {
    const long long here = std::count(image.begin(), image.end(), level);
    below += here, sum += here * level;
    if (!below || below == count) continue;
    const long double apart = (long double)count * sum - (long double)below * total;
    variance[level] = apart * apart / ((long double)below * (count - below));
    best = std::max(best, variance[level]);
  }
  std::set<int> levels;
  if (best == 0) levels.insert(0);
  for (int level = 0; level < 256; level++)
    if (best > 0 && variance[level] >= best * (1 - 1e-12L)) levels.insert(level);
  return levels;
}

// The one of them that OpenCV's recurrence finds, each operation rounded by itself.
static int opencv_level(const Bytes& image) {
  std::vector<int> counts(256);
  for (const int v : image) counts[v]++;
  const volatile double scale = 1. / image.size();
  long long total = 0;
  for (const int v : image) total += v;
  const volatile double mean = total * scale;
  volatile double best = 0, below = 0, mean_below = 0;
  int found = 0;
  for (int level = 0; level < 256; level++) {
    const volatile double share = counts[level] * scale, moment = level * share;
    mean_below = mean_below * below;
    below = below + share;
    const volatile double rest = 1 - below;
    if (std::min((double)below, (double)rest) < 1.1920928955078125e-7) continue;
    const volatile double sum = mean_below + moment;
    mean_below = sum / below;
    const volatile double part = below * mean_below, other = mean - part, mean_above = other / rest;
    const volatile double apart = mean_below - mean_above, shares = below * rest, once = shares * apart;
    const volatile double variance = once * apart;
    if (variance > best) found = level, best = variance;
  }
  return found;
}

// ---- latents --------------------------------------------------------------------------------------------------------
struct Latents {
  int S, C;
  Floats fresh, recorded;  // [images, S, C, area]
};
static Latents make_latents(Rng& g, Size s) {
  Latents l{uniform(g, 1, 4), uniform(g, 1, 5), {}, {}};
  const int strange = uniform(g, 0, 4);  // 0: one NaN; 1: one infinity; 2: a step that differs everywhere alike
  const size_t num = (size_t)s.images * l.S * l.C * s.area();
  const float scale = uniform(g, 0, 3) ? std::ldexp(1.f, uniform(g, -8, 8)) : 0.f;
  for (size_t i = 0; i < num; i++) {
    const bool alike = strange == 2 && i / (l.C * s.area()) % l.S == 0;
    l.recorded.push_back(alike ? 0.f : normal(g));
    l.fresh.push_back(alike ? 1.f : l.recorded.back() + scale * normal(g) * (i % s.W > (size_t)s.W / 2 ? 1.f : .01f));
  }
  if (strange < 2) l.fresh[uniform(g, 0, num - 1)] = strange ? INFINITY : NAN;
  tighten(l.fresh, l.recorded);
  return l;
}

// The least and the largest value; NaN if there is one.
template <class F> static std::pair<float, float> extent(int num, const F& value) {
  float low = INFINITY, high = -INFINITY;
  for (int i = 0; i < num; i++) {
    const float v = value(i);
    if (std::isnan(v)) return {NAN, NAN};
    low = std::min(low, v), high = std::max(high, v);
  }
  return {low, high};
}
template <class F> static Floats minmax(int num, const F& value) {
  const auto [low, high] = extent(num, value);
  Floats out(num, 0.f);
  for (int i = 0; i < num && high > low; i++) {
    const float above = value(i) - low, range = high - low;
    out[i] = above / range;
  }
  return out;
}
static float distance(const Latents& l, Size s, int image, int first_plane, int planes, int i) {
  float sum = 0;
  for (int p = first_plane; p < first_plane + planes; p++) {
    const size_t at = ((size_t)image * l.S * l.C + p) * s.area() + i;
    sum += std::fabs(l.fresh[at] - l.recorded[at]);
  }
  return sum;
}
static bool differs(const Latents& l, Size s, int image, float least) {
  const int num = l.S * l.C * s.area();
  auto value = [&](int i) { return std::fabs(l.fresh[image * num + i] - l.recorded[image * num + i]); };
  const auto top = extent(num, value);
  return !(top.second < least);
}

static bool check_difference(Rng& g, Size s, Place p) {
  const Latents l = make_latents(g, s);
  const float least = uniform(g, 0, 2) ? 0.f : 1.f;
  Bytes got(s.images * s.area(), 7), wanted;
  tighten(got);
  launch(s, p, [=, out = got.data(), from = l.fresh.data(), to = l.recorded.data(), S = l.S, C = l.C](int* scratch) {
    difference_image(from, to, out, scratch, S, C, s.area(), least);
  });
  for (int image = 0; image < s.images; image++) {
    Floats sum(s.area(), 0.f);
    for (int step = 0; step < l.S; step++) {
      const Floats one = minmax(s.area(), [&](int i) { return distance(l, s, image, step * l.C, l.C, i); });
      for (int i = 0; i < s.area(); i++) sum[i] += one[i];
    }
    for (const float v : minmax(s.area(), [&](int i) { return sum[i]; }))
      wanted.push_back(differs(l, s, image, least) ? (unsigned char)(255 * v) : 0);
  }
  return equal("difference_image", s, p, got, wanted);
}

static bool check_probe(Rng& g, Size s, Place p) {
  const Latents l = make_latents(g, s);
  const float least = uniform(g, 0, 2) ? 0.f : 1.f, ratio = uniform(g, 0, 3) ? .15f : 0.f;
  Bytes got(s.images * s.area(), 7), wanted;
  tighten(got);
  launch(s, p, [=, out = got.data(), from = l.fresh.data(), to = l.recorded.data(), planes = l.S * l.C](int* scratch) {
    probe_mask(from, to, out, scratch, planes, s.area(), ratio, least);
  });
  for (int image = 0; image < s.images; image++) {
    auto value = [&](int i) { return distance(l, s, image, 0, l.S * l.C, i); };
    const float enough = ratio * extent(s.area(), value).second;
    for (int i = 0; i < s.area(); i++) wanted.push_back(differs(l, s, image, least) && value(i) > enough);
  }
  return equal("probe_mask", s, p, got, wanted);
}

// ---- difference images ----------------------------------------------------------------------------------------------
static Bytes make_images(Rng& g, Size s) {
  Bytes images;
  for (int image = 0; image < s.images; image++) {
    const int kind = uniform(g, 0, 4), base = uniform(g, 0, 255), y = uniform(g, 0, s.H), x = uniform(g, 0, s.W);
    for (int i = 0; i < s.area(); i++) {
      const int far = std::abs(i / s.W - y) + std::abs(i % s.W - x);
      images.push_back(kind == 0   ? base                                     // constant
                       : kind == 1 ? uniform(g, 0, 1) * base                  // two levels
                       : kind == 2 ? uniform(g, 0, 255)                       // noise
                                   : std::max(0, 255 - 25 * far + uniform(g, -40, 0)));  // a spot
    }
  }
  tighten(images);
  return images;
}

static bool check_thresholded(Rng& g, Size s, Place p) {
  const Bytes images = make_images(g, s);
  const double ratio = uniform(g, 0, 1) ? .9 : .5;
  std::vector<int> weaker;
  for (int t = 0; t < 256; t++) weaker.push_back((int)(ratio * t));
  Bytes paper(images.size(), 7), grown(images.size(), 7);
  tighten(paper, grown, weaker);
  launch(s, p, [=, from = images.data(), out = paper.data()](int* scratch) {
    paper_mask(from, out, scratch, s.H, s.W);
  });
  launch(s, p, [=, from = images.data(), out = grown.data(), table = weaker.data()](int* scratch) {
    grown_mask(from, table, out, scratch, s.H, s.W);
  });
  for (int image = 0; image < s.images; image++) {
    auto cut = [&](const Bytes& all) { return Bytes(&all[image * s.area()], &all[image * s.area()] + s.area()); };
    const Bytes one = cut(images), got_paper = cut(paper), got_grown = cut(grown);
    const int level = opencv_level(one);
    if (!best_levels(one).count(level)) return fail("the reference's level", s, p, image, level, -1);
    const Bytes strong = opened(above(one, level), s, 1), weak = opened(above(one, ratio * level), s, 1);
    const auto of = components(s, true, [&](int i) { return strong[i] || weak[i]; });
    std::set<int> touched;
    for (int i = 0; i < s.area(); i++)
      if (strong[i]) touched.insert(of[i]);
    Bytes wanted(s.area());
    for (int i = 0; i < s.area(); i++) wanted[i] = of[i] >= 0 && touched.count(of[i]);
    if (!equal("paper_mask", s, p, got_paper, opened(above(one, level), s, -1))) return false;
    if (!equal("grown_mask", s, p, got_grown, wanted)) return false;
  }
  return true;
}

// ---- masks ----------------------------------------------------------------------------------------------------------
static Bytes make_masks(Rng& g, Size s) {
  Bytes masks;
  for (int image = 0; image < s.images; image++) {
    const int kind = uniform(g, 0, 5), share = uniform(g, 1, 9);
    for (int i = 0; i < s.area(); i++) {
      const int y = i / s.W, x = i % s.W, ring = std::min(std::min(y, x), std::min(s.H - 1 - y, s.W - 1 - x));
      masks.push_back(kind == 0   ? 0                                         // empty
                      : kind == 1 ? 1                                         // full
                      : kind == 2 ? ring % 2 == 0 && i != s.W * (s.H / 2)     // rings, one with a gap
                      : kind == 3 ? y % 2 == 0 || x == (y % 4 == 1 ? 0 : s.W - 1)   // one long snake
                                  : uniform(g, 0, 9) < share);
    }
  }
  tighten(masks);
  return masks;
}

static Bytes cleaned(const Bytes& mask, Size s, int least, int dilation) {
  const auto of = components(s, true, [&](int i) { return mask[i] != 0; });
  std::vector<int> sizes(s.area() + 1);
  for (const int name : of)
    if (name >= 0) sizes[name]++;
  const int enough = std::min(least, *std::max_element(sizes.begin(), sizes.end()));
  Bytes kept(s.area());
  for (int i = 0; i < s.area(); i++) kept[i] = of[i] >= 0 && sizes[of[i]] >= enough;
  const auto gaps = components(s, false, [&](int i) { return !kept[i]; });
  std::set<int> outside;
  for (int i = 0; i < s.area(); i++)
    if (i / s.W == 0 || i / s.W == s.H - 1 || i % s.W == 0 || i % s.W == s.W - 1) outside.insert(gaps[i]);
  for (int i = 0; i < s.area(); i++) kept[i] |= !outside.count(gaps[i]);
  return widened(kept, s, dilation);
}

static bool check_shapes(Rng& g, Size s, Place p) {
  const Bytes masks = make_masks(g, s);
  const int least = uniform(g, 0, 9), dilation = uniform(g, 0, 2), by = uniform(g, 0, 4);
  Bytes clean(masks.size(), 7), wide(masks.size(), 7), wanted_clean, wanted_wide;
  tighten(clean, wide);
  launch(s, p, [=, from = masks.data(), out = clean.data()](int* scratch) {
    clean_mask(from, out, scratch, s.H, s.W, least, dilation);
  });
  launch(s, p, [=, from = masks.data(), out = wide.data()](int* scratch) {
    widen_mask(from, out, scratch, s.H, s.W, by);
  });
  for (int image = 0; image < s.images; image++) {
    const Bytes one(&masks[image * s.area()], &masks[image * s.area()] + s.area());
    for (const auto v : cleaned(one, s, least, dilation)) wanted_clean.push_back(v);
    for (const auto v : widened(one, s, by)) wanted_wide.push_back(v);
  }
  return equal("clean_mask", s, p, clean, wanted_clean) && equal("widen_mask", s, p, wide, wanted_wide);
}

int main(int argc, char** argv) {
  const int cases = argc > 1 ? atoi(argv[1]) : 30, longest = argc > 2 ? atoi(argv[2]) : 28;
  Rng g(seed());
  const Size fixed[] = {{1, 1, 1}, {1, 1, 9}, {2, 9, 1}, {1, 2, 2}, {2, 3, 5}, {1, 16, 16}, {1, longest, longest}};
  int done = 0;
  for (int i = 0; i < cases + (int)std::size(fixed); i++, done++) {
    const Size size = i < (int)std::size(fixed)
                          ? fixed[i]
                          : Size{uniform(g, 1, 3), uniform(g, 1, longest), uniform(g, 1, longest)};
    const Place place = some_place(g);
    if (!check_difference(g, size, place) || !check_probe(g, size, place) || !check_thresholded(g, size, place) ||
        !check_shapes(g, size, place))
      return 1;
  }
  printf("edit_mask: %d cases of each operator equal to the reference (seed %d)\n", done, seed());
}
