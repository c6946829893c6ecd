// A library of kernels that Python calls in place of a GPU: cudacpu_launch takes what CuPy's launch takes. Include it
// behind the kernels, and list their entries in CUDACPU_LAUNCH(CALL(this) CALL(that)).
#pragma once
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include <cstring>
#include <tuple>
#include <utility>

template <class... A, size_t... I>
static void call(void (*kernel)(A...), dim3 grid, dim3 threads, size_t shared, void** arguments,
                 std::index_sequence<I...>) {
  cudacpu::launch(grid, threads, shared, kernel, *(A*)arguments[I]...);
}

template <class... A>
static bool call(const char* asked, const char* name, void (*kernel)(A...), int num_arguments, dim3 grid, dim3 threads,
                 size_t shared, void** arguments) {
  if (strcmp(asked, name) || num_arguments != (int)sizeof...(A)) return false;
  call(kernel, grid, threads, shared, arguments, std::index_sequence_for<A...>());
  return true;
}

#define CALL(name) \
  if (call(asked, #name, name, num_arguments, dim3(x, y, z), dim3(threads), shared, arguments)) return 0;

// 0: launched; 1: there is no such entry, or not with so many arguments. `arguments` points at each argument's value.
#define CUDACPU_LAUNCH(...) \
  extern "C" int cudacpu_launch(const char* asked, unsigned x, unsigned y, unsigned z, unsigned threads, \
                                size_t shared, void** arguments, int num_arguments) { \
    __VA_ARGS__ \
    return 1; \
  }
