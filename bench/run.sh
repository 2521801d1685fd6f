#!/usr/bin/env bash
# Measures einkorn against its peers: bench/run.sh [--quick] [--only gemm|rows|step]
#
# Installs what is missing (system packages by .ci/install, Python packages into build/bench/venv/), builds into
# build/bench/cmake, runs, and leaves JSON in build/bench/results, and tables and plots in build/bench/report.
# --quick: a first look, under five minutes once everything is installed. A peer that cannot be installed is
# named as absent in every result. PYTHON chooses the interpreter of the environments (default: python3), THREADS
# how many threads the runs have that are not of one, on a machine of more than two CPUs (default: 2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=() parts=(gemm rows step)
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=(--quick) ;;
    --only)
      case ${2:-} in gemm | rows | step) parts=("$2") ;; *) echo "run.sh: --only gemm, rows or step" >&2; exit 2 ;; esac
      shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
wants() { [[ " ${parts[*]} " == *" $1 "* ]]; }

root=$PWD/build/bench venv=$PWD/build/bench/venv results=$PWD/build/bench/results report=$PWD/build/bench/report
mkdir -p "$venv" "$results" "$report"
threads=$(nproc)
[ "$threads" -gt 2 ] && threads=${THREADS:-2}

# ---- install

packages=(libbenchmark-dev python3-venv libtcmalloc-minimal4)
wants gemm && packages+=(libxsmm-dev)
bash .ci/install "${packages[@]}"

# environment NAME PACKAGE...: a Python environment with these packages, or a line that says it is absent.
environment() {
  local name=$1 log=$venv/$1.log
  shift
  local python=$venv/$name/bin/python
  [ -f "$venv/$name.installed" ] && [ "$(cat "$venv/$name.installed")" = "$*" ] && return 0
  echo "Installing $* into ${venv#"$PWD"/}/$name"
  if { [ -x "$python" ] || "${PYTHON:-python3}" -m venv "$venv/$name"; } >"$log" 2>&1 &&
     "$python" -m pip install --no-cache-dir --disable-pip-version-check "$@" >>"$log" 2>&1; then
    echo "$*" >"$venv/$name.installed"
  else
    echo "run.sh: $name is absent: $(tail -n 1 "$log")" >&2
  fi
}
python_of() { [ -f "$venv/$1.installed" ] && echo "$venv/$1/bin/python" || true; }

environment plots matplotlib
if wants gemm || wants rows; then
  environment onednn onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
  environment blas onednn==2026.1.0 onednn-devel==2026.1.0 mkl==2026.2.0 mkl-devel==2026.2.0 \
              scipy-openblas32==0.3.34.481.3 numkong==7.8.6
fi
if wants rows || wants step; then environment torch torch==2.15.0 "numpy<2.4" transformers==4.57.6; fi
if wants step && [ ${#quick[@]} -eq 0 ]; then
  environment ipex torch==2.8.0 intel-extension-for-pytorch==2.8.0 "numpy<2.4" transformers==4.57.6 onnx \
              onnxruntime==1.32.0 onnxscript intel-openmp
fi

# ---- build, with every peer that is there

peers=()
has() { [ -f "$venv/$1.installed" ]; }
found() { ls $1 2>/dev/null | head -n 1 || true; }  # a pattern
has onednn && peers+=("-DEINKORN_BENCH_ONEDNN_ROOT=$venv/onednn")
if has blas; then
  module=$(found "$venv/blas/lib/python3*/site-packages/numkong/_numkong*.so")
  python_library=$("$venv/blas/bin/python" -c 'import os, sysconfig as s
for folder in (s.get_config_var("LIBDIR"), s.get_config_var("LIBPL"), "/usr/lib/x86_64-linux-gnu"):
    for name in (s.get_config_var("INSTSONAME"), "libpython%s.so.1.0" % s.get_python_version()):
        path = os.path.join(folder or "", name or "")
        if ".so" in path and os.path.exists(path): print(path); raise SystemExit')
  peers+=("-DEINKORN_BENCH_ONEDNN_NEW_ROOT=$venv/blas" "-DEINKORN_BENCH_MKL_ROOT=$venv/blas"
          "-DEINKORN_BENCH_OPENBLAS_LIBRARY=$(found "$venv/blas/lib/python3*/site-packages/scipy_openblas32/lib/libscipy_openblas.so")"
          "-DEINKORN_BENCH_NUMKONG_LIBRARY=$module" -DEINKORN_BENCH_NUMKONG_VERSION=7.8.6
          "-DEINKORN_BENCH_PYTHON_LIBRARY=$python_library")
fi
cmake -G Ninja -S . -B "$root/cmake" -DCMAKE_BUILD_TYPE=Release -DEINKORN_BUILD_BENCH=ON -DEINKORN_BUILD_TESTS=OFF \
      "${peers[@]}" --log-level=WARNING
targets=(einkorn_bench)
wants step && targets+=(bert_step)
cmake --build "$root/cmake" --target "${targets[@]}"
bench=$root/cmake/bin/einkorn_bench

# ---- run

# measure NAME [options]: build/bench/results/NAME.json
measure() {
  local name=$1
  shift
  echo "== $name"
  "$bench" "${quick[@]}" "$@" --benchmark_out="$results/$name.json" --benchmark_out_format=json \
           >"$results/$name.txt" 2>"$results/$name.log" || { tail -n 5 "$results/$name.log" >&2; return 1; }
  grep -h 'computes another thing' "$results/$name.log" || true
}
rm -f "$results"/*.json
seconds=0.15
[ ${#quick[@]} -gt 0 ] && seconds=0.04
if wants gemm; then
  measure gemm_1 --threads=1 --seconds=$seconds --benchmark_filter=^gemm
  [ "$threads" -gt 1 ] && measure gemm_2 --threads="$threads" --seconds=$seconds --benchmark_filter='^gemm'
  highest=$(sed -n 's/.*"einkorn_isa": "\(.*\)".*/\1/p' "$results/gemm_1.json")
  if [ "$highest" != avx2 ] && [ "$highest" != baseline ] && [ ${#quick[@]} -eq 0 ]; then
    EINKORN_ISA=avx2 measure gemm_avx2 --threads=1 --seconds=0.1 --peers=onednn,openblas,mkl \
                     --benchmark_filter='^gemm(_bias_gelu)?/(f32|bf16|fp16|u8s8)/'
  fi
fi
if wants rows; then
  measure rows_2 --threads="$threads" --seconds=$seconds --benchmark_filter=-^gemm
  [ ${#quick[@]} -eq 0 ] && [ "$threads" -gt 1 ] &&
    measure rows_1 --threads=1 --seconds=$seconds --benchmark_filter='/cache/|^attention'
  if [ -n "$(python_of torch)" ]; then
    echo "== torch_ops"
    LD_PRELOAD=$(found "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4") \
    "$(python_of torch)" bench/torch_ops.py --bench "$bench" --threads "$threads" "${quick[@]}" \
                         --out "$results/torch_ops.json" | tee "$results/torch_ops.txt"
  fi
fi
if wants step; then
  echo "== step"
  python3 bench/step.py --bert-step "$root/cmake/bin/bert_step" --torch "$(python_of torch)" \
          --ipex "$(python_of ipex)" --iomp "$venv/blas/lib/libiomp5.so" --threads "$threads" "${quick[@]}" --out "$results/step.json"
fi

# ---- report

plots=$(python_of plots)
"${plots:-python3}" bench/report.py --results "$results" --out "$report"
