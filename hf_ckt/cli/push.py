# SPDX-License-Identifier: Apache-2.0
"""Publish a trained model or adapter on the Hub, with its card and evaluation."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments.parser import CommandParser
from .arguments.published import add_card_options, find_published_evaluation

if TYPE_CHECKING:
    from ..hub.publishing import PublishedFile
    from ..hub.saved_run import SavedRun


def run(argv: list[str]) -> int:
    """Pushes the folder, or with `--dry-run` lists what would be pushed."""
    options = _parse(argv)

    from ..hub.publishing import publish, published_files, require_repo_id
    from ..hub.saved_run import read_saved_run

    require_repo_id(options.repo_id)
    if options.create_pr and options.revision is not None:
        raise ValueError(
            "--create-pr: opens a branch of its own on the Hub, so --revision would be ignored. Leave one of them out."
        )
    saved = read_saved_run(options.folder)
    evaluation = find_published_evaluation(options, is_adapter=saved.is_adapter)
    if evaluation is None and not options.no_evaluation:
        raise ValueError(
            f"{saved.folder}: there is no evaluation, so a reader could not tell whether the model refuses what it should and "
            "answers the rest. Give what `hf-ckt evaluate --output` wrote as --evaluation, or publish with --no-evaluation."
        )
    files = published_files(saved, options.repo_id, base_model=options.base_model, evaluation=evaluation)
    if options.dry_run:
        print(f"{options.repo_id} would get:")
        _print_files(files)
        _print_left_out(saved, files)
        return 0
    done = publish(
        files,
        options.repo_id,
        private=options.private,
        revision=options.revision,
        message=options.message,
        create_pr=options.create_pr,
    )
    _print_left_out(saved, files)
    print(f"pushed to {done.url}: {done.commit}" if done.changed else f"{done.url} holds all of it already")
    if done.pickles:
        print(f"the repository still holds pickles of before, which this push left alone: {', '.join(done.pickles)}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="hf-ckt push",
        description=f"{__doc__} What goes up: weights in safetensors, configuration, tokenizer, records of the training, the "
        "evaluation, and the card that `hf-ckt card` writes, which names the repository as the place to load from. The folder is "
        "left as it is. The token is that of `hf auth login` or HF_TOKEN. Broken off, the same command goes on where it was.",
    )
    add_card_options(parser, without="publish without one; the card says so. Default: refuse")
    add = parser.add_argument
    add("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub; made where it is missing")
    add("--private", action="store_true", help="make a new repository private; one that is public is refused")
    add("--revision", metavar="BRANCH", help="push to this branch, made where it is missing; default: main")
    add("--message", metavar="TEXT", help="of the commit; default: names the version of hf_ckt")
    add("--create-pr", action="store_true", help="open a pull request, where you may not write")
    add("--dry-run", action="store_true", help="list what would be pushed, with sizes, and ask nothing of the Hub")
    return parser.parse_args(argv)


def _print_files(files: "list[PublishedFile]") -> None:
    sizes = [f"{file.size:,}" for file in files]
    total = f"{sum(file.size for file in files):,}"
    for file, size in zip(files, sizes, strict=True):
        print(f"  {size:>{len(total)}}  {file.path}")
    print(f"  {total}  bytes in {len(files)} files")


def _print_left_out(saved: "SavedRun", files: "list[PublishedFile]") -> None:
    """Says what of the folder stays where it is; what of it goes up under another name does not."""
    sent = {file.content for file in files if isinstance(file.content, Path)}
    for name, reason in saved.left_out.items():
        path = saved.folder / name
        if path not in sent and not any(path in one.parents for one in sent):
            print(f"left out: {name} ({reason})")
