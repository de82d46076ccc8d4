# What `.ci/run` and `.ci/full` share; they source it. Steps run in virtual environments that are removed at the end.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

# Nothing of the caller's environment may decide what is installed, imported or run.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV PYTEST_ADDOPTS
export PIP_QUIET=2 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export MPLBACKEND=Agg

readonly skipped=77
passed=0 failed=0 skips=0

# step TITLE COMMAND…: runs the command in a subshell of its own under `set -e`, so that a failing line ends the step but
# not the script. The subshell must not stand in a condition: there, Bash would ignore its `set -e`.
step() {
    local title=$1 started=$SECONDS code
    shift
    printf '\n== %s\n' "$title"
    set +e
    (set -e; "$@")
    code=$?
    set -e
    case $code in
        0) passed=$((passed + 1)); printf -- '-- passed in %d s\n' $((SECONDS - started)) ;;
        "$skipped") skips=$((skips + 1)); printf -- '-- skipped after %d s\n' $((SECONDS - started)) ;;
        *) failed=$((failed + 1)); printf -- '-- FAILED (exit %d) after %d s\n' "$code" $((SECONDS - started)) ;;
    esac
}

# Goes to a copy of the checkout without what is compiled, for a step that compiles otherwise: an editable installation
# writes its library beside its source.
copy_checkout() {
    mkdir "$work/checkout"
    tar -C "$root" --exclude=.git --exclude=build --exclude='_native.*' -cf - . | tar -C "$work/checkout" -xf -
    cd "$work/checkout"
}

# Runs the tests marked browser that pytest's further arguments choose, in the environment that is active. Installs
# Chromium, if it may; skipped if there is none.
browser_tests() {
    if ! command -v chromium >/dev/null; then
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium) >"$work/apt.log" 2>&1 ||
            { echo "SKIPPED: there is no Chromium, and it cannot be installed here"; return "$skipped"; }
    fi
    python -m pip install "playwright>=1.50" "axe-playwright-python>=0.1.4"
    NNBP_REQUIRE_BROWSER=1 python -m pytest -n "$(nproc)" "$@"
}

# Prints the counts; fails if a step failed.
finish() {
    printf '\nAll steps took %d s.\n' "$SECONDS"
    printf 'steps: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skips"
    [ "$failed" -eq 0 ]
}
