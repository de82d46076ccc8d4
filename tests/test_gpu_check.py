"""The evidence of a machine with a GPU: what gpu_check.sh runs and keeps, and the page that is made of it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
SCRIPT, SUMMARY = BENCH / "gpu_check.sh", BENCH / "gpu_summary.py"
ALL = ("environment", "doctor", "tests", "parity", "small", "bench")
TOOLS = ("bash", "timeout", "sed", "tee", "find")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, TOOLS)), reason="needs Linux, Bash and GNU coreutils"
)

FAKE = """#!{bash}
# An interpreter that notes its calls, and tells what is not for others to read.
case "$*" in
    *gpu_summary.py*) exec {python} "$@" ;;
    *"-c "*) exit 0 ;;
esac
echo "$*" >>{calls}
case "$*" in
    *" --json"*) echo '{{"passed": true}}' ;;
    *"-m pytest"*) echo "on $(uname -n) in $HOME/secret, $(pwd -P)/nnbp"; {pytest} ;;
    *"-m nnbp bench"*) mkdir -p {out}/bench; echo "{{\\"where\\": \\"$HOME/secret\\"}}" >{out}/bench/results.json ;;
esac
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "evidence"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder."""
    folder = tmp_path / "home-of-somebody"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def calls(tmp_path, out, monkeypatch):
    """Makes an interpreter that only notes how it is called, and says where; of pytest it does what it is told."""

    def make(pytest="exit 3"):
        notes, python = tmp_path / "calls", tmp_path / "env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            FAKE.format(bash=shutil.which("bash"), python=sys.executable, calls=notes, out=out, pytest=pytest)
        )
        python.chmod(0o755)
        monkeypatch.setenv("NNBP_PYTHON", str(python))
        return notes

    return make


def check(*arguments, **options):
    """Runs the script."""
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, **options
    )


def steps(folder):
    """Exit codes by step."""
    lines = (folder / "steps.tsv").read_text().splitlines()
    return {line.split("\t")[0]: int(line.split("\t")[1]) for line in lines}


def summarized(folder):
    """The page of a folder, from a process of its own that has no nnbp."""
    command = [sys.executable, "-I", "-S", SUMMARY, folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, encoding="utf-8")
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert result.stdout == page
    return page


def kept(folder):
    """The text of all files of a folder."""
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file())


def test_the_doctor_alone(out, monkeypatch):
    monkeypatch.setenv("NNBP_PYTHON", sys.executable)
    monkeypatch.delenv("NNBP_WHEELS", raising=False)
    result = check("--only", "doctor", "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.name for path in out.iterdir()} == {"doctor.json", "doctor.txt", "steps.tsv", "summary.md"}
    assert json.loads((out / "doctor.json").read_text())["devices"][0]["name"] == "cpu"
    assert steps(out) == {"doctor": 0}
    page = (out / "summary.md").read_text()
    assert "**INCOMPLETE.** passed: doctor; did not run: environment, tests, parity, small, bench." in page
    assert page in result.stdout
    assert str(Path(sys.executable).parent) not in kept(out)


def test_a_step_that_fails_stops_no_other(calls, home, out):
    notes = calls()
    result = check("--out", out, "--only", "bench,tests,doctor,parity")
    assert result.returncode == 1, result.stdout + result.stderr
    assert steps(out) == {"doctor": 0, "tests": 3, "parity": 0, "bench": 0}
    asked = notes.read_text()
    for words in (
        "-m nnbp doctor\n", "-m nnbp doctor --json", "-m pytest tests -m gpu", "-m nnbp parity --steps 50 --json",
        "--dtype float64\n", "--dtype float32\n", "--dtype float32 --precision tf32\n", "--precision bf16\n",
    ):  # fmt: skip
        assert words in asked
    assert re.search(rf"-m nnbp bench --device cuda --budget (170|169) --out {out}/bench\n", asked)
    assert "**FAILED.** passed: doctor, parity, bench; failed: tests; did not run: environment, small." in result.stdout


def test_nothing_that_is_kept_names_the_machine_or_its_user(calls, home, out):
    calls()
    check("--out", out)
    text = kept(out)
    private = {str(home), home.name, str(BENCH.parent), str(out), os.environ.get("USER", ""), platform.node()}
    for name in private - {"", "root", "localhost"}:
        assert not re.search(rf"\b{re.escape(name)}\b", text), name
    assert "~/secret, (nnbp)/nnbp" in text
    assert json.loads((out / "bench" / "results.json").read_text()) == {"where": "~/secret"}


def test_where_neither_pip_nor_setuptools_is_nnbp_comes_from_links(out, monkeypatch, tmp_path):
    monkeypatch.delenv("NNBP_PYTHON", raising=False)
    monkeypatch.setenv("PYTHON", sys.executable)
    broken = tmp_path / "broken" / "setuptools"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    result = check("--only", "doctor", "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert steps(out) == {"install": 0, "doctor": 0}
    assert "links on PYTHONPATH stand in for it" in (out / "install.txt").read_text()
    assert json.loads((out / "doctor.json").read_text())["devices"][0]["works"]


def test_an_interrupt_ends_what_runs(calls, out, tmp_path):
    notes = calls(pytest="exec sleep 30")
    places = tmp_path / "places"
    places.mkdir()
    process = subprocess.Popen(
        ["bash", SCRIPT, "--out", out, "--only", "tests,bench"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "TMPDIR": str(places)},
    )  # fmt: skip
    until = time.monotonic() + 20
    while not notes.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    assert "bench" not in notes.read_text()
    assert not list(places.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fast"], "unknown argument '--fast'"),
        (["--only", "doctor,speed"], "no step 'speed'; there are: environment doctor tests parity small bench"),
        (["--only"], "--only needs steps"),
        (["--out"], "--out needs a folder"),
    ],
)
def test_arguments_that_there_are_not(arguments, words):
    result = check(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr


def test_help():
    result = check("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in (*ALL, "--out", "--only", "NNBP_PYTHON", "NNBP_WHEELS"))


def test_a_folder_with_files_is_refused(out):
    out.mkdir()
    (out / "results").write_text("of another run")
    result = check("--out", out, "--only", "doctor")
    assert result.returncode == 2
    assert "has files already" in result.stderr
    assert [path.name for path in out.iterdir()] == ["results"]


def test_bash_can_read_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SCRIPT], check=True)


def report(name, ratio, passed=True):
    case = {"activation": "tanh", "loss": "huber", "optimizer": name}
    rows = [
        {"stage": stage, "name": f"{stage} of {name}", "max_relative_error": error, "bound": 1e-6}
        for stage, error in (("pass", ratio * 1e-6), ("training", "nan" if not passed else ratio * 2e-7))
    ]
    return {"case": case, "passed": passed, "rows": rows}


@pytest.fixture
def evidence(out):
    """A folder in which nothing is missing, made by hand."""
    (out / "bench").mkdir(parents=True)
    (out / "steps.tsv").write_text(
        "environment\t0\t3\ndoctor\t0\t2\ntests\t1\t100\nparity\t1\t40\nbench\t124\t210\n", encoding="utf-8"
    )
    (out / "environment.txt").write_text(
        "$ nvidia-smi\nGPU: NVIDIA H200, 143771 MiB\nDriver: 580.1\n\n== lscpu\nModel: x\n"
    )
    (out / "tests.txt").write_text("$ python -m pytest\nmany\n1 failed\n-- exit code 1\n")
    (out / "tests.xml").write_text(
        '<testsuites><testsuite tests="7" failures="1" errors="2" skipped="1">'
        '<testcase classname="t.a" name="one"><failure message="assert 1 == 2&#10;more">…</failure></testcase>'
        '<testcase classname="t.a" name="two"><error message="no | GPU">…</error></testcase>'
        '<testcase classname="" name="t.b"><error message="collection failure">in\nE   No module named x\n</error>'
        '</testcase><testcase classname="t.a" name="three"/></testsuite></testsuites>'
    )
    for run in ("float64", "float32", "tf32", "bf16"):
        reports = [report("sgd", 0.25), report("adam", 0.75, passed=run != "bf16")]
        (out / f"parity-{run}.json").write_text(json.dumps({"passed": True, "reports": reports}))
    (out / "bench" / "table.md").write_text("# Speed\n\n![Ratios](speed.svg)\n\n## Steps\n\n[x](https://x.y)\n")
    (out / "bench" / "speed.svg").write_text("<svg/>")
    return out


def test_summary(evidence):
    page = summarized(evidence)
    assert "**FAILED.** passed: environment, doctor; failed: tests, parity, bench; did not run: small." in page
    assert "| bench | stopped, its time was over | 210 |" in page
    assert "- GPU: NVIDIA H200, 143771 MiB\n- Driver: 580.1\n" in page
    assert "- Model" not in page
    assert "| 3 | 1 | 2 | 1 |" in page
    assert "- `t.a.one`: assert 1 == 2\n- `t.a.two`: no \\| GPU\n- `t.b`: E No module named x\n" in page
    adam = "of adam of tanh, huber, adam"
    assert f"| float64 | 2 | 0 | 7.5e-07 | 1.0e-06 | pass {adam} | 1.5e-07 | 1.0e-06 | training {adam} |" in page
    assert f"| bf16 | 2 | 1 | 7.5e-07 | 1.0e-06 | pass {adam} | nan | 1.0e-06 | training {adam} |" in page
    assert "\n### Speed\n\n![Ratios](bench/speed.svg)\n\n#### Steps\n\n[x](https://x.y)\n" in page
    assert "Pictures: [speed.svg](bench/speed.svg)." in page
    assert "$ python -m pytest\nmany\n1 failed\n-- exit code 1\n" in page


def test_summary_of_nothing(out):
    out.mkdir()
    page = summarized(out)
    assert "**INCOMPLETE.** did not run: environment, doctor, tests, parity, small, bench." in page
    assert page.count("no result") == 4
    for name in ("environment.txt", "tests.xml", "bench/table.md"):
        assert f"{name} is missing" in page


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9])
def test_summary_of_files_that_end_half_way(evidence, part):
    for path in [path for path in evidence.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
    page = summarized(evidence)
    assert page.count("no result") == 4
    assert "tests.xml is missing or cut off" in page


@pytest.mark.parametrize("content", ["[]", "{}", '{"reports": []}', '{"reports": [{"passed": true}]}', "null", "\0"])
def test_summary_of_files_of_another_kind(evidence, content):
    for name in ("parity-tf32.json", "tests.xml", "steps.tsv", "environment.txt"):
        (evidence / name).write_text(content)
    page = summarized(evidence)
    assert "| tf32 | no result |" in page
    assert "| float32 | 2 | 0 |" in page


def test_tests_that_were_stopped_are_not_all(evidence):
    sentence = "The time was over before all of them had run."
    assert sentence not in summarized(evidence)
    (evidence / "steps.tsv").write_text("tests\t124\t200\n")
    assert f"| 3 | 1 | 2 | 1 |\n\n{sentence}\n\n- `t.a.one`" in summarized(evidence)


def test_all_steps_passed(out):
    out.mkdir()
    (out / "steps.tsv").write_text("".join(f"{name}\t0\t1\n" for name in ALL))
    assert "**PASSED.** passed: environment, doctor, tests, parity, small, bench." in summarized(out)


def test_summary_needs_a_folder(tmp_path):
    result = subprocess.run(
        [sys.executable, SUMMARY, tmp_path / "none"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "usage: python gpu_summary.py DIR" in result.stderr
