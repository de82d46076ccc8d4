"""The comparison with scikit-learn's estimators."""

import sys

import pytest

from bench import estimators


def test_the_table_has_a_row_for_each_data_set_and_solver(monkeypatch, capsys):
    options = ["--seeds", "2", "--data", "wine", "diabetes", "--solvers", "lbfgs"]
    monkeypatch.setattr(sys, "argv", ["bench.estimators", *options])
    estimators.main()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["data", "solver"]
    assert [row.split()[:2] for row in rows] == [["wine", "lbfgs"], ["diabetes", "lbfgs"]]
    theirs, ours, difference = (float(value) for value in rows[0].split()[2:5])
    assert min(theirs, ours) > 0.9
    assert difference == pytest.approx(ours - theirs, abs=2e-4)
