# SPDX-License-Identifier: Apache-2.0
"""Rows that belong together, such as a harmful prompt and its benign twins, kept in one batch of the training set."""

import copy
import logging
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler
from trl import SFTTrainer

from ..data.grouped_batches import GroupedSampler, require_rows
from ..data.grouped_packing import pack_groups
from ..data.row_groups import ID_COLUMN, find_groups, missing_leaders, require_groups
from .noise_config import setting

logger = logging.getLogger(__name__)


@dataclass
class GroupConfig:
    """Which rows are kept in one batch."""

    group_column: str | None = setting(
        "Column of the training set by which rows are kept in one batch of a device: those with the same value, and the row "
        "without a value whose `id` is that value, such as a harmful prompt and its twins ('twin' in the boundary set). With "
        "packing they are kept in one packed row. None: rows are drawn one by one."
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the configuration this is part of
        if self.group_column is not None:
            self._check_groups()

    def _check_groups(self) -> None:
        own: Any = self
        if not own.packing:
            if own.train_sampling_strategy != "random":
                raise ValueError(
                    f"group_column: train_sampling_strategy={own.train_sampling_strategy!r} orders rows by something else, and "
                    "one of the two would be ignored. Use train_sampling_strategy='random' or group_column=None."
                )
            require_rows(own.per_device_train_batch_size)
        elif own.packing_strategy == "wrapped":
            raise ValueError(
                "group_column: packing_strategy='wrapped' cuts documents wherever a row is full, so groups would be torn apart. "
                "Use packing_strategy='bfd'."
            )
        elif (own.dataset_kwargs or {}).get("skip_prepare_dataset"):
            raise ValueError(
                "group_column: dataset_kwargs={'skip_prepare_dataset': True} leaves the dataset as it is, so groups would not be "
                "packed together. Let the trainer prepare the dataset, which may be tokenized, or set group_column=None."
            )


class GroupedTrainer(SFTTrainer):
    """SFTTrainer whose batches, or packed rows, hold whole groups of rows where its configuration names their column."""

    args: Any
    _knows_train_dataset = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._said_of_groups: set[str] = set()
        super().__init__(*args, **kwargs)
        if self._group_column is not None and not self.args.packing:
            self._find_groups(self.train_dataset)

    @property
    def _group_column(self) -> str | None:
        return getattr(self.args, "group_column", None)

    def _named_apart(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        Arguments of a dataset's preparation, with another name for one of the evaluation that is called "train": TRL prepares
        the training set first, and names those of the evaluation as the user does.
        """
        if self._knows_train_dataset and kwargs["dataset_name"] == "train":
            kwargs = {**kwargs, "dataset_name": "eval 'train'"}
        self._knows_train_dataset = True
        return kwargs

    def _prepare_dataset(  # type: ignore[override]
        self, dataset: Any, processing_class: Any, args: Any, packing: bool, formatting_func: Any, dataset_name: str
    ) -> Any:
        rest = {"formatting_func": formatting_func, "dataset_name": dataset_name}
        column = getattr(args, "group_column", None)
        if column is None or dataset_name != "train":
            return super()._prepare_dataset(dataset, processing_class, args, packing, **rest)
        require_groups(dataset, column, dataset_name)
        # Without a length, TRL has the sentence that says so.
        if not packing or args.max_length is None:
            return super()._prepare_dataset(dataset, processing_class, args, packing, **rest)
        # First without truncation, packing and shuffling, after which it is no longer known which document is whose.
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        tokenized = super()._prepare_dataset(dataset, processing_class, whole, False, **rest)
        groups = self._find_groups(tokenized, column)
        seed = args.seed if args.shuffle_dataset else None
        packed, cut = pack_groups(
            tokenized,
            groups,
            args.max_length,
            args.packing_strategy,
            shuffle_seed=seed,
            processes=args.dataset_num_proc,
        )
        if cut:
            several = sum(len(group) > 1 for group in groups)
            self._say_of_groups(
                f"{cut} of {several} groups have more tokens than max_length={args.max_length}, so they are in several "
                "packed rows. Raise max_length to keep them together."
            )
        return packed

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self._group_column is None or self.args.packing:
            return super()._get_train_sampler(train_dataset)
        # Not what is given, whose columns that no model reads have been taken off.
        groups = self._find_groups(self.train_dataset)
        rows = self._train_batch_size // max(1, self.args.n_gpu)
        if self.accelerator.split_batches:
            rows //= self.accelerator.num_processes // self.get_tp_size()
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        sampler = GroupedSampler(groups, rows, seed, lambda: int(self.state.epoch or 0))
        several = sum(len(group) > 1 for group in groups)
        larger = sum(len(group) > rows for group in groups)
        if larger:
            self._say_of_groups(
                f"{larger} of {several} groups have more than the {rows} rows of a batch, so they are in several batches. "
                "Raise per_device_train_batch_size to keep them together."
            )
        cut = sampler.deal().cut
        if cut:
            self._say_of_groups(
                f"{cut} of {several} groups are in several batches, since whole groups and the rows that stand alone do not "
                f"fill batches of {rows}. Choose a per_device_train_batch_size that is a multiple of the groups' size."
            )
        return sampler

    def _find_groups(self, dataset: Any, column: str | None = None) -> list[list[int]]:
        column = column or self._group_column
        assert column is not None
        groups = find_groups(dataset, column)
        if all(len(group) == 1 for group in groups):
            self._say_of_groups(
                f"no two rows of the train dataset belong together by its column {column!r}, so they are drawn one by one. "
                "Fill the column, or name another; a row without a value belongs to those that have its `id` there."
            )
        elif alone := missing_leaders(dataset, column):
            self._say_of_groups(
                f"in the train dataset {len(alone)} values of its column {column!r} (first: {alone[0]!r}) are the id of no row "
                f"without a value, as others are, so no harmful row or the like comes into a batch with theirs. Compare them with the "
                f"column '{ID_COLUMN}'."
            )
        return groups

    def _say_of_groups(self, text: str) -> None:
        """Warns once in a trainer's life, however often its data is prepared or loaded."""
        if text not in self._said_of_groups:
            self._said_of_groups.add(text)
            logger.warning("group_column: %s", text)
