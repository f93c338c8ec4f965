# SPDX-License-Identifier: Apache-2.0
"""What is reported of a context is what the teacher says of each text, read alone."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_ckt.training.context_effect import context_effects
from tests.trainers import build, load, lora
from tests.training.test_teacher_context import CHAT, DISTIL, RULE, TEXT, make, text_pairs


def by_hand(model, pairs):
    """The numbers of the report, in loops over texts and tokens in float64."""
    rows = []
    for own, read, answer in pairs:
        with torch.no_grad():
            plain, told = (
                model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double().softmax(-1)
                for prompt in (own, read)
            )
        for place, token in enumerate(answer):
            p, q = told[place].tolist(), plain[place].tolist()
            one, two = sorted(p)[-2:], sorted(q)[-2:]
            rows.append(
                {
                    "first": place == 0,
                    "acceptance": sum(min(a, b) for a, b in zip(p, q, strict=True)),
                    "changed": p.index(max(p)) != q.index(max(q)),
                    "margin": torch.tensor(one[1] / one[0]).log().item(),
                    "margin_without": torch.tensor(two[1] / two[0]).log().item(),
                    "answer": torch.tensor(p[token]).log().item(),
                    "answer_without": torch.tensor(q[token]).log().item(),
                }
            )

    def mean(name, chosen):
        return sum(row[name] for row in chosen) / len(chosen)

    first = [row for row in rows if row["first"]]
    found = {name: mean(name, rows) for name in rows[0] if name != "first"}
    return found | {f"first_{name}": mean(name, first) for name in found if not name.startswith("answer")}


@pytest.mark.parametrize("layout", [{}, {"padding_free": True, "max_length": None}])
def test_report_is_that_of_each_text_read_alone(layout, tiny_model_dir, tmp_path):
    """A check that reads other positions says that a prompt works which does nothing, or the reverse."""
    trainer = make(tmp_path, tiny_model_dir, TEXT, per_device_train_batch_size=3, **layout)
    (effect,) = context_effects(trainer, 100).values()
    pairs = text_pairs(AutoTokenizer.from_pretrained(tiny_model_dir))
    assert (effect.rows, effect.tokens) == (8, sum(len(answer) for _, _, answer in pairs))
    for name, value in by_hand(load(tiny_model_dir).eval(), pairs).items():
        assert getattr(effect, name) == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert not effect.nothing and "The context changes the teacher's decision" in effect.as_text("x")


def test_report_takes_rows_from_the_whole_of_the_data(tiny_model_dir, tmp_path):
    """The first rows of sorted data are of one kind."""
    trainer = make(tmp_path, tiny_model_dir, TEXT)
    pairs = text_pairs(AutoTokenizer.from_pretrained(tiny_model_dir))[::2]
    (effect,) = context_effects(trainer, 4).values()
    assert effect.rows == 4
    assert effect.acceptance == pytest.approx(by_hand(load(tiny_model_dir).eval(), pairs)["acceptance"], rel=1e-4)


def test_context_that_changes_nothing_is_said(tiny_model_dir, tmp_path):
    """A teacher that ignores its context is trained on for days and teaches nothing."""
    data = [{**row, "teacher_prompt": row["prompt"]} for row in TEXT]
    trainer = make(tmp_path, tiny_model_dir, data)
    (effect,) = context_effects(trainer, 8).values()
    assert effect.nothing and effect.changed == 0 and effect.acceptance == pytest.approx(1)
    assert "The context changes nothing" in effect.as_text("x")


def test_each_member_is_reported_on_its_own_rows(tiny_model_dir, tmp_path):
    """A mean over all rows would hide that one of two contexts does nothing."""
    data = [{**row, "teacher": ("rule", "same", "base")[n % 3]} for n, row in enumerate(TEXT)]
    for row in data[1::3]:
        row["teacher_prompt"] = row["prompt"]
    teachers = {"rule": {"privileged_context": None}, "same": {"privileged_context": None}, "base": None}
    given = {"peft_config": lora(), "teachers": teachers}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(data), given=given, **DISTIL)
    effects = context_effects(trainer, 8)
    assert list(effects) == ["rule", "same"] and effects["same"].nothing and not effects["rule"].nothing
    assert effects["rule"].rows == 3
    pairs = text_pairs(AutoTokenizer.from_pretrained(tiny_model_dir))[::3]
    expected = by_hand(load(tiny_model_dir).eval(), pairs)
    assert effects["rule"].acceptance == pytest.approx(expected["acceptance"], rel=1e-4)


def test_run_without_a_context_has_nothing_to_report(tiny_model_dir, tmp_path):
    """Two readings of one prompt agree, and would be taken for a teacher that ignores its context."""
    trainer = make(tmp_path, tiny_model_dir, CHAT)
    with pytest.raises(ValueError, match="has a context of its own"):
        context_effects(trainer, 8)
    assert context_effects(make(tmp_path, tiny_model_dir, CHAT, teacher_system_prompt=RULE), 8)
