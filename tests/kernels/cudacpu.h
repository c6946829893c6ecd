// CUDA C++ kernels on the CPU, for tests: one fiber a CUDA thread, blocks in turn (or on CUDACPU_THREADS OS threads).
//
//     g++ -std=c++17 -x c++ -include cudacpu.h kernel.cu ...        x86-64, GCC 12 or later for _Float16
//
// CUDACPU_SEED=n     0: threads in order, and an asynchronous copy lands at its wait. n > 0: threads, warps and blocks
//                    in shuffled order, and each copy lands at its issue or at its wait by a coin. The first shows a
//                    missing barrier before a buffer is overwritten, the second a missing wait.
// -fsanitize=thread  every CUDA thread is a TSan fiber; only __syncthreads, __syncwarp and atomics order memory. A
//                    race between two threads is reported whatever the schedule, inside a warp too: shuffles,
//                    ldmatrix and mma converge, but do not order.
// Shared memory begins as NaN. Deadlocks, grids of no blocks and misaligned copies abort.
//
// Not shown: a missing __threadfence (x86 keeps the order of stores), bank conflicts, divergence around .sync.aligned,
// anything about time.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

// ---- the language -------------------------------------------------------------------------------------------------
#define CUDACPU 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }

// ---- fibers -------------------------------------------------------------------------------------------------------
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define CUDACPU_TSAN(...) __VA_ARGS__
#define CUDACPU_RAW __attribute__((no_sanitize("thread"), noinline))  // the scheduler's own memory is not the kernel's
#else
#define CUDACPU_TSAN(...)
#define CUDACPU_RAW
#endif

namespace cudacpu {

extern "C" void cudacpu_switch(void** save, void* load);  // saves this stack's pointer, goes on with the other stack
asm(R"(
.text
.globl cudacpu_switch
cudacpu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  subq $8,%rsp; stmxcsr (%rsp); fnstcw 4(%rsp)
  movq %rsp,(%rdi); movq %rsi,%rsp
  ldmxcsr (%rsp); fldcw 4(%rsp); addq $8,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

constexpr size_t kStack = 96 << 10;

struct Barrier {
  unsigned arrived = 0, generation = 0, alive = 0;
  char clock[2] = {};  // what TSan hangs the order of even and of odd generations on
};
struct Warp {
  Barrier barrier;
  uint64_t slot[32];                       // what lanes hand to each other
  alignas(16) unsigned char buffer[4096];  // the two factors of one mma
};
struct Copy {
  void* to;
  const void* from;
  size_t bytes, valid;
  int group;
};
struct Fiber {
  void* stack_pointer;
  std::unique_ptr<char, void (*)(void*)> stack{nullptr, free};
  dim3 thread;
  unsigned index;
  bool done;
  std::vector<Copy> copies;
  int group;
  uint64_t coin;
  CUDACPU_TSAN(std::unique_ptr<void, void (*)(void*)> tsan{nullptr, __tsan_destroy_fiber};)
};
struct Block {
  dim3 index, threads, grid;
  Barrier barrier;
  std::vector<Warp> warps;
  Warp* warp;  // the first: TSan sees what a vector's own functions read, and fibers are not ordered with the scheduler
  std::vector<Fiber> fibers;
  void* scheduler;
  std::vector<char> shared;
  const std::function<void()>* body;
  bool progress;
};
inline thread_local Block block;
inline thread_local Fiber* current;
inline thread_local void* scheduler_tsan;

inline uint64_t next_random(uint64_t r) { return r * 6364136223846793005ull + 1442695040888963407ull; }

CUDACPU_RAW inline Fiber* self() { return current; }
CUDACPU_RAW inline void set_self(Fiber* f) { current = f; }
CUDACPU_RAW inline Warp& warp() { return block.warp[current->index >> 5]; }
CUDACPU_RAW inline unsigned lane() { return current->index & 31; }
CUDACPU_RAW inline bool is_done(const Fiber& f) { return f.done; }
CUDACPU_RAW inline bool progress() { return block.progress; }
CUDACPU_RAW inline void set_progress(bool p) { block.progress = p; }

CUDACPU_RAW inline void yield() {
  CUDACPU_TSAN(__tsan_switch_to_fiber(scheduler_tsan, 1);)
  cudacpu_switch(&current->stack_pointer, block.scheduler);
}
CUDACPU_RAW inline void open(Barrier& b) {
  b.arrived = 0;
  b.generation++;
  block.progress = true;
}
CUDACPU_RAW inline void arrive(Barrier& b) {  // all threads meet; says nothing about memory
  const unsigned generation = b.generation;
  if (++b.arrived == b.alive) open(b);
  else while (b.generation == generation) yield();
}
CUDACPU_RAW inline void leave(Barrier& b) {
  if (--b.alive && b.arrived == b.alive) open(b);
}
CUDACPU_RAW inline void order(Barrier& b) {  // all threads meet, and what was written before is seen after
  CUDACPU_TSAN(char* const clock = &b.clock[b.generation & 1]; __tsan_release(clock);)
  arrive(b);
  CUDACPU_TSAN(__tsan_acquire(clock);)
}
inline void sync_block() { order(block.barrier); }
inline void sync_warp() { order(warp().barrier); }
inline void converge() { arrive(warp().barrier); }  // what .sync.aligned instructions do

CUDACPU_RAW inline void finish() {
  current->done = true;
  block.progress = true;
  leave(block.barrier);
  leave(warp().barrier);
  for (;;) yield();
}
inline void entry() {
  (*block.body)();
  CUDACPU_TSAN(__tsan_release(&block);)
  finish();
}

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "cudacpu: %s\n", what);
  abort();
}

// ---- launching ----------------------------------------------------------------------------------------------------
inline void prepare(Fiber& f, unsigned i, dim3 threads, unsigned seed) {
  f.thread = dim3(i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y);
  f.index = i;
  f.done = false;
  f.copies.clear();
  f.group = 0;
  f.coin = seed ? (seed * 0x9E3779B97F4A7C15ull) ^ (i * 0xD1B54A32D192ED03ull) : 0;
  if (!f.stack) f.stack.reset((char*)aligned_alloc(64, kStack));
  CUDACPU_TSAN(if (!f.tsan) f.tsan.reset(__tsan_create_fiber(0));)
  // What cudacpu_switch pops: the control words, six registers, where to go on.
  uint64_t* s = (uint64_t*)(f.stack.get() + kStack - 64);
  *--s = 0;
  *--s = (uint64_t)&entry;
  for (int k = 0; k < 6; k++) *--s = 0;
  --s;
  ((uint32_t*)s)[0] = 0x1f80;
  ((uint32_t*)s)[1] = 0x037f;
  f.stack_pointer = s;
}

inline void shuffle(std::vector<unsigned>& order, uint64_t& r) {
  for (unsigned i = order.size() - 1; i; i--) {
    r = next_random(r);
    std::swap(order[i], order[(r >> 33) % (i + 1)]);
  }
}

inline void run_block(dim3 index, dim3 grid, dim3 threads, size_t shared, const std::function<void()>& body,
                      unsigned seed) {
  const unsigned n = threads.x * threads.y * threads.z;
  block.index = index;
  block.grid = grid;
  block.threads = threads;
  block.barrier = Barrier{0, 0, n};
  block.body = &body;
  block.shared.assign(shared + 128, (char)0xFF);  // NaN in every float type
  block.warps.assign((n + 31) / 32, Warp{});
  block.warp = block.warps.data();
  if (block.fibers.size() < n) block.fibers.resize(n);
  std::vector<unsigned> order(n);
  for (unsigned i = 0; i < n; i++) {
    prepare(block.fibers[i], i, threads, seed);
    block.warps[i >> 5].barrier.alive++;
    order[i] = i;
  }
  CUDACPU_TSAN(scheduler_tsan = __tsan_get_current_fiber(); std::vector<char> started(n);)
  uint64_t r = seed * 0x9E3779B97F4A7C15ull + 1;
  for (unsigned left = n; left;) {
    if (seed) shuffle(order, r);
    set_progress(false);
    left = 0;
    bool skipped = false;
    const uint64_t skip = seed ? r ^ (r >> 29) : 0;  // some warps rest a pass: races between warps show
    for (unsigned i : order) {
      Fiber& f = block.fibers[i];
      if (is_done(f)) continue;
      if (skip >> (i >> 5 & 63) & 1) {
        skipped = true;
        left++;
        continue;
      }
      set_self(&f);
      CUDACPU_TSAN(const unsigned no_sync = started[i]; started[i] = 1; __tsan_switch_to_fiber(f.tsan.get(), no_sync);)
      cudacpu_switch(&block.scheduler, f.stack_pointer);
      left += !is_done(f);
    }
    if (left && !progress() && !skipped) fail("deadlock: threads wait at a barrier that others never reach");
  }
  CUDACPU_TSAN(__tsan_acquire(&block);)
}

inline unsigned setting(const char* name, unsigned otherwise) {
  const char* const text = getenv(name);
  return text ? atoi(text) : otherwise;
}

template <class F, class... A> void launch(dim3 grid, dim3 threads, size_t shared, F kernel, A... arguments) {
  const std::function<void()> body = [=] { kernel(arguments...); };
  const unsigned at_once = setting("CUDACPU_THREADS", 1), seed = setting("CUDACPU_SEED", 0);
  const unsigned total = grid.x * grid.y * grid.z;
  if (!total) fail("a grid of zero blocks is an error");
  std::vector<unsigned> order(total);
  for (unsigned i = 0; i < total; i++) order[i] = i;
  uint64_t r = seed;
  if (seed) shuffle(order, r);
  std::atomic<unsigned> next{0};
  auto work = [&] {
    for (unsigned k; (k = next++) < total;) {
      const unsigned i = order[k];
      const dim3 index(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
      run_block(index, grid, threads, shared, body, seed ? seed + i : 0);
    }
  };
  if (at_once <= 1) return work();
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < at_once; i++) workers.emplace_back(work);
  for (auto& worker : workers) worker.join();
}

// ---- lanes of a warp ----------------------------------------------------------------------------------------------
CUDACPU_RAW inline void put(uint64_t v) { warp().slot[lane()] = v; }
CUDACPU_RAW inline uint64_t get(int from) { return warp().slot[from]; }

template <class T> T shuffle_lanes(T v, int from) {
  static_assert(sizeof(T) <= 8, "what one lane hands to another");
  uint64_t u = 0;
  memcpy(&u, &v, sizeof v);
  put(u);
  converge();
  if (from >= 0 && from < 32) {
    u = get(from);
    memcpy(&v, &u, sizeof v);
  }
  converge();
  return v;
}

}  // namespace cudacpu

#define threadIdx (cudacpu::self()->thread)
#define blockIdx (cudacpu::block.index)
#define blockDim (cudacpu::block.threads)
#define gridDim (cudacpu::block.grid)
#define __syncthreads() cudacpu::sync_block()
#define __syncwarp(...) cudacpu::sync_warp()
#define DYN_SMEM(T, name) T* name = (T*)(((uintptr_t)cudacpu::block.shared.data() + 127) & ~uintptr_t(127))
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) {
  return cudacpu::shuffle_lanes(v, cudacpu::lane() ^ mask);
}
template <class T> T __shfl_sync(unsigned, T v, int from) { return cudacpu::shuffle_lanes(v, from & 31); }
template <class T> T __shfl_down_sync(unsigned, T v, int by) {
  const int lane = cudacpu::lane();
  return cudacpu::shuffle_lanes(v, lane + by > 31 ? lane : lane + by);
}
template <class T> T __shfl_up_sync(unsigned, T v, int by) {
  const int lane = cudacpu::lane();
  return cudacpu::shuffle_lanes(v, lane < by ? lane : lane - by);
}

// ---- memory and arithmetic ----------------------------------------------------------------------------------------
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
inline void __threadfence() {}  // x86 keeps the order of stores; the atomics below are sequentially consistent
inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
namespace cudacpu {
// Around accesses to what other threads change by atomics: they may run first, one time of four.
CUDACPU_RAW inline void interleave() {
  Fiber* const f = self();
  if (!f->coin) return;
  f->coin = next_random(f->coin);
  if (f->coin >> 62) return;
  set_progress(true);
  yield();
}
inline int atomic_load(const int* p) {
  interleave();
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
}  // namespace cudacpu
inline int atomicMin(int* p, int v) {
  cudacpu::interleave();
  int old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  while (old > v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
  return old;
}
inline int atomicMax(int* p, int v) {
  int old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
  return old;
}
inline float __int_as_float(int i) {
  float f;
  memcpy(&f, &i, 4);
  return f;
}
inline float __fdividef(float a, float b) { return a / b; }
// Rounded each by itself: the compiler knows nothing of a result, so it fuses no product with a sum.
namespace cudacpu {
inline double opaque(double v) {
  asm("" : "+x"(v));
  return v;
}
}  // namespace cudacpu
inline double __dadd_rn(double a, double b) { return cudacpu::opaque(a + b); }
inline double __dmul_rn(double a, double b) { return cudacpu::opaque(a * b); }
inline double __ddiv_rn(double a, double b) { return cudacpu::opaque(a / b); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <class T> T max(T a, T b) { return a > b ? a : b; }

// ---- fp16, and bf16: the upper half of a float, rounded to nearest even ---------------------------------------------
struct __half {
  _Float16 v;
  __half() = default;
  __half(float f) : v((_Float16)f) {}
  operator float() const { return (float)v; }
};
struct alignas(4) __half2 { __half x, y; };
inline __half __float2half(float f) { return __half(f); }
inline float __half2float(__half h) { return (float)h.v; }
inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
inline float2 __half22float2(__half2 h) { return {(float)h.x, (float)h.y}; }

struct __nv_bfloat16 {
  uint16_t v;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    v = f != f ? 0x7FFF : (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
  }
};
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16(f); }
inline float __bfloat162float(__nv_bfloat16 h) { return (float)h; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__nv_bfloat16(a), __nv_bfloat16(b)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 h) { return {(float)h.x, (float)h.y}; }

// ---- PTX, for kernels that wrap their inline assembly in functions --------------------------------------------------
namespace cudacpu {

inline void check_aligned(const void* p, size_t n, const char* what) {
  if ((uintptr_t)p % n == 0) return;
  fprintf(stderr, "cudacpu: %s: address not a multiple of %zu\n", what, n);
  abort();
}

// cp.async of 4, 8 or 16 bytes, of which `valid` are read; the rest is zero.
inline void land(const Copy& c) {
  memcpy(c.to, c.from, c.valid);
  memset((char*)c.to + c.valid, 0, c.bytes - c.valid);
}
inline void cp_async(void* to, const void* from, size_t bytes, size_t valid) {
  check_aligned(to, bytes, "cp.async to");
  check_aligned(from, bytes, "cp.async from");
  Fiber* const f = self();
  const Copy copy{to, from, bytes, valid, f->group};
  if (f->coin) {
    f->coin = next_random(f->coin);
    if (f->coin >> 63) return land(copy);
  }
  f->copies.push_back(copy);
}
inline void cp_async_commit() { self()->group++; }
inline void cp_async_wait(int newest) {  // all groups but the `newest` newest have landed
  Fiber* const f = self();
  size_t landed = 0;
  for (; landed < f->copies.size() && f->copies[landed].group < f->group - newest; landed++) land(f->copies[landed]);
  f->copies.erase(f->copies.begin(), f->copies.begin() + landed);
}

// ldmatrix .x1 .x2 .x4: lanes 8 m .. 8 m + 7 give the addresses of matrix m's rows.
template <int COUNT> void ldmatrix(unsigned* r, const void* row, bool trans) {
  const unsigned l = lane();
  if (l < COUNT * 8) check_aligned(row, 16, "ldmatrix");
  put((uint64_t)row);
  converge();
  for (unsigned m = 0; m < COUNT; m++) {
    uint16_t h[2];
    for (unsigned j = 0; j < 2; j++) {
      const unsigned from = trans ? (l & 3) * 2 + j : l >> 2, at = trans ? l >> 2 : (l & 3) * 2 + j;
      h[j] = ((const uint16_t*)get(m * 8 + from))[at];
    }
    memcpy(&r[m], h, 4);
  }
  converge();
}

// mma m16n8k16 row.col, fp32 sums. T: _Float16 or __nv_bfloat16.
CUDACPU_RAW inline void poke(int i, float v) { ((float*)warp().buffer)[i] = v; }
CUDACPU_RAW inline float dot16(int row, int column) {
  const float *const a = (const float*)warp().buffer, *const b = a + 256;
  float sum = 0;
  for (int k = 0; k < 16; k++) sum += a[row * 16 + k] * b[k * 8 + column];
  return sum;
}
template <class T> void mma_m16n8k16(float* c, const unsigned* a, const unsigned* b) {
  const int l = lane(), g = l >> 2, t = l & 3;
  for (int i = 0; i < 4; i++) {
    T h[2];
    memcpy(h, &a[i], 4);
    for (int j = 0; j < 2; j++) poke((g + (i & 1) * 8) * 16 + t * 2 + j + (i >> 1) * 8, (float)h[j]);
  }
  for (int i = 0; i < 2; i++) {
    T h[2];
    memcpy(h, &b[i], 4);
    for (int j = 0; j < 2; j++) poke(256 + (t * 2 + j + i * 8) * 8 + g, (float)h[j]);
  }
  converge();
  for (int i = 0; i < 4; i++) c[i] += dot16(g + (i >> 1) * 8, t * 2 + (i & 1));
  converge();
}

}  // namespace cudacpu
