#!/usr/bin/env bash
# Collects evidence from a machine with an NVIDIA GPU, in nine minutes and without a network.
# `bench/gpu_check.sh --help` lists the steps. Needs Bash, GNU coreutils, tar and Python >= 3.11.
# shellcheck disable=SC2329 # Some functions are called by name.
set -euo pipefail

caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

# The tests of the CUDA backend itself run early, those of the benchmark's peers last, and all others in between.
backend_tests=(
    tests/backends/cuda/test_backend.py
    tests/backends/cuda/test_graphs.py
    tests/backends/cuda/test_persistent.py
    tests/backends/test_gemm_accuracy.py
    tests/testing/test_parity.py
)
peer_tests=(tests/bench/test_*.py)

# plan DO: calls DO FILE SECONDS COMMAND… for every step, the most important first. The seconds add up to 540 at most.
# Before a command runs, LEFT in it becomes the seconds that it has, less ten for its start and its end.
plan() {
    local do=$1
    # The addopts of pyproject.toml ask for doctests, which would import every file in tests, an emulated GPU among them,
    # and its pythonpath names the checkout, whose nnbp/ would hide the links.
    local gpu_tests=(
        "$python" -m pytest -m gpu -v --tb=short --durations=10 -p no:cacheprovider -o addopts=--import-mode=importlib
        -o pythonpath=tests/doubles --continue-on-collection-errors
    )
    local parity=("$python" -m nnbp parity --steps 50 --json)
    local bench=("$python" -m bench --device cuda --budget LEFT --peers "nnbp,torch_graph,jax_scan")
    "$do" environment.txt 10 bash -c environment
    "$do" doctor.txt 10 "$python" -m nnbp doctor
    "$do" backend.txt 50 "${gpu_tests[@]}" --junitxml="$evidence/backend.xml" "${backend_tests[@]}"
    "$do" parity-float64.json 12 "${parity[@]}" --dtype float64
    "$do" parity-float32.json 12 "${parity[@]}" --dtype float32
    "$do" parity-tf32.json 12 "${parity[@]}" --dtype float32 --precision tf32
    "$do" parity-bf16.json 12 "${parity[@]}" --dtype float32 --precision bf16
    "$do" records.txt 10 "$python" -m nnbp parity --record "$evidence/records" --device cuda --samples 12
    "$do" tests.txt 140 "${gpu_tests[@]}" --junitxml="$evidence/tests.xml" tests \
        "${backend_tests[@]/#/--ignore=}" "${peer_tests[@]/#/--ignore=}"
    "$do" small.txt 90 "${bench[@]}" --cases "4-16-3@32,64-64-10@64,784-128-10@128" --out "$evidence/small"
    "$do" persistent.md 30 "$python" -m bench.persistent
    "$do" large.txt 72 "${bench[@]}" --cases "4096-,64-64-64-16,784-512,1024-2048" --out "$evidence/large"
    "$do" peers.txt 80 "${gpu_tests[@]}" --junitxml="$evidence/peers.xml" -k "not torch_compile" "${peer_tests[@]}"
}

list() {
    printf '%-15s %3d s  %s\n' "${1%.*}" "$2" "${*:3}"
}

usage() {
    cat <<'END'
usage: bench/gpu_check.sh [--out FILE.tar.gz] [--only STEP,STEP] [--help]

Collects evidence from a machine with an NVIDIA GPU, in nine minutes and without a network. It leaves one archive and
replaces it after every step: if the run is interrupted or killed, the archive has all steps that had ended.

The archive has summary.md, plan.txt, steps.tsv (exit code and seconds of each step), records of what the GPU computes
for every activation, loss and optimizer (`nnbp parity --against records`), and for each step its output and,
if it wrote to standard error, a .log. Names of the host, its user and their folders are removed from all of it.

options:
  --out FILE.tar.gz  the archive, a new file (default bench/results/gpu-DATE.tar.gz)
  --only STEP,STEP   run only these steps
  --help             print this page

variables:
  PYTHON=PATH        the interpreter that has CuPy with its CUDA libraries, NumPy, safetensors, threadpoolctl, pytest,
                     hypothesis and, to compare with, PyTorch and JAX (default python3). It runs as it is, with nnbp
                     from this checkout on its path.
  NNBP_WHEELS=DIR    a folder of wheels that PYTHON lacks; they come first on its path. Bring nvmath-python, cuda-core
                     0.5 or later, cuda-bindings of CuPy's CUDA version, and cuda-pathfinder. `cuda` is a namespace
                     package: its carried parts replace those of PYTHON one by one, and the rest stays.
  NNBP_COMMIT=TEXT   the commit of a copy that has no .git

Exit code: 0 if all steps passed, 1 if one failed, 2 for a wrong command, 129, 130 or 143 after a signal.

A step that fails does not stop the others. It must end by the sum of the limits up to its own, so that the time it saves
goes to the next. The steps, their limits and commands:

END
    plan list
}

refuse() {
    printf 'gpu_check.sh: %s\n' "$1" >&2
    exit 2
}

# absolute PATH: a path relative to the caller's folder, made absolute.
absolute() {
    [[ $1 == /* ]] && printf '%s' "$1" || printf '%s/%s' "$caller" "$1"
}

python=${PYTHON:-python3} evidence=EVIDENCE out=$root/bench/results/gpu-$(date +%F).tar.gz only=''
[[ $python != */* ]] || python=$(absolute "$python")
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --out) [[ ${2:-} == *?.tar.gz ]] || refuse "--out needs a file that ends in .tar.gz"; out=$2; shift 2 ;;
        --only) [ -n "${2:-}" ] || refuse "--only needs steps, see --help"; only=$2; shift 2 ;;
        *) refuse "unknown argument '$1', see --help" ;;
    esac
done
names=$(plan list | cut -d ' ' -f 1)
for name in ${only//,/ }; do
    grep -qx -e "$name" <<<"$names" || refuse "no step '$name'; the steps are: ${names//$'\n'/ }"
done
out=$(absolute "$out")
[ ! -e "$out" ] || refuse "$out exists, and evidence is never overwritten; name another file with --out"
wheels=${NNBP_WHEELS:+$(absolute "$NNBP_WHEELS")}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || refuse "$python is not Python 3.11 or later"
mkdir -p "$(dirname "$out")" || refuse "the folder of $out cannot be made"

work=$(cd "$(mktemp -d)" && pwd -P)
evidence=$work/$(basename "$out" .tar.gz) failed=0 deadline=0
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$evidence" "$work/tmp"

# Kernels are compiled as on a machine that has seen none, and no cache remains.
export TMPDIR=$work/tmp CUPY_CACHE_DIR=$work/cupy CUDA_CACHE_PATH=$work/cuda TRITON_CACHE_DIR=$work/triton
export HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis MPLBACKEND=Agg PYTHONUNBUFFERED=1
# The caller's options for pytest could hide tests, or share the GPU among several processes.
unset PYTEST_ADDOPTS
# pytest cuts the messages of failed tests to the width of a terminal.
export COLUMNS=200
# A GPU that does not work is an error, and the CPU never takes its place.
export NNBP_REQUIRE_GPU=1
# The checkout's own nnbp/ has no backends in it and must not hide the links.
export PYTHONPATH=$work/wheels:$work/links${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1

# link_packages: puts nnbp on the path as an installation would, without pip or a build: its packages where
# pyproject.toml maps them, and the entry points through which backends are found. The benchmark lies beside it.
link_packages() {
    mkdir -p "$work/links/nnbp" "$work/links/nnbp-0.dist-info"
    ln -s "$root"/nnbp/* "$root/backends" "$work/links/nnbp/"
    ln -s "$root/bench" "$work/links/"
    "$python" - "$work/links/nnbp-0.dist-info" <<'END'
import runpy, sys, tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
version = runpy.run_path("nnbp/version.py")["__version__"]
groups = {"console_scripts": project["scripts"], **project["entry-points"]}
lines = [line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))]
folder = Path(sys.argv[1])
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nnbp\nVersion: {version}\n", encoding="utf-8")
(folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
END
}

# environment: prints a line `Title: value` for each fact of the summary, then all packages.
environment() {
    local code=0 gpu changed git=(git -c "safe.directory=$root")
    gpu=$(timeout 10 nvidia-smi --query-gpu=name,memory.total,compute_cap,driver_version --format=csv,noheader 2>&1) ||
        code=$?
    echo "GPU, memory, compute capability, driver: $gpu"
    echo "System: $(uname -srm)"
    echo "Processor: $(lscpu | sed -n 's/^Model name: *//p' | head -n 1), $(nproc) usable"
    echo "Memory: $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    if changed=$("${git[@]}" status --porcelain 2>/dev/null); then
        echo "Commit: $("${git[@]}" rev-parse HEAD)"
        echo "Changed files: $(cut -c 4- <<<"${changed:-   none}" | xargs)"
    else
        echo "Commit: ${NNBP_COMMIT:-unknown: there is no git or no repository}"
    fi
    "$python" -c '
import platform
from importlib.metadata import distributions

known = ("nnbp", "numpy", "cupy", "nvmath-python", "cuda-bindings", "cuda-core", "torch", "jax", "jaxlib", "pytest")
found = {str(dist.metadata["Name"]).lower(): dist.version for dist in reversed(list(distributions()))}
lines = [f"{name} {version}" for name, version in sorted(found.items())]
print("Python:", platform.python_version())
print("Libraries:", ", ".join(line for line in lines if line.split()[0] in known or line.startswith("cupy-cuda")))
print("\n== packages", *lines, sep="\n")
' || code=$?
    return "$code"
}
export -f environment
export python root

# replace TEXT BY: a sed command that puts BY for TEXT if TEXT is a whole word or the beginning of a path. A single
# letter may mean anything and stays.
replace() {
    local text
    [ "${#1}" -ge 2 ] || return 0
    text=$(printf '%s' "$1" | sed 's/[][\.*^$|+?(){}]/\\&/g')
    [[ $1 == /* ]] || text="\\b$text"
    [[ $1 != *[[:alnum:]_] ]] || text="$text\\b"
    printf 's|%s|%s|g\n' "$text" "$2"
}

# private_names: the sed commands that remove names of the machine and its user. Longer paths come first.
private_names() {
    local host user path
    host=$(uname -n) user=$(id -un)
    replace "$evidence" "(evidence)"
    replace "$work" "(work)"
    "$python" -c 'import sys; print(*filter(None, sys.path), sys.prefix, sys.base_prefix, sep="\n")' |
        while read -r path; do
            [[ $path == /usr* ]] || replace "$path" "(python)"
        done
    replace "$(dirname "$(dirname "$(command -v "$python")")")" "(python)"
    replace "$wheels" "(wheels)"
    replace "$root" "(nnbp)"
    replace "$(cd ~ && pwd -P)" "~"
    replace "${HOME%/}" "~"
    [ "${host%%.*}" = localhost ] || { replace "$host" "(host)"; replace "${host%%.*}" "(host)"; }
    [ "$user" = root ] || replace "$user" "(user)"
    printf 's|hostname="[^"]*"|hostname=""|g\n'
}

# archive: packs the evidence so far. The file appears at once and whole, in place of the one before.
archive() {
    find "$evidence" -type f ! -name '*.png' ! -name '*.safetensors' -exec sed -i -E -f "$work/private.sed" {} +
    find "$evidence" -name '*.log' -empty -delete
    "$python" bench/gpu_summary.py "$evidence" >/dev/null || failed=1
    if tar -C "$work" --owner=0 --group=0 --numeric-owner -czf "$out.part" "${evidence##*/}"; then
        mv "$out.part" "$out"
    else
        failed=1
    fi
}

# run FILE SECONDS COMMAND…: runs a step. Standard output goes to FILE.
run() {
    local left command=("${@:3}") code=0
    name=${1%.*} started=$SECONDS deadline=$((deadline + $2))
    [[ ,${only:-$name}, == *,"$name",* ]] || return 0
    left=$((deadline > SECONDS ? deadline - SECONDS : 1))
    printf '== %s: %d s at most\n' "$name" "$left"
    # SIGINT lets a command write the results that it has. Under job control the command does not ignore it, and its
    # processes form a group.
    set -m
    timeout --foreground --signal=INT --kill-after=5 "$left" "${command[@]//LEFT/$((left - 10))}" \
        </dev/null >"$evidence/$1" 2>"$evidence/$name.log" &
    set +m
    wait $! || code=$?
    ended "$code"
    archive
}

# ended CODE: notes how the step ended. None of its processes runs on.
ended() {
    kill -KILL -- -$! 2>/dev/null || true
    [ "$1" -eq 0 ] || failed=1
    printf '%s\t%d\t%d\n' "$name" "$1" $((SECONDS - started)) >>"$evidence/steps.tsv"
    printf -- '-- %s: exit code %d after %d s\n' "$name" "$1" $((SECONDS - started))
}

# finish: ends the step that runs, if any, and packs what it has written.
finish() {
    trap '' HUP INT TERM
    if [ -n "$(jobs -pr)" ]; then
        kill -INT $! || true
        wait $! || true
        ended 130
    fi
    if [ -e "$evidence/steps.tsv" ]; then
        archive
        printf '\n%s\nThe archive after %d s: %s\n' "$(cat "$evidence/summary.md")" "$SECONDS" "$out"
    fi
    rm -rf "$work" "$out.part"
}

if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
        --target "$work/wheels" "$wheels"/*.whl || refuse "the wheels in $wheels cannot be installed"
fi
link_packages
private_names >"$work/private.sed"
plan list >"$evidence/plan.txt"
plan run
exit "$failed"
