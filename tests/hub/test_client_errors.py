# SPDX-License-Identifier: Apache-2.0
"""Errors of the Hub's client that no Hub on localhost calls forth: of Xet, of this machine, and our own."""

import pytest

from hf_ckt.hub.client_errors import is_of_the_hub, said_of_a_push

TOKEN = "hf_" + "a1B2" * 8


def told(error):
    """What becomes of an error within a push."""
    with pytest.raises(Exception) as found, said_of_a_push("me/run", "https://hub"):
        raise error
    return found.value


def test_broken_upload_of_xet_says_to_go_on():
    """Xet is what uploads to huggingface.co, and all that it raises is a RuntimeError."""
    error = told(RuntimeError(f"Data processing error: https://store/x?X-Signature=abc refused {TOKEN}"))
    assert type(error) is ConnectionError and "Run the same command again" in str(error)
    assert "https://store/x refused [removed])" in str(error) and "X-Signature" not in str(error)


def test_token_that_xet_refuses_names_the_permission():
    """It is an OSError there, and would read as if a line had broken."""
    error = told(PermissionError("no write access"))
    assert type(error) is ValueError and str(error).startswith(
        "me/run: the token may not write there (403, no write access)"
    )


def test_file_that_cannot_be_read_is_no_fault_of_the_connection(tmp_path):
    """The same command would fail in the same place, again and again."""
    error = FileNotFoundError(2, "No such file or directory", str(tmp_path / "gone"))
    assert told(error) is error and not is_of_the_hub(error)


def test_slip_of_ours_is_told_as_one():
    """As a sentence of the Hub's, nobody would look for it here."""
    error = KeyError("url")
    assert told(error) is error


def test_objection_of_the_client_is_one_sentence():
    """The client checks some things itself, and its words do not name what was pushed to."""
    error = told(ValueError("LFS batch API returned errors:\nEncountered error for file with OID abc"))
    assert str(error).startswith("me/run: the push was refused (LFS batch API returned errors: Encountered")
