# SPDX-License-Identifier: Apache-2.0
"""Options with hyphens and underscores, in every command."""

import pytest

from hf_ckt.cli import main as cli
from hf_ckt.cli.arguments.parser import CommandParser, require_no_unknown, spelled


@pytest.fixture
def parser():
    parser = CommandParser(prog="hf-ckt probe")
    parser.add_argument("--new-tokens", type=int, default=1)
    parser.add_argument("--load_in_4bit", action="store_true")
    parser.add_argument("--text", nargs="+")
    return parser


@pytest.mark.parametrize("word", ["--new-tokens=3", "--new_tokens=3"])
def test_either_spelling_is_taken(parser, word):
    """A user of two commands should not have to remember which of them has which."""
    assert parser.parse_args([word, "--load-in-4bit"]).load_in_4bit
    assert parser.parse_args([word, "--load_in_4bit"]).new_tokens == 3


def test_words_of_the_shell_are_read_like_given_ones(parser, monkeypatch):
    """A script gives its parser nothing, and the words come from the shell."""
    monkeypatch.setattr("sys.argv", ["script.py", "--new_tokens", "3"])
    assert parser.parse_args().new_tokens == 3


def test_values_keep_their_underscores(parser):
    """A file called my_rows would not be found."""
    words = ["--text", "a_b", "my_rows-1", "--new_tokens=1"]
    assert parser.parse_args(words).text == ["a_b", "my_rows-1"]
    assert spelled(["--new_tokens", "1", "--", "--new_tokens"], ["--new-tokens"]) == [
        "--new-tokens",
        "1",
        "--",
        "--new_tokens",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--new-token", "3"], "unknown option '--new-token'. Did you mean '--new-tokens'? `hf-ckt probe --help`"),
        (["--new_token", "3"], "unknown option '--new_token'. Did you mean '--new_tokens'?"),
        (["--other"], "unknown option '--other'. `hf-ckt probe --help`"),
        (["other"], "unexpected argument 'other'."),
        (["--new-tokens", "x"], "argument --new-tokens: invalid int value: 'x'. `hf-ckt probe --help`"),
    ],
)
def test_wrong_words_are_one_line(parser, words, message, capsys):
    """The usage of a command, a screen long, stands before its error."""
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words)
    error = capsys.readouterr().err
    assert error.startswith(f"hf-ckt probe: error: {message}") and error.count("\n") == 1


def test_far_names_are_not_suggested():
    """Of hundreds of options one is always a little like a wrong one, and `--no-x` switches something off."""
    known = ["--no-dataloader-in-order", "--num-train-epochs", "--no_cpu"]
    with pytest.raises(ValueError, match=r"^unknown option '--nproc_per_node'\.$"):
        require_no_unknown(["--nproc_per_node", "2"], known)
    with pytest.raises(ValueError, match=r"Did you mean '--no-dataloader-in-order'\?"):
        require_no_unknown(["--no-dataloader-in-ordr"], known)


class Asked(BaseException):
    """The parser of a command was asked."""


@pytest.mark.parametrize("command", [name for name in cli.command_files() if name != "train"])
def test_every_command_takes_either_spelling(command, monkeypatch):
    """A command with a parser of its own kind would take one spelling alone; `train` has its own tests."""

    def asked(parser, args=None, namespace=None):
        raise Asked

    monkeypatch.setattr(CommandParser, "parse_args", asked)
    monkeypatch.setattr(CommandParser, "parse_known_args", asked)  # of those that take the options of `train` too
    with pytest.raises(Asked):
        cli.main([command, "--no-such-option"])
