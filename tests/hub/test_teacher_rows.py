# SPDX-License-Identifier: Apache-2.0
"""The teachers on a card: each with its kind and its licence, and nothing of the machine."""

from pathlib import Path

import huggingface_hub
import pytest
from datasets import Dataset

from hf_ckt.hub.teacher_rows import find_licence, teacher_rows
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import build, lora


def card_of(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\ntags: [a]\n---\n# A model\n", None),
        ("# A model\n\nlicense: mit\n", None),
        ("---\nlicense: [mit\n---\n", None),
        ("---\n- mit\n---\n", None),
    ],
)
def test_licence_is_what_the_teachers_own_card_states(text, licence, tmp_path):
    """A guessed licence is worse than none."""
    assert find_licence(card_of(tmp_path / "model", text)) == licence


def test_licence_of_a_hub_model_is_read_from_the_cache_at_its_revision(tmp_path):
    """A model may change its licence; what holds is that of the commit that taught."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE, "models--org--licensed")
    for number, licence in ((1, "mit"), (2, "llama3")):
        card_of(folder / "snapshots" / f"{number:040x}", f"---\nlicense: {licence}\n---\n")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(f"{2:040x}")
    assert find_licence("org/licensed") == "llama3"
    assert find_licence("org/licensed", f"{1:040x}") == "mit"
    for unknown in ("org/elsewhere", "no such name at all", ""):
        assert find_licence(unknown) is None


def test_licence_of_a_converted_copy_is_that_of_its_file(tmp_path):
    """The demo's base has no card of its own; its file says what it may be used for."""
    (tmp_path / "hf_ckt_origin.json").write_text('{"weights": "of a file", "licence": "apache-2.0"}')
    assert find_licence(str(tmp_path)) == "apache-2.0"
    (tmp_path / "hf_ckt_origin.json").write_text('{"weights": "of a file"}')  # as earlier versions wrote it
    assert find_licence(str(tmp_path)) is None


def test_a_teacher_within_another_keeps_its_kind():
    """Behind a context of its own, a teacher would be on the card as nobody."""
    inner = {"kind": "model", "name": "org/one", "weights": "aa11", "quantization": None}
    outer = {"kind": "privileged_context", "name": "x", "teacher": inner}
    assert teacher_rows({"kind": "routed", "teachers": {"a": outer, "b": {"kind": "self", "name": "own base"}}}) == [
        {"route": "a", "kind": "privileged_context of model", "name": "org/one"},
        {"route": "b", "kind": "self", "name": "own base"},
    ]


def test_every_teacher_of_a_run_is_on_its_card(tmp_path):
    """A model that was taught by another under a licence of its own does not say so."""
    student = tiny_models.save_tiny_llama(tmp_path / "student", hidden_size=64)
    card_of(student, "---\nlicense: apache-2.0\n---\n")
    other = tiny_models.save_tiny_llama(tmp_path / "guard-model", hidden_size=64, seed=5)
    card_of(other, "---\nlicense: cc-by-nc-4.0\n---\n")
    silent = tiny_models.save_tiny_llama(tmp_path / "silent", hidden_size=64, seed=6)
    teachers = {"base": None, "guard": {"model": str(other), "load_in_4bit": True}, "third": str(silent)}
    data = Dataset.from_list(
        [{**row, "teacher": name} for row, name in zip(rows(6), [*teachers, *teachers], strict=True)]
    )
    given = {"teachers": teachers, "peft_config": lora()}
    trainer = build(tmp_path / "out", student, data, given=given, **{**OFF, "distillation_weight": 1.0})
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "| Teacher of rows that name base | the student's own base, adapters off (kind self, licence apache-2.0) |"
        in card
    )
    assert "| Teacher of rows that name guard | guard-model (kind model, held in nf4, licence cc-by-nc-4.0) |" in card
    assert "| Teacher of rows that name third | silent (kind model, licence not known) |" in card
    assert str(tmp_path) not in card
    assert all(name in trainer.teacher_name for name in (*teachers, "guard-model", "silent"))
