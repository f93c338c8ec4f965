# SPDX-License-Identifier: Apache-2.0
"""The YAML file of a run: variables, numbers and keys as they are meant."""

import os

import pytest

from hf_ckt.cli.arguments.run_file import read_run_file


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("HF_CKT_TEST", "here")
    monkeypatch.setenv("HF_CKT_EMPTY", "")
    monkeypatch.delenv("HF_CKT_NONE", raising=False)

    def read(content):
        path = tmp_path / "run.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_run_file(path)

    return read


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${HOME}/x", "/home/me/x"),
        ("$HOME/x", "/home/me/x"),
        ("~/x", "/home/me/x"),
        ("a/${HF_CKT_TEST}_${HF_CKT_TEST}", "a/here_here"),
        ("${HF_CKT_NONE:-there}/x", "there/x"),
        ("${HF_CKT_EMPTY:-there}", "there"),
        ("${HF_CKT_EMPTY}x", "x"),
        ("cost: $$5 $$HOME", "cost: $5 $HOME"),
        ("a~b $5 100$", "a~b $5 100$"),
    ],
)
def test_variables_are_put_in(written, meant, read):
    """A folder called ${HOME} is made, and the run's checkpoints are not where they are looked for."""
    found = read(f"output_dir: '{written}'\ndatasets:\n- path: '{written}'\n  columns: ['{written}']\n")
    assert found == {"output_dir": meant, "datasets": [{"path": meant, "columns": [meant]}]}


@pytest.mark.parametrize("written", ["${HF_CKT_NONE}/x", "$HF_CKT_NONE/x", "x/$HF_CKT_NONE", "${oc.env:HOME}"])
def test_variables_that_are_not_set_are_an_error(written, read):
    """An empty text in their place would write to the root of the disk."""
    with pytest.raises(ValueError, match=r"run\.yaml, output_dir: there is no environment variable '.*\$\$"):
        read(f"output_dir: '{written}'")


def test_env_is_set_before_it_is_used(read, monkeypatch):
    """A file that says where things are, and uses it, would be refused."""
    monkeypatch.setenv("HF_CKT_FROM_FILE", "old")
    assert read("output_dir: $HF_CKT_FROM_FILE/x\nenv:\n  HF_CKT_FROM_FILE: $HF_CKT_TEST/y\n") == {
        "output_dir": "here/y/x"
    }
    assert os.environ["HF_CKT_FROM_FILE"] == "here/y"


def test_numbers_without_a_dot_are_numbers_within_lists(read):
    """YAML reads 5e-1 as a text, and a mixture divides by it; single options turn texts into their own type."""
    found = read("a: 5e-1\ndatasets:\n- fraction: 5e-1\n  name: e5\nsettings:\n  x: {gamma: 2E3, text: 1.e}\n")
    assert found == {
        "a": "5e-1",
        "datasets": [{"fraction": 0.5, "name": "e5"}],
        "settings": {"x": {"gamma": 2000.0, "text": "1.e"}},
    }


def test_keys_may_have_hyphens(read):
    """What the shell takes, the file takes, and keys further down are other people's names."""
    assert read("output-dir: x\nlr-scheduler-kwargs:\n  min-lr: 1\n") == {
        "output_dir": "x",
        "lr_scheduler_kwargs": {"min-lr": 1},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\na: 2\n", r"line 1: has a twice"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"line 3: has c twice"),
        ("a-b: 1\na_b: 2\n", "has a_b twice"),
        ("a: [1,\nb: }", "is not YAML"),
        ("- a\n", "must hold entries"),
        ("", "must hold entries"),
        ("env: x\n", "env must hold entries"),
        ("a: ä\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_files_that_mean_nothing_or_two_things_are_named(content, message, read):
    """Of two values for one key, the library takes the last in silence."""
    with pytest.raises(ValueError, match=rf"^--config: run\.yaml.*{message}"):
        read(content)


def test_merge_keys_are_no_keys_twice(read):
    """Shared settings by YAML's own means stay possible."""
    assert read("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n")["y"] == {"a": 2}


def test_missing_file_is_named(tmp_path):
    """The commonest slip of all."""
    with pytest.raises(FileNotFoundError, match=r"--config: there is no such file, .*none\.yaml"):
        read_run_file(tmp_path / "none.yaml")
