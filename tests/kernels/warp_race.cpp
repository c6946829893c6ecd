// A race inside one warp, which ThreadSanitizer must report; with an argument there is none.
__global__ void exchange(int* out, bool sync) {
  DYN_SMEM(int, shared);
  const int lane = threadIdx.x;
  shared[lane] = lane;
  if (sync) __syncwarp();
  out[lane] = shared[lane ^ 1];
}

int main(int argc, char**) {
  int out[32];
  cudacpu::launch(dim3(1), dim3(32), 128, exchange, (int*)out, argc > 1);
  printf("warp_race: lane 0 got %d\n", out[0]);
}
