"""The evidence of a machine with a GPU: the steps of gpu_check.sh, the archive it leaves, and the summary page."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from interruptible import interruptible

from nnbp.device.select import devices

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, SUMMARY = ROOT / "bench" / "gpu_check.sh", ROOT / "bench" / "gpu_summary.py"
PARITY = ["parity-float64", "parity-float32", "parity-tf32", "parity-bf16"]
STEPS = ["environment", "doctor", "backend", *PARITY, "records", "tests", "small", "persistent", "large", "peers"]
TOOLS = ("bash", "timeout", "sed", "find", "tar")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, TOOLS)), reason="needs Linux, Bash, GNU coreutils and tar"
)
needs_pip = pytest.mark.skipif(find_spec("pip") is None, reason="needs pip")

FAKE = """#!{bash}
# An interpreter that notes the commands of the steps instead of running them.
case "$*" in
    "-m pytest"* | "-m nnbp"* | "-m bench"*) ;;
    *) exec {python} "$@" ;;
esac
printf '%q ' "$@" >>{calls}
echo >>{calls}
case "$*" in
{cases}
esac
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "found.tar.gz"


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A home folder and a folder for temporary files, both empty, and the interpreter of the tests."""
    for variable, folder in (("HOME", tmp_path / "home of c++ (v2)"), ("TMPDIR", tmp_path / "temporary")):
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setenv("PYTHON", sys.executable)
    for variable in ("NNBP_WHEELS", "NNBP_COMMIT", "NNBP_REQUIRE_GPU"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes an interpreter from lines of a Bash `case` on a command; returns what reads the commands it has noted."""

    def make(*cases):
        notes, python = tmp_path / "calls", tmp_path / "env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        words = {"bash": shutil.which("bash"), "python": sys.executable, "calls": notes, "cases": "\n".join(cases)}
        python.write_text(FAKE.format(**words))
        python.chmod(0o755)
        monkeypatch.setenv("PYTHON", str(python))
        return lambda: [shlex.split(line) for line in notes.read_text().splitlines()]

    return make


def check(*arguments, **options):
    """Runs the script."""
    return subprocess.run(
        interruptible(["bash", SCRIPT, *arguments]), capture_output=True, text=True, timeout=120, check=False, **options
    )


def unpacked(out):
    """The contents of the archive by their paths, without the folder in which all of them lie."""
    with tarfile.open(out) as archive:
        files = [member for member in archive if member.isfile()]
        assert {member.name.partition("/")[0] for member in files} == {out.name.removesuffix(".tar.gz")}
        assert {(member.uid, member.uname, member.gname) for member in archive} == {(0, "", "")}
        return {member.name.partition("/")[2]: archive.extractfile(member).read().decode() for member in files}


def codes(files):
    """Exit codes by step."""
    return {line.split("\t")[0]: int(line.split("\t")[1]) for line in files["steps.tsv"].splitlines()}


def eventually(condition):
    """Waits until a condition holds."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def ended(pid):
    """Whether a process is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_plan_is_in_order_of_importance_fits_into_nine_minutes_and_passes_saved_time_on(fake, out):
    calls = fake()
    page = check("--help").stdout
    assert all(name in page for name in ("--out", "--only", "PYTHON", "NNBP_WHEELS", "NNBP_COMMIT"))
    plan = {name: int(limit) for name, limit in re.findall(r"^([\w-]+) +(\d+) s  ", page, re.MULTILINE)}
    assert list(plan) == STEPS
    ends = {name: sum(list(plan.values())[: number + 1]) for number, name in enumerate(plan)}
    assert ends["peers"] <= 540
    told = re.findall(r"^== ([\w-]+): (\d+) s at most$", check("--out", out).stdout, re.MULTILINE)
    assert [name for name, _ in told] == STEPS
    assert all(ends[name] - 30 <= int(seconds) <= ends[name] for name, seconds in told)
    for name, call in zip(("small", "large"), (call for call in calls() if call[:2] == ["-m", "bench"]), strict=True):
        assert ends[name] - 40 <= int(call[call.index("--budget") + 1]) <= ends[name] - 10


def test_the_doctor_alone(out):
    result = check("--only", "doctor", "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    files = unpacked(out)
    assert files.keys() == {"doctor.txt", "plan.txt", "steps.tsv", "summary.md"}
    assert re.search(r"cpu +works", files["doctor.txt"]), "nnbp has found its backends"
    assert codes(files) == {"doctor": 0}
    others = ", ".join(name for name in STEPS if name != "doctor")
    assert f"**INCOMPLETE.** passed: doctor; did not run: {others}." in files["summary.md"]
    assert files["summary.md"] in result.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert not list(Path(os.environ["TMPDIR"]).iterdir())


def test_a_step_that_fails_stops_no_other(fake, out):
    calls = fake('"-m pytest"*) exit 3 ;;')
    result = check("--out", out)
    assert result.returncode == 1, result.stdout + result.stderr
    found = codes(unpacked(out))
    assert list(found) == STEPS
    failed = {"backend", "tests", "peers"} | ({"environment"} if shutil.which("nvidia-smi") is None else set())
    assert {name for name, code in found.items() if code != 0} == failed
    assert "**FAILED.** passed: doctor, parity-float64," in result.stdout
    called = [call for call in calls() if "parity" in call]
    parity = [call[call.index("--dtype") + 1 :] for call in called if "--dtype" in call]
    (recorded,) = (call for call in called if "--record" in call)
    assert recorded[recorded.index("--device") + 1] == "cuda"
    low = [["float32", "--precision", name] for name in ("tf32", "bf16")]
    assert parity == [["float64"], ["float32"], *low]


def test_the_gpu_tests_of_the_backend_run_first_and_those_of_peers_last(fake, out):
    calls = fake()
    check("--out", out, "--only", "backend,tests,peers")
    backend, rest, peers = calls()
    first, last = ([word for word in call if word.startswith("tests/")] for call in (backend, peers))
    ignored = [word.removeprefix("--ignore=") for word in rest if word.startswith("--ignore=")]
    assert "tests" in rest
    assert sorted(ignored) == sorted([*first, *last])
    selection = ["-m", "gpu", "-k", peers[peers.index("-k") + 1], *first, *last]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *selection]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    names = [line for line in collected.splitlines() if "::" in line]
    found = {name.partition("::")[0] for name in names}
    assert found >= set(first), "each has tests marked gpu"
    assert found & set(last)
    assert not [name for name in names if "torch_compile" in name]


@pytest.mark.skipif(any(info.works for info in devices()[1:]), reason="a GPU works here")
def test_no_emulation_takes_the_place_of_a_gpu(out):
    check("--out", out, "--only", "tests")
    page = unpacked(out)["summary.md"]
    assert re.search(r"\| tests \| (\d+ (deselected|skipped), )*\d+ errors in .* \| yes \|", page), page
    assert "NNBP_REQUIRE_GPU is set, and cuda does not work" in page


def test_nothing_in_the_archive_names_the_machine_or_its_user(fake, out):
    fake(
        f'"-m nnbp doctor"*) echo "on $(uname -n) in $HOME/secret, {ROOT}/nnbp, $0" | tee /dev/stderr ;;',
        '*" bench "*) mkdir -p "${@: -1}"; echo "{\\"path\\": \\"$HOME/secret\\"}" >"${@: -1}/results.json" ;;',
    )
    check("--out", out)
    files = unpacked(out)
    text = "\n".join([*files, *files.values()])
    private = {Path.home().name, str(ROOT), str(out.parent), os.environ.get("USER", ""), platform.node()}
    for name in private - {"", "root", "localhost"}:
        assert not re.search(rf"(?<!\w){re.escape(name)}\b", text), name
    for suffix in ("txt", "log"):
        assert files[f"doctor.{suffix}"].endswith("in ~/secret, (nnbp)/nnbp, (python)/bin/python\n")
    assert json.loads(files["small/results.json"]) == {"path": "~/secret"}


SLOW = """
import os, pathlib, time

def test_quick():
    pass

def test_slow():
    path = pathlib.Path(r"{started}")
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(30)
"""

PYTEST = '"-m pytest"*) for word; do [[ $word != --junitxml=* ]] || exec {python} -m pytest "$word" -v {file}; done ;;'


@pytest.fixture
def started(fake, tmp_path):
    """Every step of tests is one quick test and a slow one; this is the file that appears with the latter."""
    path, file = tmp_path / "started", tmp_path / "test_slow.py"
    file.write_text(SLOW.format(started=path))
    fake('"-m nnbp doctor"*) echo all is well ;;', PYTEST.format(python=sys.executable, file=file))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_ended_leaves_an_archive_of_the_steps_before(started, out, number):
    command = interruptible(["bash", SCRIPT, "--out", out, "--only", "doctor,backend,small"])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(started.exists)
            process.send_signal(number)
            code = process.wait(20)
        finally:
            process.kill()
    pid, files = int(started.read_text()), unpacked(out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert files["doctor.txt"] == "all is well\n"
    if number == signal.SIGKILL:
        os.kill(pid, signal.SIGKILL)
        assert codes(files) == {"doctor": 0}
        assert "**INCOMPLETE.** passed: doctor; did not run: environment, backend," in files["summary.md"]
    else:
        assert code == 128 + number
        eventually(lambda: ended(pid))
        assert codes(files) == {"doctor": 0, "backend": 130}
        assert "| backend | interrupted |" in files["summary.md"]
        assert re.search(r"\| backend \| 1 passed in .* \| no: cut off \|", files["summary.md"]), (
            "it has the tests that had run"
        )
        assert not list(Path(os.environ["TMPDIR"]).iterdir())


def test_a_step_is_stopped_at_its_limit_and_the_next_one_runs(started, out, tmp_path, monkeypatch):
    shim = tmp_path / "bin" / "timeout"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/bash\nwords=("$@")\nexec {shutil.which("timeout")} "${{words[@]/#[1-9][0-9]*/3}}"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    assert check("--out", out, "--only", "backend,small").returncode == 1
    files = unpacked(out)
    assert codes(files) == {"backend": 124, "small": 0}
    assert "| backend | stopped at its time limit |" in files["summary.md"]
    assert re.search(r"\| backend \| 1 passed in .* \| no: cut off \|", files["summary.md"])


def test_no_process_of_a_step_runs_on(fake, out):
    fake('"-m nnbp doctor"*) sleep 30 & echo $! ;;')
    check("--out", out, "--only", "doctor")
    pid = int(unpacked(out)["doctor.txt"])
    eventually(lambda: ended(pid))


RECORD = """
import site, sys
with open(r"{records}", "a") as file:
    print(sys.prefix, *site.getsitepackages(), file=file)
"""


def test_the_interpreter_runs_as_it_is_with_its_own_packages(out, tmp_path, monkeypatch):
    folder, records = tmp_path / "own", tmp_path / "records"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "sitecustomize.py").write_text(RECORD.format(records=records))
    (site / "own_package-1.0.dist-info").mkdir()
    (site / "own_package-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    monkeypatch.setenv("PYTHON", str(folder / "bin" / "python"))
    check("--out", out, "--only", "environment,doctor")
    files = unpacked(out)
    assert "\nown 1.0\n" in files["environment.txt"]
    assert "\nnnbp 0" in files["environment.txt"]
    assert codes(files)["doctor"] != 0, "this interpreter has no NumPy"
    assert set(records.read_text().splitlines()) == {f"{folder} {site}"}


@needs_pip
def test_carried_wheels_come_first(fake, out, tmp_path, monkeypatch):
    info, folder = "threadpoolctl-999.dist-info", tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "threadpoolctl-999-py3-none-any.whl", "w") as file:
        file.writestr("threadpoolctl.py", "")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: threadpoolctl\nVersion: 999\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("NNBP_WHEELS", "wheels")
    fake(f'"-m nnbp doctor"*) exec {sys.executable} -c "import threadpoolctl as m; print(m.__file__)" ;;')
    result = check("--out", "found.tar.gz", "--only", "environment,doctor", cwd=tmp_path)
    files = unpacked(tmp_path / "found.tar.gz")
    assert files["doctor.txt"] == "(work)/wheels/threadpoolctl.py\n", result.stderr
    assert "\nthreadpoolctl 999\n" in files["environment.txt"]


@needs_pip
def test_a_wheel_that_cannot_be_installed_is_refused(out, tmp_path, monkeypatch):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("this is no wheel")
    monkeypatch.setenv("NNBP_WHEELS", str(tmp_path))
    result = check("--out", out)
    assert result.returncode == 2
    assert "cannot be installed" in result.stderr
    assert not out.exists()
    assert not list(Path(os.environ["TMPDIR"]).iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fast"], "unknown argument '--fast'"),
        (["--only", "doctor,speed"], f"no step 'speed'; the steps are: {' '.join(STEPS)}"),
        (["--only"], "--only needs steps"),
        (["--out"], "--out needs a file"),
        (["--out", "folder"], "ends in .tar.gz"),
        (["--out", "old.tar.gz"], "never overwritten"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, words):
    (tmp_path / "old.tar.gz").write_text("of another run")
    result = check(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert (tmp_path / "old.tar.gz").read_text() == "of another run"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", SCRIPT], check=True)


def summarized(folder):
    """The page of a folder, made in a process that has no nnbp."""
    command = [sys.executable, "-I", "-S", SUMMARY, folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, encoding="utf-8")
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert result.stdout == page
    return page


def report(name, ratio, passed=True):
    case = {"activation": "tanh", "loss": "huber", "optimizer": name}
    rows = [
        {"stage": stage, "name": f"{stage} of {name}", "max_relative_error": error, "bound": 1e-6}
        for stage, error in (("pass", ratio * 1e-6), ("training", None if not passed else ratio * 2e-7))
    ]
    return {"case": case, "passed": passed, "rows": rows}


@pytest.fixture
def evidence(tmp_path):
    """A folder with one file of each kind."""
    folder = tmp_path / "evidence"
    (folder / "small").mkdir(parents=True)
    for name, text in {
        "plan.txt": check("--help").stdout,
        "steps.tsv": "environment\t0\t3\ndoctor\t0\t2\nbackend\t1\t100\nparity-bf16\t1\t40\nsmall\t124\t210\n",
        "environment.txt": "GPU, driver: NVIDIA H200, 580.1\nPython: 3.12\n\n== packages\nModel: x\n",
        "backend.txt": "many\nFAILED t/a.py::one - assert 1 | 2\n===== 1 failed, 98 passed in 3.10s =====\n",
        "backend.log": "a warning\n",
        "small/table.md": "# Speed\n\n![Ratios](speed.svg)\n\n## Steps\n\n[x](https://x.y)\n",
        "small/speed.svg": "<svg/>",
        "persistent.md": "| step | ratio |\n",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in PARITY:
        reports = [report("sgd", 0.25), report("adam", 0.75, passed=name != "parity-bf16")]
        (folder / f"{name}.json").write_text(json.dumps({"passed": True, "reports": reports}))
    return folder


def test_summary(evidence):
    page = summarized(evidence)
    assert "**FAILED.** passed: environment, doctor; failed: backend, parity-bf16, small; did not run: parity-" in page
    assert "| small | stopped at its time limit | 210 |\n| parity-float64 | did not run |  |\n" in page
    assert "- GPU, driver: NVIDIA H200, 580.1\n- Python: 3.12\n" in page
    assert "- Model" not in page
    assert (
        "| backend | 1 failed, 98 passed in 3.10s | yes |\n| tests | no result; see tests.txt | no: cut off |" in page
    )
    assert "- FAILED t/a.py::one - assert 1 \\| 2\n" in page
    adam, cells = "of adam of tanh, huber, adam", "7.5e-07 | 1.0e-06 | pass of adam of tanh, huber, adam"
    assert f"| parity-float64 | 2 | 0 | {cells} | 1.5e-07 | 1.0e-06 | training {adam} |" in page
    assert f"| parity-bf16 | 2 | 1 | {cells} | nan | 1.0e-06 | training {adam} |" in page
    assert "\n### Speed\n\n![Ratios](small/speed.svg)\n\n#### Steps\n\n[x](https://x.y)\n" in page
    assert "Pictures: [speed.svg](small/speed.svg)." in page
    assert "\n## Persistent kernel and graph\n\n| step | ratio |\n" in page
    assert "backend:\n\n```text\nmany\nFAILED" in page
    assert "a warning\n```\n" in page


def test_summary_of_nothing(tmp_path):
    page = summarized(tmp_path)
    assert "**INCOMPLETE.** No step has ended." in page
    assert page.count("| no result |") == 4
    for words in ("environment.txt is missing", "see backend.txt", "see peers.txt", "large/table.md is missing"):
        assert words in page


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.9])
def test_summary_of_files_that_are_cut_off(evidence, part):
    for path in [path for path in evidence.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
    page = summarized(evidence)
    assert page.count("| no result |") == 4
    assert "see backend.txt" in page


@pytest.mark.parametrize("content", ["[]", "{}", '{"reports": []}', '{"reports": [{"passed": true}]}', "null", "\0"])
def test_summary_of_files_of_another_kind(evidence, content):
    for name in ("parity-tf32.json", "backend.txt", "steps.tsv", "environment.txt", "plan.txt"):
        (evidence / name).write_text(content)
    page = summarized(evidence)
    assert "| parity-tf32 | no result |" in page
    assert "| parity-float32 | 2 | 0 |" in page


@pytest.mark.parametrize("code", [124, 130, 137])
def test_tests_that_were_stopped_are_not_complete(evidence, code):
    (evidence / "steps.tsv").write_text(f"backend\t{code}\t200\n")
    assert "| backend | 1 failed, 98 passed in 3.10s | no: cut off |" in summarized(evidence)


def test_all_steps_passed(evidence):
    (evidence / "steps.tsv").write_text("".join(f"{name}\t0\t1\n" for name in STEPS))
    assert f"**PASSED.** passed: {', '.join(STEPS)}." in summarized(evidence)


def test_summary_needs_a_folder(tmp_path):
    command = [sys.executable, SUMMARY, tmp_path / "none"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "usage: python gpu_summary.py DIR" in result.stderr
