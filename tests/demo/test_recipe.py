# SPDX-License-Identifier: Apache-2.0
"""The rows that the demo and the ablation train on, and what a kept file of theirs is named by."""

import importlib
import json
import math
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
from transformers import LlamaConfig

from hf_ckt.data import load_boundary_set
from hf_ckt.demo import recipe, running, training
from hf_ckt.demo import rows as rows_of
from tests.examples.running import EXAMPLES, examples_importable


def test_chain_of_changes_ends_in_what_the_demo_runs():
    """Its last row would be the measurement of another recipe than the one that it recommends."""
    with examples_importable():
        rows = importlib.import_module("boundary_changes").changes()
    assert rows["whole_nested_12_clean"].recipe == recipe.Recipe()
    first = rows["first"].recipe
    assert (first.data, first.refusal_words, first.answer_words) == ("starter", None, None)
    assert len({str(row.recipe) for row in rows.values()}) == len(rows)  # none changes nothing


def test_table_of_the_readme_is_of_the_recipe_that_the_demo_trains():
    """Changed after it was measured, `make demo` would print another table than the README promises."""
    measured = json.loads((EXAMPLES / "results" / "quickstart.json").read_text(encoding="utf-8"))["settings"]["recipe"]
    # Fields that came later are not in the file; these are what it was measured with.
    assert {"four_bit": True, "rank": 16} | measured == json.loads(json.dumps(asdict(recipe.Recipe())))


def test_student_hears_the_teacher_of_refusals_on_harmful_rows_alone():
    """A twin that is taught to be refused is the failure that the set was written against."""
    one = replace(recipe.Recipe(), copies=("typos",), refusal_words=3, answer_words=5, by_length=False)
    rows = rows_of.student_rows(one, seed=0).to_list()
    sides = {row["id"]: row["kind"] == "harmful" for row in load_boundary_set("train").to_list()}
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        base = re.match(r"boundary-train-\w+-\d+", row["id"])[0]
        harmful = sides[base]
        assert row["teacher"] == ("refuse" if harmful else "answer")
        assert len(row["completion"][0]["content"].split()) <= (3 if harmful else 5)
    copies = Counter(re.match(r"boundary-train-\w+-\d+", row["id"])[0] for row in rows)
    assert set(copies.values()) == {2, 4}
    assert all((count == 4) == sides[name] for name, count in copies.items())
    # Each noisy copy with noise of its own.
    noisy = [row["prompt"][-1]["content"] for row in rows if row["id"].startswith("boundary-train-harmful-001-")]
    assert len(set(noisy)) == len(noisy) == 3


def test_second_misspelt_copy_is_of_benign_rows_alone():
    """Of misspelt prompts as large a share would be refused as before, or the same errors be read twice."""
    one = replace(recipe.Recipe(), copies=("typos", "benign_typos"), by_length=False)
    rows = rows_of.student_rows(one, seed=0).to_list()
    assert len({row["id"] for row in rows}) == len(rows)
    copies = Counter((row["kind"] == "harmful", re.sub(r"^boundary-train-\w+-\d+-?", "", row["id"])) for row in rows)
    harmful = sum(row["kind"] == "harmful" for row in load_boundary_set("train"))
    benign = len(load_boundary_set("train")) - harmful
    assert copies == Counter(
        {(True, end): harmful for end in ("", "typos", "1", "typos1")}
        | {(False, end): benign for end in ("", "typos", "benign_typos")}
    )
    texts = {row["id"]: row["prompt"][-1]["content"] for row in rows}
    pairs = [(text, texts[name.replace("benign_", "")]) for name, text in texts.items() if "benign_" in name]
    assert sum(one == other for one, other in pairs) < len(pairs) / 20
    # What was there before is as it was.
    before = rows_of.student_rows(replace(one, copies=("typos",)), seed=0).to_list()
    assert all(texts[row["id"]] == row["prompt"][-1]["content"] for row in before)


def test_wrapped_copies_hold_the_prompt_whole():
    """A frame around another text, or around harmful prompts alone, would itself be what is refused."""
    rows = rows_of.student_rows(replace(recipe.Recipe(), by_length=False), seed=0).to_list()
    texts = {row["id"]: row["prompt"][-1]["content"] for row in rows}
    wrapped = {name: text for name, text in texts.items() if "nested" in name}
    for name, text in wrapped.items():
        plain = texts[re.match(r"boundary-train-\w+-\d+", name)[0]]
        assert plain.strip() in text and text != plain
    harmful = sum("-harmful-" in name for name in wrapped)
    assert harmful / len(wrapped) == pytest.approx(0.2, abs=0.01)  # as of the rows that are written


def test_teachers_read_a_prompt_without_its_noise():
    """Read with errors and frames, or for a row that has none, they would teach what they teach without."""
    one = replace(recipe.Recipe(), by_length=False)
    assert one.teacher == "label_clean"
    rows = rows_of.student_rows(one, seed=0).to_list()
    texts = {row["id"]: row["prompt"] for row in rows}
    for row in rows:
        name, noise = re.match(r"(boundary-train-\w+-\d+)(.*)", row["id"]).groups()
        assert row["teacher_prompt"] == (texts[name] if re.search("typos|nested", noise) else None)
    assert sum(row["teacher_prompt"] is None for row in rows) == sum(
        1 + (row["kind"] == "harmful") for row in load_boundary_set("train")
    )
    assert sum(row["teacher_prompt"] not in (None, row["prompt"]) for row in rows) > len(rows) / 2
    of_noise = rows_of.student_rows(replace(one, teacher="label", student_steps=1, by_length=True), seed=0)
    assert "teacher_prompt" not in of_noise.column_names


def test_unlabelled_rows_carry_neither_label_nor_answer():
    """Their refusals, or their twins' answers, would tell what a run without labels is to find out."""
    one = replace(recipe.Recipe(), rows=300, unlabelled=True, teacher="probe", by_length=False)
    known = {row["id"] for row in rows_of.labelled_rows(one)}
    assert 300 <= len(known) < 310
    rows = [
        row for row in rows_of.student_rows(one, 0) if re.match(r"boundary-train-\w+-\d+", row["id"])[0] not in known
    ]
    assert len(rows) == 4 * (len(load_boundary_set("train")) - len(known))
    assert {row["completion"][0]["content"] for row in rows} == {rows_of.UNLABELLED_ANSWER}
    assert {(row["kind"], row["category"], row["teacher"], row["twin"]) for row in rows} == {("", "", "", None)}
    with pytest.raises(ValueError, match="unlabelled=True: teacher='label'"):
        recipe.Recipe(unlabelled=True, teacher="label")


def test_all_refusals_begin_with_one_word():
    """With two ways to begin, half the probability of refusing is on each, and the greedy answer begins with neither."""
    one = recipe.Recipe()
    heard = [row["response"] for row in rows_of.refusals(one)]
    written = [row["response"] for row in rows_of.refusals(replace(one, one_refusal=False))]
    assert len(heard) == len(written) > 300
    assert all(re.match(r"Sorry\b", answer) for answer in heard)
    assert not any("sorry" in answer[5:].lower() for answer in heard)
    assert {answer.split()[0] for answer in written} > {"I", "Sorry,"}
    read = {row["completion"][0]["content"] for row in rows_of.student_rows(one, seed=0) if row["kind"] == "harmful"}
    assert rows_of.REFUSAL in read and all(answer.startswith("Sorry") for answer in read)
    # Each has its end: a student that never reads one repeats itself.
    assert all(answer.endswith((".", "!", "?")) for answer in {*read, *heard})


@pytest.mark.parametrize(
    ("refusal", "heard"),
    [
        ("I'm sorry, but I can't say. Ask a nurse.", "Sorry, but I can't say."),
        ("I can't hide 2.5 kg of it! Talk to us.", "Sorry, I can't hide 2.5 kg of it!"),
        ("That burns people, so no. I can tell of its history.", "Sorry, I can't help with that."),
    ],
)
def test_refusal_is_its_first_sentence_begun_with_one_word(refusal, heard):
    """A reason that comes first is the beginning of an answer."""
    assert rows_of.sorry(refusal) == heard


def test_labelled_rows_hold_groups_of_twins_whole():
    """Half a group teaches its words instead of the difference."""
    kept = rows_of.labelled_rows(replace(recipe.Recipe(), rows=200))
    names = {row["id"] for row in kept}
    for row in load_boundary_set("train"):
        if row["twin"] is not None:
            assert (row["id"] in names) == (row["twin"] in names)


def test_rows_that_no_step_reaches_are_left_out():
    """Read in another order, a demo would train on other rows than its results file says."""
    one = replace(recipe.Recipe(), student_steps=3)
    whole = rows_of.student_rows(replace(one, student_steps=10**6), seed=0)
    assert rows_of.student_rows(one, seed=0).to_list() == whole.select(range(3 * one.batch_size)).to_list()
    assert len(rows_of.student_rows(replace(one, by_length=False), seed=0)) == len(whole)


def test_batches_hold_rows_of_like_length_in_a_random_order():
    """From long to short, the last batches would be of short questions alone, and the model of them."""
    rows = [{"prompt": "x" * (7 * number % 300), "response": ""} for number in range(640)]
    found = rows_of.in_batches_by_length(rows, 8, seed=1)
    assert sorted(map(str, found)) == sorted(map(str, rows))
    lengths = [[len(row["prompt"]) for row in found[start : start + 8]] for start in range(0, 640, 8)]
    assert max(max(batch) - min(batch) for batch in lengths) < 60
    means = [sum(batch) / 8 for batch in lengths]
    assert 0.3 < sum(one < other for one, other in pairwise(means)) / len(means) < 0.7


@pytest.mark.parametrize(("layers", "share", "left"), [(12, 1 / 3, 4), (30, 1 / 3, 10), (2, 1 / 3, 0), (12, 0.0, 0)])
def test_adapter_leaves_the_lower_layers_alone(tmp_path, layers, share, left):
    """A pattern that takes layer 1 for layer 10 would leave most of the model untrained."""
    from peft import get_peft_model
    from transformers import LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=32, num_hidden_layers=layers, **sizes)
    config.save_pretrained(tmp_path)
    model = get_peft_model(LlamaForCausalLM(config), training.lora(str(tmp_path), share))
    trained = {
        int(re.search(r"layers\.(\d+)\.", name)[1]) for name, one in model.named_parameters() if one.requires_grad
    }
    assert trained == set(range(left, layers))


def test_teacher_between_two_voices_mixes_what_they_lean_to():
    """The probe's odds on the wrong voice would make a teacher that refuses whom it should answer."""

    def voice(name, odds):
        return [{"answer": name, "log_odds": odds, "margin": 1.0}]

    three, four = math.log(3), math.log(4)
    (said,) = running.chosen_by_probe(voice("refuses", four), voice("answers", -four), [three])
    # 3/4 of 4/5 and 1/4 of 1/5
    assert said == {"answer": "refuses", "log_odds": pytest.approx(math.log(0.65 / 0.35)), "margin": None}
    (said,) = running.chosen_by_probe(voice("refuses", four), voice("answers", -four), [-three])
    assert said == {"answer": "answers", "log_odds": pytest.approx(math.log(0.35 / 0.65)), "margin": None}
    (said,) = running.chosen_by_probe(voice("refuses", 40.0), voice("answers", -40.0), [800.0])
    assert said["log_odds"] == pytest.approx(40.0)


def test_kept_files_of_another_recipe_have_another_name():
    """A probe or a student of other settings would be gone on with as if it were this one."""
    one = recipe.Recipe()
    assert recipe.digest(asdict(one)) == recipe.digest(asdict(recipe.Recipe()))
    assert recipe.digest(asdict(one)) != recipe.digest(asdict(replace(one, learning_rate=1e-9)))


def test_kept_files_of_other_rows_have_another_name(monkeypatch):
    """Old answers would be set beside new prompts."""
    before = recipe.digest("x")
    hashes = recipe.hash_of_rows
    monkeypatch.setattr(recipe, "hash_of_rows", lambda load, split: hashes(load, split) + "x" * (split == "heldout"))
    assert recipe.digest("x") != before
