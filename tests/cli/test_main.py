"""The command line as a whole: its pages, its exit codes, and how it speaks of errors."""

import os
import subprocess
import sys
from argparse import Namespace

import pytest

from nnbp.cli import common, main, train
from nnbp.cli.common import Exit, Terminated, UsageError, exit_code
from nnbp.errors import (
    DataError,
    DeviceUnavailableError,
    DivergenceError,
    DTypeError,
    MissingDependencyError,
    ModelFileError,
    ShapeError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (DataError("x"), 3),
        (ShapeError("x"), 3),
        (DTypeError("x"), 3),
        (ModelFileError("x"), 4),
        (DivergenceError("x"), 5),
        (DeviceUnavailableError("x"), 6),
        (MissingDependencyError("x"), 6),
        (MemoryError(), 6),
        (PermissionError(13, "Permission denied", "runs"), 6),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(monkeypatch, capsys, error, code):
    def fail(arguments: Namespace) -> int:
        raise error

    monkeypatch.setattr(train, "run", fail)
    assert main.main(["train", "digits"]) == code == exit_code(error)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnbp train: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    def fail(arguments: Namespace) -> int:
        raise DataError("a bad cell")

    monkeypatch.setattr(train, "run", fail)
    assert main.main(["train", "digits", "--debug"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("nnbp train: error: a bad cell\n")


def test_an_error_of_the_system_names_the_file(monkeypatch, capsys):
    def fail(arguments: Namespace) -> int:
        raise PermissionError(13, "Permission denied", "there/model")

    monkeypatch.setattr(train, "run", fail)
    assert main.main(["train", "digits"]) == 6
    assert capsys.readouterr().err == "nnbp train: error: there/model: Permission denied\n"


def test_no_words_show_the_help_page_and_are_wrong_usage(capsys):
    assert main.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"\n    {name}" in err for name in main.COMMANDS)


def test_help_and_version_go_to_standard_output(capsys):
    assert main.main(["--help"]) == 0
    assert "exit codes:" in capsys.readouterr().out
    assert main.main(["train", "--help"]) == 0
    assert "--hidden" in capsys.readouterr().out
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nnbp ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "digits"], "did you mean 'train'?"),
        (["train"], "SOURCE"),
        (["train", "digits", "--hidden", "3,x"], "sizes of hidden layers"),
        (["train", "digits", "--test-fraction", "1"], "below 1"),
        (["train", "digits", "--epochs", "0"], "a whole number, at least 1; received 0"),
        (["train", "digits", "--seed", "-1"], "a whole number, at least 0; received"),
        (["train", "digits", "--learning-rate", "nan"], "above 0"),
        (["train", "digits", "--epoch-number", "1"], "--epoch-number"),
    ],
)
def test_wrong_words_are_usage_errors(capsys, words, said):
    assert main.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_python_m_nnbp_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "nnbp", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nnbp ")


def test_only_the_named_command_is_imported_and_no_library_that_is_optional():
    code = (
        "import sys; from nnbp.cli.main import main; assert main(['doctor', '--help']) == 0; "
        "print([m for m in sys.modules if m in ('nnbp.cli.train', 'sklearn', 'matplotlib', 'pandas', 'cupy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(os.name == "nt", reason="the shell of POSIX")
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f'"{sys.executable}" -m nnbp gradcheck --layers 2,2 | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode in (Exit.DONE, Exit.BROKEN_PIPE)
    assert done.stderr == ""


def test_wrong_arguments_of_the_library_become_usage_errors_and_its_own_errors_pass():
    with pytest.raises(UsageError, match="no such name"), common.arguments_checked():
        raise ValueError("no such name")
    with pytest.raises(DataError), common.arguments_checked():
        raise DataError("a cell")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_a_help_page(capsys, name):
    assert main.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: nnbp {name} ")
    assert "--json" in out
    assert "--debug" in out


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"people\xff.csv")
    (tmp_path / name).write_text("a,y\n" + "1,p\n2,q\n" * 20)
    assert main.main(["train", name, "--target", "y"]) == Exit.USAGE
    assert r"received 'people\udcff.csv'. Rename the file" in capsys.readouterr().err
    assert os.listdir() == [name]
