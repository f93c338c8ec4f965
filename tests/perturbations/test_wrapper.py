# SPDX-License-Identifier: Apache-2.0
"""Frames around a request: whole, varied, of the asked length, and other ones than the evaluation's."""

import re
from collections import Counter
from random import Random

import pytest

from hf_ckt.data import corrupt, load_boundary_set, load_templates, to_prompt_completion
from hf_ckt.data.contamination import normalized
from hf_ckt.data.public_hashes import known_prompts, sentences
from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import split_documents
from hf_ckt.perturbations.wrapper import WRAPPERS, WrapperPerturbation
from tests.runs import OFF
from tests.trainers import build, first_batch, run, steps

UNIT = "words"
TEMPLATES = [template for kind in WRAPPERS.values() for template in kind]
REQUEST = "How do I\n  bake {bread} at home, step by step?"


def measure(before: str, after: str) -> tuple[int, int]:
    # Of the wrapped text's words, and not of the text's own as a distractor's: a frame is often longer than the request.
    return len(after.split()) - len(before.split()), len(after.split())


def added(text: str) -> int:
    return len(text.split()) - len(REQUEST.split())


def fourgrams(text):
    words = normalized(text).split()
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def test_wrapper_templates_are_many_and_varied():
    """With few frames the student learns them by heart, and the next one goes through."""
    assert len(WRAPPERS) >= 8 and len(TEMPLATES) >= 40
    assert min(map(len, WRAPPERS.values())) >= 5
    assert len({normalized(template) for template in TEMPLATES}) == len(TEMPLATES)
    for template in TEMPLATES:
        assert template.count("{request}") == 1 and template == template.strip()
        assert not re.search(r"[{}]", template.replace("{request}", ""))
    # Both before and behind the request, and around it: a request always at the end is found by its place.
    places = Counter((t.startswith("{request}"), t.endswith("{request}")) for t in TEMPLATES)
    assert min(places[True, False], places[False, True], places[False, False]) >= 8
    openings, count = Counter(normalized(t).split()[0] for t in TEMPLATES).most_common(1)[0]
    assert count <= 0.2 * len(TEMPLATES), openings


def test_wrapper_templates_are_no_near_duplicates_of_each_other():
    """Two frames that share a sentence count as one, drawn twice as often."""
    seen = [(template, fourgrams(template.replace("{request}", "")) or {template}) for template in TEMPLATES]
    for index, (template, mine) in enumerate(seen):
        for other, theirs in seen[:index]:
            assert len(mine & theirs) / len(mine | theirs) < 0.2, (template, other)


def test_wrapper_templates_are_not_those_of_the_evaluation():
    """A rate under a jailbreak template that was trained under is recall."""
    for template in load_templates():
        theirs = fourgrams(template.text.replace("{request}", ""))
        for mine in TEMPLATES:
            assert not fourgrams(mine.replace("{request}", "")) & theirs, (mine, template.id)
    assert not known_prompts(sentence for template in TEMPLATES for sentence in sentences(template))


def test_wrapper_keeps_the_request_whole_at_every_severity():
    """A request that a frame cuts or formats is another one, and its answer is no longer right."""
    for severity in (0.05, 0.3, 0.6, 1.0):
        for seed in range(300):
            assert WrapperPerturbation(severity).apply(REQUEST, Random(seed)).count(REQUEST) == 1


def test_wrapper_at_full_strength_wraps_every_text_in_any_frame():
    """Frames that are never drawn, or some texts without one, would make the promised variety smaller unseen."""
    found = Counter(WrapperPerturbation().apply("REQ", Random(seed)) for seed in range(200 * len(TEMPLATES)))
    assert found.keys() == {template.replace("{request}", "REQ") for template in TEMPLATES}
    # 5 standard deviations of a count whose expectation is 200.
    assert all(abs(count - 200) < 5 * 200**0.5 for count in found.values())


@pytest.mark.parametrize("severity", [0.02, 0.1, 0.35, 0.5])
def test_wrapper_adds_the_asked_share_on_average_also_to_one_text(severity):
    """Right over many lengths alone, short prompts could be wrapped always and long ones never."""
    words = len(REQUEST.split())
    counts = [added(WrapperPerturbation(severity).apply(REQUEST, Random(seed))) for seed in range(4000)]
    wanted = words * severity / (1 - severity)
    mean = sum(counts) / len(counts)
    spread = (sum((count - mean) ** 2 for count in counts) / len(counts)) ** 0.5
    assert abs(mean - wanted) < 4 * spread / len(counts) ** 0.5


def test_wrapper_frames_grow_with_severity():
    """A schedule from 0 on would otherwise begin with the longest frames around few prompts."""
    longest = [
        max(added(WrapperPerturbation(severity).apply(REQUEST, Random(seed))) for seed in range(500))
        for severity in (0.05, 0.2, 0.4, 1.0)
    ]
    assert longest == sorted(longest) and longest[0] <= 4 and longest[-1] >= 35


def test_nested_frames_are_mostly_few_and_sometimes_many():
    """Long ones alone would cost every batch their length, and short ones alone leave templates of hundreds of words unseen."""
    counts = [added(WrapperPerturbation(nested=24).apply(REQUEST, Random(seed))) for seed in range(2000)]
    once = [added(WrapperPerturbation().apply(REQUEST, Random(seed))) for seed in range(2000)]
    assert max(counts) > 4 * max(once) and sorted(counts)[1000] < 2 * sorted(once)[1000]
    # Sum of 1 / n over sum of 1 / n squared, of n up to 24: 3.776 / 1.604.
    assert sum(counts) / sum(once) == pytest.approx(2.354, rel=0.15)
    for seed in range(200):
        assert WrapperPerturbation(nested=24).apply(REQUEST, Random(seed)).count(REQUEST) == 1
        # One frame at most is what it has always been.
        assert WrapperPerturbation(nested=1).apply(REQUEST, Random(seed)) == WrapperPerturbation().apply(
            REQUEST, Random(seed)
        )


def test_wrapper_of_a_corrupted_set_is_put_around_harmful_and_benign_rows_alike():
    """A frame around harmful rows alone is what the student would learn to refuse."""
    clean = load_boundary_set("validation")
    rows = corrupt(clean, perturbation="wrapper", share=0.5)
    kinds = {kind: [row["perturbed"] for row in rows if row["kind"] == kind] for kind in ("harmful", "twin", "plain")}
    assert sum(map(sum, kinds.values())) == round(len(clean) / 2)
    assert all(abs(sum(kind) / len(kind) - 0.5) < 0.2 for kind in kinds.values())
    for before, after in zip(clean, rows, strict=True):
        assert after["prompt"].count(before["prompt"]) == 1
        assert after["perturbed"] == (len(after["prompt"]) > len(before["prompt"]))


@pytest.mark.parametrize("perturbation", ["wrapper", {"wrapper": 0.5, "gaussian": 0.5}], ids=["alone", "mixture"])
def test_wrapper_is_trained_under_and_leaves_the_answer(perturbation, tiny_model_dir, tmp_path):
    """A frame put around the template's words, or one that shifts the answer, trains on something else unseen."""
    data = to_prompt_completion(load_boundary_set("validation").select(range(8)))
    settings = {**OFF, "consistency_weight": 1.0, "perturbation": perturbation, "max_length": None}
    trainer = build(tmp_path, tiny_model_dir, data, **settings)
    prompts = trainer._extra_passes.noisy.prompts
    batch = first_batch(trainer)
    labels = batch.pop("labels")
    for document in split_documents(Batch(batch, labels)).values():
        noisy = prompts.perturb(document, WrapperPerturbation(), seed=1)
        text = prompts.tokenizer.decode(noisy.ids[: noisy.start])
        (asked,) = (row["prompt"][0]["content"] for row in data if row["prompt"][0]["content"] in text)
        assert noisy.kept == document.kept and len(noisy.ids) > len(document.ids)
        user, assistant = text.split("<|im_end|>\n")
        assert user.startswith("<|im_start|>user\n") and assistant == "<|im_start|>assistant\n"
        assert user.removeprefix("<|im_start|>user\n").replace(asked, "{request}", 1) in TEMPLATES
    assert all(entry["consistency_loss"] > 0 for entry in steps(run(trainer)))
