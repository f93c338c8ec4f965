# SPDX-License-Identifier: Apache-2.0
"""Puts a saved run on the Hub: its weights, tokenizer, records, evaluation and card, and nothing else of its folder."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from .client_errors import said_of_a_push
from .model_card import CardEvaluation
from .public import SECRET, hub_id, public_text
from .saved_card import saved_card
from .saved_run import ADAPTER, CARD, PICKLES, VOCABULARIES, SavedRun, safetensors_head


@dataclass(frozen=True)
class PublishedFile:
    """
    A file as it goes up.

    Args:
        path (`str`):
            Its name in the repository.
        content (`Path` or `bytes`):
            A file of this machine, or what is sent in place of it.
    """

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class PublishedEvaluation:
    """
    What of an evaluation goes up beside the weights that it measured.

    Args:
        card ([`~hub.model_card.CardEvaluation`]):
            What the card says of it.
        files (`Mapping[str, Path]`):
            By name in the repository.
    """

    card: CardEvaluation
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Pushed:
    """
    What a push came to.

    Args:
        url (`str`):
            Of the repository.
        commit (`str`):
            Of the commit, or of the pull request.
        changed (`bool`):
            Whether anything was sent; False: the repository held it all before.
        pickles (`tuple[str, ...]`):
            Pickles that lie in the repository from before.
    """

    url: str
    commit: str
    changed: bool
    pickles: tuple[str, ...] = field(default=())


def published_files(
    run: SavedRun, repo_id: str, *, base_model: str | None = None, evaluation: PublishedEvaluation | None = None
) -> list[PublishedFile]:
    """
    Returns what of a saved run goes up. Its folder is left as it is: there the adapter still finds a base of this machine, and
    the same folder may be pushed to a second repository.

    Args:
        run ([`~hub.saved_run.SavedRun`]):
            The sorted folder.
        repo_id (`str`):
            Where it is pushed, which the pushed card names as the place to load from.
        base_model (`str`, *optional*):
            Hub id of the base, needed where an adapter was trained on a folder of this machine.
        evaluation ([`PublishedEvaluation`], *optional*):
            What was measured of these weights.

    Raises:
        ValueError: If the base is known by a folder only, the card cannot be written, or a file holds an access token or a
            folder of this machine.
    """
    named = [(path.relative_to(run.folder).as_posix(), path) for path in run.files]
    files = {name: PublishedFile(name, path) for name, path in named}
    if run.is_adapter:
        settings, base_model = _adapter_settings(run.folder / ADAPTER, base_model)
        if settings is not None:
            files[ADAPTER] = PublishedFile(ADAPTER, settings)
    evaluated = None if evaluation is None else evaluation.card
    card = saved_card(run, repo_id=repo_id, base_model=base_model, evaluation=evaluated)
    files[CARD] = PublishedFile(CARD, card.encode())
    if evaluation is not None:
        files |= {name: PublishedFile(name, path) for name, path in evaluation.files.items()}
    listed = [files[name] for name in sorted(files)]
    for file in listed:
        _require_public(file, run.folder)
    return listed


def publish(
    files: Sequence[PublishedFile],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> Pushed:
    """
    Puts files into a model repository of the Hub, in one commit. The repository, and the branch, are made where they are missing.

    Broken off, it is begun again by the same call: weights that are up are known by their digest and not sent again. The token is
    that of `hf auth login` or of the environment variable HF_TOKEN.

    Args:
        files (`Sequence[PublishedFile]`):
            See [`published_files`].
        repo_id (`str`):
            `owner/name`.
        private (`bool`, *optional*, defaults to `False`):
            Whether a new repository is seen by its owners alone.
        revision (`str`, *optional*):
            The branch; None: the main one.
        message (`str`, *optional*):
            Of the commit.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request, for which no permission to write is needed.

    Raises:
        ValueError: If there is no token, the Hub refuses it or the name, or a private push meets a public repository.
        ConnectionError: If the connection breaks off, or the Hub asks to wait.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    api = HfApi(library_name="hf_ckt", library_version=__version__)
    _require_token(repo_id, constants.HF_HUB_OFFLINE)
    with said_of_a_push(repo_id, api.endpoint):
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        before = api.model_info(repo_id)
    if private and not before.private:
        raise ValueError(
            f"{repo_id}: is there already and public, which --private does not change, so all that is pushed could be read by "
            "everybody. Make it private in its settings on the Hub, or leave --private out."
        )
    with said_of_a_push(repo_id, api.endpoint):
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
            before = api.model_info(repo_id, revision=revision)
        operations = [CommitOperationAdd(file.path, _given(file.content)) for file in files]
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=message or f"Push with hf_ckt {__version__}",
            revision=revision,
            create_pr=create_pr,
        )
    pickles = tuple(one.rfilename for one in before.siblings or () if one.rfilename.endswith(PICKLES))
    return Pushed(str(url), str(done.pr_url or done.commit_url), done.oid != before.sha, pickles)


def require_repo_id(repo_id: str) -> None:
    """Raises ValueError unless a name is that of a repository with its owner."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"REPO_ID: {error}") from error
    if "/" not in repo_id:
        raise ValueError(
            f"REPO_ID: must be OWNER/NAME, got {repo_id!r}. Whose repository it is would depend on the token. `hf auth whoami` "
            "names your own account."
        )


def _given(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def _require_token(repo_id: str, offline: bool) -> None:
    from huggingface_hub import get_token

    if offline:
        raise ValueError(
            f"{repo_id}: HF_HUB_OFFLINE is set, so the Hub is not asked and nothing can be pushed. Unset it; --dry-run shows "
            "without network what would be pushed."
        )
    if get_token() is None:
        raise ValueError(
            f"{repo_id}: there is no token of the Hub, so nothing can be pushed. Log in with `hf auth login`, or set HF_TOKEN to "
            "a token that may write."
        )


def _adapter_settings(path: Path, base_model: str | None) -> tuple[bytes | None, str | None]:
    """The adapter's configuration with a base that everybody finds, None where it has it, and that base where it is new."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}), so nobody could load the adapter. Save it again.") from error
    recorded = settings.get("base_model_name_or_path") or ""
    known = hub_id(recorded)
    if known is not None and base_model not in (None, known):
        raise ValueError(
            f"--base-model: the adapter was trained on {known!r}, got {base_model!r}. It would load onto weights that it was not "
            "made for. Leave --base-model out."
        )
    if known is None and base_model is None:
        named = (
            f"names its base by a folder of this machine ({public_text(recorded)!r})" if recorded else "names no base"
        )
        raise ValueError(
            f"{path.name}: {named}, so nobody else could load the adapter. Give the Hub id of that base as --base-model; weights "
            "of another one would be no match."
        )
    base = known or base_model
    if base == recorded:
        return None, None
    return (json.dumps({**settings, "base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n").encode(), base


def _require_public(file: PublishedFile, folder: Path) -> None:
    """Raises ValueError where a file holds an access token or names a folder of this machine."""
    text, name = _text_of(file), file.path.rpartition("/")[2]
    secrets = list(SECRET.finditer(text))
    if name in VOCABULARIES:  # whose tokens "://" and "@" may stand in one line, with anything between them
        secrets = [one for one in secrets if not text.endswith("://", 0, one.start())]
    if secrets:
        line = text.count("\n", 0, secrets[0].start()) + 1
        raise ValueError(
            f"{file.path}, line {line}: holds what looks like an access token or a password, and everybody could read it. Remove "
            "it there, and make it invalid if others have seen it."
        )
    if name in VOCABULARIES or name.endswith(".svg"):
        return
    found = next(_places(text, folder, is_json=name.endswith(".json")), None)
    if found is not None:
        raise ValueError(
            f"{file.path}: names a folder or file of this machine ({found!r}), which tells others about it and leads them "
            "nowhere. Write a Hub id or a relative name in its place."
        )


def _text_of(file: PublishedFile) -> str:
    if isinstance(file.content, bytes):
        return file.content.decode()
    if file.content.suffix == ".safetensors":  # of which the head is text
        return json.dumps(safetensors_head(file.content)[0].get("__metadata__", {}))
    return file.content.read_text(encoding="utf-8", errors="replace")


def _places(text: str, folder: Path, *, is_json: bool) -> Iterator[str]:
    """What of a text is a path of this machine."""
    for own in (folder.resolve(), Path.home()):
        match = re.search(rf"(?<![\w.:/-]){re.escape(str(own))}[/\\][^\s\"'`)]*", text)
        if match is not None and own != own.parent:  # below the root lies everything
            yield match[0]
    if is_json:
        try:
            yield from filter(_is_a_place, _strings(json.loads(text)))
        except ValueError:
            return


def _is_a_place(text: str) -> bool:
    return (
        len(text) < 4096
        and "\n" not in text
        and text.count("/") > 1
        and Path(text).is_absolute()
        and Path(text).exists()
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
