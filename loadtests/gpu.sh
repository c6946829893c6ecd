#!/usr/bin/env bash
# What a machine with an NVIDIA GPU has to tell, in ten minutes and without a network: does it compile, is it right, how
# fast is it. Parts go on when one fails; the table at the end, and the exit status, tell which did.
#
#   PYTHON=python3           the Python to use; default .venv/bin/python, or python3 where there is none
#   WHEELS=DIR               diffusers and what else that Python lacks: wheels, or a folder of packages
#   MASKS=FILE.npz           the masks of the paper's benchmark; default ../shared/data, or synthetic ones
#   OUT=DIR                  where results go; default loadtests/results
#   MINUTES=10               for all of it
#   COMMIT=abc1234           what was copied there, where it is no checkout
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" >/dev/null || PYTHON=python3
MASKS=${MASKS:-../shared/data/benchmark_masks.npz}
OUT=${OUT:-loadtests/results}
DEADLINE=$((${MINUTES:-10} * 60 - 15))
mkdir -p "$OUT"
LOG=$OUT/gpu.log
: >"$LOG"
export PYTHON PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" HF_HUB_OFFLINE=1

if [ -n "${WHEELS:-}" ]; then
  site=$WHEELS
  if compgen -G "$WHEELS/*.whl" >/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 1
  fi
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
masks=()
[ -f "$MASKS" ] && masks=(--masks "$MASKS")

table=()
status=0
# part NAME SECONDS COMMAND...: runs it for so long at most; answers whether it went well.
part() {
  local name=$1 limit=$2 begin=$SECONDS left=$((DEADLINE - SECONDS)) code=0 word=ok
  shift 2
  if [ "$left" -lt 10 ]; then
    table+=("$(printf '%-16s %-10s' "$name" "no time")")
    status=1
    return 1
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  printf '\n== %s (%s s at most)\n' "$name" "$limit" | tee -a "$LOG"
  timeout --signal=INT --kill-after=20 "$limit" "$@" 2>&1 | tee -a "$LOG"  # programs then tell what they have
  code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] || { word="failed $code" && status=1; }
  [ "$code" -ne 124 ] && [ "$code" -ne 137 ] || word="cut off"
  table+=("$(printf '%-16s %-10s %4d s' "$name" "$word" $((SECONDS - begin)))")
  return "$code"
}

part card 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv
part versions 60 "$PYTHON" -c 'import torch; from loadtests.conditions import commit, versions
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), "CUDA", torch.version.cuda, versions(), commit())'
part compile 120 "$PYTHON" -m loadtests.kernels --check --device cuda "${masks[@]}"
part tests 60 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests/kernels
part load 60 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests/service/batching
part edit-sd2.1 150 "$PYTHON" -m loadtests.edit --device cuda --model random --steps 30 --store-gib 24 --repeats 2 --save "$OUT"
part unet 140 "$PYTHON" -m loadtests.unet --device cuda "${masks[@]}" --without sparse dense host --save "$OUT"
part sanitize 80 bash loadtests/sanitize.sh
part kernels 60 "$PYTHON" -m loadtests.kernels --device cuda "${masks[@]}" --save "$OUT"
part edit 60 "$PYTHON" -m loadtests.edit --device cuda --pairs 6 --repeats 2 --save "$OUT"
part overload 50 "$PYTHON" -m loadtests.overload --seconds 20 --capacity-seconds 10
if [ $((DEADLINE - SECONDS)) -gt 60 ]; then
  part sdxl 150 "$PYTHON" -m loadtests.unet --device cuda --model sdxl --size 1024 "${masks[@]}" --margins 0 \
    --without compile --rounds 5 --save "$OUT"
fi
if [ $((DEADLINE - SECONDS)) -gt 60 ]; then
  part sweep 200 "$PYTHON" -m loadtests.kernels --sweep --runs 15 --device cuda "${masks[@]}" --save "$OUT"
fi

{
  printf '\n'
  printf '%s\n' "${table[@]}"
  "$PYTHON" -m loadtests.headlines "$OUT" || status=1
} > >(tee -a "$LOG") 2>&1
wait
exit "$status"
