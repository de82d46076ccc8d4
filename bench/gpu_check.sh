#!/usr/bin/env bash
# Collects the evidence of a machine with an NVIDIA GPU, in less than ten minutes and without a network.
# `bench/gpu_check.sh --help` tells what it runs and what it leaves. Needs Bash, GNU coreutils and Python >= 3.11.
# shellcheck disable=SC2329 # A step is a function that is called by its name.
set -euo pipefail

readonly steps=(environment doctor tests parity small bench)
readonly seconds_of_all=590

usage() {
    cat <<'END'
usage: bench/gpu_check.sh [--out DIR] [--only STEP[,STEP]] [--help]

Collects the evidence of a machine with an NVIDIA GPU, in less than ten minutes and without a network. Steps, each of
which goes on after the failure of another:

  environment   GPU, driver, processor, versions, commit                    30 s at most
  doctor        nnbp doctor                                                 30 s
  tests         the tests marked gpu; without a GPU they fail              200 s
  parity        nnbp parity for float64, float32, tf32 and bf16             90 s
  small         steps of small networks: one kernel, or a graph of many     60 s
  bench         nnbp bench --device cuda                                   180 s

options:
  --out DIR          for the files, one that is empty or not there yet (default bench/results/gpu-DATE)
  --only STEP,STEP   run these steps alone
  --help             this page

variables:
  NNBP_PYTHON=PATH   this interpreter, which has nnbp, as it is. Without it a virtual environment is made, with the
                     packages that there are and nnbp of this checkout, and removed at the end
  PYTHON=PATH        the interpreter that the virtual environment is made of (default python3)
  NNBP_WHEELS=DIR    the wheels in this folder come first on the path
  NNBP_COMMIT=TEXT   the commit of a copy that has no .git

DIR gets summary.md, steps.tsv with exit code and seconds of each step, and what each step printed and wrote; home
folder, paths of the checkout, host and user are taken out of all of it. Exit code: 0 all passed, 1 a step failed, 2 the
command is wrong.
END
}

refuse() {
    printf 'gpu_check.sh: %s\n' "$1" >&2
    exit 2
}

# absolute PATH: as seen from here, for it is used elsewhere.
absolute() {
    [[ $1 == /* ]] && printf '%s' "$1" || printf '%s/%s' "$PWD" "$1"
}

out='' only=("${steps[@]}")
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --out) [ -n "${2:-}" ] || refuse "--out needs a folder"; out=$2; shift 2 ;;
        --only) [ -n "${2:-}" ] || refuse "--only needs steps: ${steps[*]}"; IFS=, read -ra only <<<"$2"; shift 2 ;;
        *) refuse "unknown argument '$1'; --help shows those that there are" ;;
    esac
done
for name in "${only[@]}"; do
    [[ " ${steps[*]} " == *" $name "* ]] || refuse "no step '$name'; there are: ${steps[*]}"
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
out=$(absolute "${out:-$root/bench/results/gpu-$(date +%F)}")
[ -z "$(ls -A "$out" 2>/dev/null)" ] ||
    refuse "$out has files already, and no evidence is overwritten; name another with --out"
python=${NNBP_PYTHON:-${PYTHON:-python3}}
[[ $python != */* ]] || python=$(absolute "$python")
wheels=${NNBP_WHEELS:+$(absolute "${NNBP_WHEELS%/}")}
[ -z "$wheels" ] || [ -d "$wheels" ] || refuse "NNBP_WHEELS is no folder: $wheels"
command -v timeout >/dev/null || refuse "the command timeout, of GNU coreutils, is missing"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || refuse "$python is no Python 3.11 or later"
mkdir -p "$out" || refuse "the folder $out cannot be made"
out=$(cd "$out" && pwd -P)
cd "$root"

work=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/tmp"
# Kernels are compiled here as on a machine that has seen none, and nothing of it stays.
export TMPDIR=$work/tmp CUPY_CACHE_DIR=$work/cupy CUDA_CACHE_PATH=$work/cuda TRITON_CACHE_DIR=$work/triton
export PYTHONPATH=$work/wheels:$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MPLBACKEND=Agg
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# replace TEXT BY: a line of sed that puts BY where TEXT is a whole word or the beginning of a path. A single
# letter may stand for anything, and is left.
replace() {
    local text
    [ "${#1}" -ge 2 ] || return 0
    text=$(printf '%s' "$1" | sed 's/[][\.*^$|]/\\&/g')
    [[ $1 == /* ]] || text="\\b$text"
    printf 's|%s\\b|%s|g\n' "$text" "$2"
}

# Where the interpreter and its packages are.
python_paths() {
    dirname "$(dirname "$(command -v "$python")")"
    "$python" -c '
import sys

print(*(path for path in sys.path if path), sys.prefix, sys.base_prefix, sep="\n")
'
}

# What names the machine or its user is not for others to read. The longer paths go first.
private_names() {
    local host user path
    host=$(uname -n) user=$(id -un)
    replace "$work" "(work)"
    replace "$out" "(out)"
    python_paths | while read -r path; do
        [[ $path == /usr* ]] || replace "$path" "(python)"
    done
    replace "$wheels" "(wheels)"
    replace "$root" "(nnbp)"
    replace "$(cd ~ && pwd -P)" "~"
    replace "${HOME%/}" "~"
    [ "${host%%.*}" = localhost ] || { replace "$host" "(host)"; replace "${host%%.*}" "(host)"; }
    [ "$user" = root ] || replace "$user" "(user)"
    printf 's|hostname="[^"]*"|hostname=""|g\n'
}
private_names >"$work/private.sed"

# limited LATER COMMAND…: runs a command as long as the step's time lasts, less LATER seconds for what comes after it.
# It is interrupted then, so that it can write what it has.
limited() {
    local left=$((deadline - SECONDS - $1)) code=0 child
    shift
    printf '$ %s\n' "${*%%$'\n'*}" >&2
    if [ "$left" -lt 1 ]; then
        echo "-- not started: the time of this step is over" >&2
        return 124
    fi
    # Under `set -m` a command in the background can be interrupted, and the shell that waits for it, too.
    set -m
    timeout --signal=INT --kill-after=5 "$left" "$@" </dev/null &
    child=$!
    set +m
    trap 'kill -INT "$child"; wait "$child"; exit 130' INT TERM
    wait "$child" || code=$?
    trap - INT TERM
    case $code in
        0) ;;
        124 | 137) printf -- '-- stopped after %d s\n' "$left" >&2 ;;
        *) printf -- '-- exit code %d\n' "$code" >&2 ;;
    esac
    return "$code"
}

# kept FILE LATER COMMAND…: as `limited`, and what the command prints goes to a file of its own.
kept() {
    local file=$1 code=0
    shift
    limited "$@" >"$work/printed" || code=$?
    [ ! -s "$work/printed" ] || sed -E -f "$work/private.sed" "$work/printed" >"$out/$file"
    return "$code"
}

summary() {
    "$python" "$root/bench/gpu_summary.py" "$out"
}

failed=0

# step NAME SECONDS: runs the function of this name, shows and keeps what it prints, and notes how it ended. It has less
# time where there is less of the whole.
step() {
    local name=$1 limit=$2 started=$SECONDS code
    deadline=$((SECONDS + limit < seconds_of_all ? SECONDS + limit : seconds_of_all))
    printf '\n== %s, %d s at most\n' "$name" $((deadline - SECONDS))
    set +e
    "$name" 2>&1 | sed -u -E -f "$work/private.sed" | tee "$out/$name.txt"
    code=${PIPESTATUS[0]}
    set -e
    find "$out" -type f \( -name '*.xml' -o -path '*/bench/*' \) ! -name '*.png' \
        -exec sed -i -E -f "$work/private.sed" {} +
    printf '%s\t%d\t%d\n' "$name" "$code" $((SECONDS - started)) >>"$out/steps.tsv"
    printf -- '-- %s: exit code %d after %d s\n' "$name" "$code" $((SECONDS - started))
    [ "$code" -eq 0 ] || failed=1
    # Now, too: the next step may be the one with which the machine is taken away.
    summary >"$work/summary" || failed=1
}

# A virtual environment that has all packages of $python, which may be one of a virtual environment itself: venv knows
# the system's alone. pip is theirs, too: not every Python can bring its own.
make_environment() {
    local code="import sys, sysconfig as s; print(*{s.get_path('purelib'), s.get_path('platlib')}, sep='\n')" line
    "$python" -m venv --system-site-packages --without-pip "$work/venv"
    "$python" -c "$code" | while read -r line; do
        printf 'import site; site.addsitedir("%s")\n' "$line"
    done >"$("$work/venv/bin/python" -c "$code" | head -n 1)/parent.pth"
    python=$work/venv/bin/python
}

# nnbp as it is installed, without setuptools: its packages where pyproject.toml maps them, and its entry points, by
# which backends are found.
link_packages() {
    mkdir -p "$work/site/nnbp" "$work/site/nnbp-0.dist-info"
    ln -s "$root"/nnbp/* "$root/backends" "$root/bench" "$work/site/nnbp/"
    "$python" - "$work/site/nnbp-0.dist-info" <<'END'
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

install() {
    local code=0
    if [ -n "$wheels" ]; then
        limited 0 "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/wheels" \
            "$wheels"/*.whl || code=$?
    fi
    [ -z "${NNBP_PYTHON:-}" ] || return "$code"
    if limited 0 "$python" -m pip install --no-index --no-deps --no-build-isolation -e . >"$work/pip" 2>&1; then
        echo "nnbp is installed from this checkout."
    else
        tail -n 5 "$work/pip"
        echo "pip cannot install nnbp, for which it needs setuptools 77 or later: links on PYTHONPATH stand in for it."
        link_packages || code=$?
    fi
    return "$code"
}

# The lines `name: value` until the first title are what the summary shows.
environment() {
    local code=0
    limited 0 nvidia-smi --query-gpu=name,memory.total,compute_cap,driver_version --format=csv,noheader |
        sed -E 's/^(.*), (.*), (.*), (.*)$/GPU: \1, \2, compute capability \3\nDriver: \4/' || code=$?
    echo "System: $(uname -srm)"
    echo "Processor: $(lscpu | sed -n 's/^Model name: *//p' | head -n 1), $(nproc) usable"
    echo "Memory: $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    commit
    versions || code=$?
    printf '\n== nvidia-smi\n'
    # Processes are those of whoever uses the machine.
    limited 0 nvidia-smi | sed '/Processes:/,$d' || code=$?
    printf '\n== lscpu\n'
    lscpu | grep -E '^(Architecture|CPU\(s\)|Model name|Thread|Core|Socket|CPU max MHz|L[123]|NUMA node\(s\))' || true
    printf '\n== pip list\n'
    limited 0 "$python" -m pip list || code=$?
    return "$code"
}

commit() {
    # A checkout may belong to another user than the one who runs this.
    local git=(git -c "safe.directory=$root") others=(.) changed
    [[ $out != "$root"/* ]] || others+=(":(exclude)${out#"$root"/}")
    if changed=$("${git[@]}" status --porcelain -- "${others[@]}" 2>/dev/null); then
        echo "Commit: $("${git[@]}" rev-parse HEAD)"
        echo "Tree: $([ -z "$changed" ] && echo clean || printf 'changed: %s' "$(cut -c 4- <<<"$changed" | xargs)")"
    else
        echo "Commit: ${NNBP_COMMIT:-unknown, for there is no git or no repository}"
    fi
}

versions() {
    limited 0 "$python" -c '
import platform
from importlib.metadata import distributions

known = ("nnbp", "numpy", "cupy", "nvmath-python", "cuda-bindings", "torch", "jax", "jaxlib", "scikit-learn", "scipy")
found = {str(dist.metadata["Name"]).lower(): dist.version for dist in reversed(list(distributions()))}
names = sorted(name for name in found if name in (*known, "pytest", "hypothesis") or name.startswith("cupy-cuda"))
print("Python:", platform.python_version())
print("Libraries:", ", ".join(f"{name} {found[name]}" for name in names))
'
}

doctor() {
    local code=0
    limited 0 "$python" -m nnbp doctor || code=$?
    kept doctor.json 0 "$python" -m nnbp doctor --json || code=$?
    return "$code"
}

tests() {
    if ! "$python" -c 'import hypothesis' 2>/dev/null; then
        echo "hypothesis is not installed: the test modules that import it are errors below, not tests that passed."
        echo "A folder with its wheels (hypothesis, sortedcontainers) in NNBP_WHEELS brings it."
    fi
    # A module that cannot be imported must not keep the tests of the others from running.
    limited 0 env NNBP_REQUIRE_GPU=1 "$python" -m pytest tests -m gpu -q -p no:cacheprovider --tb=short \
        --durations=10 --continue-on-collection-errors --basetemp="$work/pytest" --junitxml="$out/tests.xml"
}

parity() {
    local code=0
    kept parity-float64.json 30 "$python" -m nnbp parity --steps 50 --json --dtype float64 || code=$?
    kept parity-float32.json 20 "$python" -m nnbp parity --steps 50 --json --dtype float32 || code=$?
    kept parity-tf32.json 10 "$python" -m nnbp parity --steps 50 --json --dtype float32 --precision tf32 || code=$?
    kept parity-bf16.json 0 "$python" -m nnbp parity --steps 50 --json --dtype float32 --precision bf16 || code=$?
    return "$code"
}

small() {
    kept small.md 0 "$python" -m nnbp.bench.persistent
}

bench() {
    # Ten seconds for what is before its clock starts, and after it has stopped.
    limited 0 "$python" -m nnbp bench --device cuda --budget $((deadline - SECONDS - 10)) --out "$out/bench"
}

[ -n "${NNBP_PYTHON:-}" ] || make_environment
if [ -z "${NNBP_PYTHON:-}" ] || [ -n "$wheels" ]; then
    step install 60
fi
# The checkout's own nnbp/ has no backends in it, and must not hide the one of the links.
[ ! -d "$work/site" ] || export PYTHONSAFEPATH=1
declare -A limits=([environment]=30 [doctor]=30 [tests]=200 [parity]=90 [small]=60 [bench]=180)
for name in "${steps[@]}"; do
    [[ " ${only[*]} " != *" $name "* ]] || step "$name" "${limits[$name]}"
done

printf '\n'
summary || failed=1
printf 'All of it took %d s.\n' "$SECONDS"
exit "$failed"
