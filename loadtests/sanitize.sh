#!/usr/bin/env bash
# NVIDIA's compute-sanitizer over small tests that launch our kernels on a GPU: memcheck, then racecheck. It sees what
# the emulation on a CPU cannot: CuPy's launches, and the device's own order of memory. Minutes. Where it cannot run it
# says why, and fails.  PYTHON=python3 takes another Python.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

cannot() {
  echo "sanitize.sh cannot run: $1" >&2
  exit 1
}
command -v compute-sanitizer >/dev/null || cannot "there is no compute-sanitizer on the PATH (it is part of the CUDA toolkit)"
why_not='import torch; from sparse_ops.launch import why_not
print((why_not(torch.device("cuda")) or "") if torch.cuda.is_available() else "there is no GPU")'
reason=$("$PYTHON" -c "$why_not") || cannot "$PYTHON has no torch, or cannot import sparse_ops"
[ -z "$reason" ] || cannot "$reason"

# without torch's cache each tensor is an allocation of its own, and a read behind its end is seen
export PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=1
for tool in memcheck racecheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
      "$PYTHON" -m pytest -q -m gpu -k "gpu-fp16" tests/kernels/test_launcher.py
done
