# SPDX-License-Identifier: Apache-2.0
"""What the Hub's client raises, told apart from other errors, and what a refused push means in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .public import SECRET

# Libraries whose errors are those of a connection, or of what the Hub answered.
_HUB_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub")
_AGAIN = (
    "A push is one commit, so the repository holds all of it or nothing. Run the same command again: weights that are up are "
    "not sent again"
)


def is_of_the_hub(error: BaseException | None) -> bool:
    """Tells whether an error is one of the Hub's clients, or a library's word for one of them."""
    if isinstance(error, ValueError):
        return False
    while isinstance(error, Exception) and type(error).__module__.partition(".")[0] not in _HUB_CLIENTS:
        if isinstance(error, ConnectionError):
            return True
        error = error.__cause__ if isinstance(error, OSError) else None
    return error is not None


@contextmanager
def said_of_a_push(repo_id: str, endpoint: str) -> Iterator[None]:
    """
    Errors of the Hub's client are raised as one sentence: what was refused, why, and what to do. Within, it alone is asked.

    Args:
        repo_id (`str`):
            What is pushed to.
        endpoint (`str`):
            Address of the Hub.

    Raises:
        ValueError: Where the same command would be refused again.
        ConnectionError: Where it may pass a little later.
    """
    try:
        yield
    except Exception as error:
        answered = _answered(error)
        if answered is not None:
            raise _refusal(repo_id, endpoint, *answered) from error
        if isinstance(error, ValueError):
            raise ValueError(f"{repo_id}: the push was refused ({_public(str(error))}).") from error
        if isinstance(error, PermissionError) and error.filename is None:  # Xet's own word for a token that it refuses
            raise _refusal(repo_id, endpoint, 403, _public(str(error)), "") from error
        # The client wraps what broke an upload, and Xet raises a bare RuntimeError. An error with a file is of this machine.
        if getattr(error, "filename", None) or not (
            is_of_the_hub(error) or isinstance(error, (OSError, RuntimeError))
        ):
            raise
        broke = error.__cause__ or error if isinstance(error, RuntimeError) else error
        raise ConnectionError(
            f"{repo_id}: the connection to {endpoint} broke off ({type(broke).__name__}: {_public(str(broke))}). {_AGAIN}."
        ) from error


def _answered(error: BaseException | None) -> tuple[int, str, str] | None:
    """The status, the words and the time to wait of the answer that an error stands for."""
    words = str(error) if isinstance(error, ValueError) else ""  # the client's, where it knows more than the Hub says
    while error is not None:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status is not None:
            said = getattr(error, "server_message", None) or words
            return status, _public(said), getattr(response, "headers", {}).get("Retry-After", "")
        error = error.__cause__ or error.__context__
    return None


def _public(text: str) -> str:
    """Words of a library or a server in one line, without tokens and without the signed addresses of uploads."""
    text = SECRET.sub("[removed]", " ".join(text.split()))
    return " ".join(word.partition("?")[0] if "://" in word else word for word in text.split(" "))


def _refusal(repo_id: str, endpoint: str, status: int, said: str, wait: str) -> ValueError | ConnectionError:
    words = f", {said.rstrip('.')}" if said else ""
    answer = f"({status}{words})"
    if status == 401:
        which = (
            "the token in HF_TOKEN, which goes before `hf auth login`," if os.environ.get("HF_TOKEN") else "the token"
        )
        return ValueError(
            f"{repo_id}: {endpoint} does not know {which} {answer}, so nothing was pushed. Log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may write."
        )
    if status == 403:
        return ValueError(
            f"{repo_id}: the token may not write there {answer}, so nothing was pushed. Name a repository of your own or of an "
            "organization that you may write to, and take a token with write permission (`hf auth login`)."
        )
    if status == 404:
        return ValueError(
            f"{repo_id}: {endpoint} has no such model repository or branch that the token may see {answer}, so there is "
            "nothing to push to. Check the name, and whether it is a data set or Space."
        )
    if status in (409, 412):
        return ValueError(
            f"{repo_id}: something stands in the way there {answer}, another commit at the same time, say, or what bears the "
            "name and is no model. Look at the repository, then push again or under another name."
        )
    if status == 429:
        when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
        return ConnectionError(f"{repo_id}: too many requests {answer}. {_AGAIN}, {when}.")
    if status >= 500:
        return ConnectionError(f"{repo_id}: {endpoint} failed {answer}. {_AGAIN}.")
    return ValueError(f"{repo_id}: {endpoint} refused the push {answer}.")
