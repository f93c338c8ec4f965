# SPDX-License-Identifier: Apache-2.0
"""EleutherAI's harness over tiny models: what is asked, how it is judged, what is kept, and whose score is whose."""

import json

import pytest
import torch
from filelock import FileLock
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, GenerationConfig

from hf_ckt.data.prompt_sets import load_choices
from hf_ckt.evaluation.harness import run as harness
from hf_ckt.evaluation.harness.catalogue import OWN_TASKS, TASKS_DIR
from hf_ckt.evaluation.harness.run import HarnessRun, run_tasks, score_with_harness
from hf_ckt.evaluation.judges import is_degenerate, is_refusal
from hf_ckt.evaluation.measuring.answers import greedy_answers
from hf_ckt.evaluation.measuring.models import Loading
from hf_ckt.evaluation.measuring.utility import choice_answers
from tests.evaluation.harness.scripted_harness import asked_texts, scripted, sum_task
from tests.trainers import load

pytest.importorskip("lm_eval")

LIMIT = 3


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness") / "aligned"
    torch.manual_seed(0)
    config = LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear")
    get_peft_model(load(tiny_model_dir), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(tiny_model_dir, adapter):
    return HarnessRun(
        str(tiny_model_dir), str(adapter), tasks=OWN_TASKS, limit=LIMIT, batch_size=2, loading=Loading("float32")
    )


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """Base and adapter scored on all tasks of this package: the folder, and what is kept by model and task."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    score_with_harness(options, folder, "hf-ckt lm-eval")
    return folder


@pytest.fixture(scope="module")
def kept(finished, options):
    found = {}
    for file in (finished / "lm_eval").glob("*.json"):
        piece = json.loads(file.read_text(encoding="utf-8"))
        name = "base" if piece["key"]["model"][1] is None else "adapter"
        found[name, piece["key"]["task"]] = piece["value"]
    return found


def _results(folder):
    return json.loads((folder / "lm_eval.json").read_text(encoding="utf-8"))


def test_rates_equal_the_judge_on_the_kept_answers(kept):
    """A rate that does not follow from the answers beside it cannot be checked by anyone."""
    for (_, task), result in kept.items():
        if task == "hf_ckt_choices":
            continue
        samples = result["samples"][task]
        answers = [sample["filtered_resps"][0] for sample in samples]
        assert len(answers) == LIMIT
        refused = [is_refusal(answer) for answer in answers]
        found = result["results"][task]
        assert found["refused,none"] == pytest.approx(sum(refused) / LIMIT)
        if task == "hf_ckt_overrefusal":
            helpful = [not (no or is_degenerate(answer)) for no, answer in zip(refused, answers, strict=True)]
            assert found["helpful,none"] == pytest.approx(sum(helpful) / LIMIT)
        else:
            assert found["attack_success,none"] == pytest.approx(1 - sum(refused) / LIMIT)


@pytest.mark.parametrize("name", ["base", "adapter"])
def test_models_on_one_backbone_answer_as_if_alone(name, kept, tiny_model_dir, adapter):
    """An adapter left on, another template or a cut at the first empty line would be scored under the model's name."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    alone = load(tiny_model_dir).eval()
    if name == "adapter":
        alone = PeftModel.from_pretrained(alone, adapter).eval()
    samples = kept[name, "hf_ckt_direct"]["samples"]["hf_ckt_direct"]
    expected = greedy_answers(alone, tokenizer, [sample["doc"]["prompt"] for sample in samples], new_tokens=48)
    assert [sample["filtered_resps"][0].strip() for sample in samples] == expected
    questions = load_choices()[:LIMIT]
    right = [
        chosen == question.answer
        for chosen, question in zip(choice_answers(alone, tokenizer, questions, title=None), questions, strict=True)
    ]
    assert [sample["acc"] == 1 for sample in kept[name, "hf_ckt_choices"]["samples"]["hf_ckt_choices"]] == right


def test_base_and_adapter_answer_differently(kept):
    """The tests of who answered would pass on two copies of one model."""
    answers = {
        name: [sample["filtered_resps"] for sample in kept[name, "hf_ckt_direct"]["samples"]["hf_ckt_direct"]]
        for name in ("base", "adapter")
    }
    assert answers["base"] != answers["adapter"]


def test_results_have_a_row_for_each_task_and_model(finished, kept):
    """The report reads these names; a missing one is a column of gaps."""
    results = _results(finished)
    assert list(results["tasks"]) == list(OWN_TASKS) and list(results["models"]) == ["base", "adapter"]
    for task, row in results["tasks"].items():
        assert row["title"] != task and list(row["models"]) == ["base", "adapter"]
        for name, score in row["models"].items():
            assert score["n"] == LIMIT and score["low"] <= score["value"] <= score["high"]
            assert score["value"] == kept[name, task]["results"][task][f"{score['metric']},none"]
    assert results["tasks"]["hf_ckt_direct"]["models"]["base"]["metric"] == "attack_success"
    assert not results["tasks"]["hf_ckt_direct"]["higher_is_better"]
    assert results["judge"]["measures"] == "attack success (string judge)"


def test_results_state_versions_and_seeds_and_no_path(finished, tiny_model_dir, adapter):
    """Numbers of another version of a task are other numbers; a path in them tells on its owner."""
    results = _results(finished)
    assert {"hf_ckt", "lm_eval", "torch", "transformers", "peft"} <= results["versions"].keys()
    assert results["seeds"] and results["settings"]["limit"] == LIMIT and results["settings"]["chat_template"]
    assert all(row["version"] == 1 for row in results["tasks"].values())
    for file in (finished / "lm_eval.json", *(finished / "lm_eval").glob("*.json")):
        text = file.read_text(encoding="utf-8")
        for folder in (finished.parent, tiny_model_dir.parent, adapter.parent, TASKS_DIR):
            assert str(folder) not in text


def test_finished_tasks_are_read_and_not_run_again(finished, options, monkeypatch):
    """A rerun for one more task would take hours of MMLU with it."""
    monkeypatch.setattr(harness, "run_tasks", lambda *arguments: pytest.fail("run again"))
    monkeypatch.setattr(harness.Backbones, "active", lambda *arguments: pytest.fail("loaded again"))
    before = (finished / "lm_eval.json").read_bytes()
    (finished / "lm_eval.json").unlink()  # as after a kill just before the end
    score_with_harness(options, finished, "hf-ckt lm-eval")
    assert (finished / "lm_eval.json").read_bytes() == before


def test_killed_run_goes_on_with_the_task_it_was_at(options, finished, tmp_path, monkeypatch):
    """What was done before a kill must count, and give the same file as a run that was not killed."""
    ran, run = [], harness.run_tasks

    def stopped(lm, tasks, options):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.extend(tasks["tasks"])
        return run(lm, tasks, options)

    monkeypatch.setattr(harness, "run_tasks", stopped)
    with pytest.raises(KeyboardInterrupt):
        score_with_harness(options, tmp_path, "hf-ckt lm-eval")
    assert not (tmp_path / "lm_eval.json").exists() and len(ran) == 3
    monkeypatch.setattr(harness, "run_tasks", lambda *arguments: ran.extend(arguments[1]["tasks"]) or run(*arguments))
    score_with_harness(options, tmp_path, "hf-ckt lm-eval")
    assert ran == [*OWN_TASKS, *OWN_TASKS]  # base, then adapter: each once
    assert (tmp_path / "lm_eval.json").read_bytes() == (finished / "lm_eval.json").read_bytes()


def test_another_setting_is_another_result(options, monkeypatch):
    """A result with the chat template, read for a run without it, would be a silent mix of the two."""
    entry = harness.EvaluatedModel("base", options.model)
    changes = [{"limit": 4}, {"chat_template": False}, {"num_fewshot": 1}, {"system_prompt": "Be kind."}]
    changes.append({"loading": Loading("bfloat16")})
    keys = [harness._keys(options, entry, OWN_TASKS, None)["hf_ckt_direct"]]
    keys += [
        harness._keys(HarnessRun(**{**vars(options), **changed}), entry, OWN_TASKS, None)["hf_ckt_direct"]
        for changed in changes
    ]
    keys.append(
        harness._keys(options, harness.EvaluatedModel("adapter", options.model, options.adapter), OWN_TASKS, None)
    )
    monkeypatch.setattr(harness, "own_digest", lambda: "another judge")
    keys.append(harness._keys(options, entry, OWN_TASKS, None)["hf_ckt_direct"])
    assert len({json.dumps(key, sort_keys=True) for key in keys}) == len(keys)


def test_every_model_sees_the_same_examples():
    """Few-shot examples drawn on from where the last model stopped make a difference that no model made."""
    tasks = {"tasks": {"sums": sum_task("sums")}}
    options = HarnessRun("none", num_fewshot=2, limit=4)
    asked = []
    for _ in range(2):
        lm = scripted()
        asked.append(asked_texts(lm))
        run_tasks(lm, tasks, options)
    assert asked[0] == asked[1] and len(set(asked[0])) == 4
    turns = json.loads(asked[0][0])
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]


def test_questions_without_the_template_are_plain_text():
    """An option that did nothing would publish chat scores as plain ones."""
    lm = scripted()
    asked = asked_texts(lm)
    run_tasks(lm, {"tasks": {"sums": sum_task("sums")}}, HarnessRun("none", limit=1, chat_template=False))
    assert set(asked) == {"0 + 1 ="}


def test_system_prompt_comes_first():
    """A system prompt that is recorded and not sent would explain a score that it had no part in."""
    lm = scripted()
    asked = asked_texts(lm)
    run_tasks(lm, {"tasks": {"sums": sum_task("sums")}}, HarnessRun("none", limit=1, system_prompt="Be kind."))
    assert json.loads(asked[0])[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("task", ["mmlu", "gsm8k"])
def test_data_that_cannot_be_loaded_are_named_before_a_model_is(task, tiny_model_dir, tmp_path, monkeypatch):
    """A model of many gigabytes is loaded for nothing, and a traceback of the Hub's client does not say what to do."""
    monkeypatch.setattr(harness.Backbones, "active", lambda *arguments: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=f"the data of '{task}' could not be loaded .* Run it once while online"):
        score_with_harness(HarnessRun(str(tiny_model_dir), tasks=["hf_ckt_direct", task]), tmp_path)
    assert not (tmp_path / "lm_eval").exists()


def test_missing_harness_says_what_to_install(tiny_model_dir, tmp_path, monkeypatch):
    """An ImportError from inside does not name the extra."""
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "hf-ckt\[eval\]"'):
        score_with_harness(HarnessRun(str(tiny_model_dir)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_model_without_a_chat_template_raises(tiny_model_dir, tmp_path):
    """Without a template the harness would fail in its middle, or ask in a form that no user writes."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = None
    load(tiny_model_dir).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    options = {"tasks": ["hf_ckt_choices"], "limit": 2, "loading": Loading("float32")}
    with pytest.raises(ValueError, match=r"has no chat template.*--no-chat-template"):
        score_with_harness(HarnessRun(str(tmp_path / "plain"), **options), tmp_path / "out")
    plain = HarnessRun(str(tmp_path / "plain"), chat_template=False, **options)
    results = score_with_harness(plain, tmp_path / "out")
    assert results["tasks"]["hf_ckt_choices"]["models"]["base"]["n"] == 2


def test_two_runs_in_one_folder_raise(tiny_model_dir, tmp_path):
    """Two writers would leave the table of the one over the answers of the other."""
    with FileLock(tmp_path / ".lm_eval.lock"):
        with pytest.raises(ValueError, match="another lm-eval is writing"):
            score_with_harness(HarnessRun(str(tiny_model_dir)), tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ()}, "--tasks: names no task"),
        ({"limit": 0}, "--limit: must be 1 or more"),
        ({"num_fewshot": -1}, "--num-fewshot: must be 0 or more"),
        ({"batch_size": 0}, "--batch-size: must be 1 or more"),
    ],
)
def test_wrong_settings_raise(changed, message):
    """The harness takes a limit of 0 for none, and scores 14,000 questions."""
    with pytest.raises(ValueError, match=message):
        HarnessRun("none", **changed)


REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def told(tiny_model_dir, tmp_path, monkeypatch):
    """A function that runs the harness with changed files of the base and an adapter, and tells what each was asked."""

    def run(base_template=None, adapter_template=None, generation=None, beside=None, **changed):
        model, tokenizer = load(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
        for name, value in (generation or {}).items():
            setattr(model.generation_config, name, value)
        model.save_pretrained(tmp_path / "base")
        tokenizer.chat_template = base_template or tokenizer.chat_template
        tokenizer.save_pretrained(tmp_path / "base")
        if adapter_template is not None:
            get_peft_model(load(tmp_path / "base"), LoraConfig(r=2)).save_pretrained(tmp_path / "mine")
            tokenizer.chat_template = adapter_template
            tokenizer.save_pretrained(tmp_path / "mine")
            if beside is not None:
                beside.save_pretrained(tmp_path / "mine")
            changed["adapter"] = str(tmp_path / "mine")
        asked, original = [], harness.run_tasks

        def recorded(lm, tasks, options):
            apply = lm.apply_chat_template
            lm.apply_chat_template = lambda *args, **kwargs: asked.append(apply(*args, **kwargs)) or asked[-1]
            return original(lm, tasks, options)

        monkeypatch.setattr(harness, "run_tasks", recorded)
        options = {"tasks": ["hf_ckt_direct"], "limit": 1, "loading": Loading("float32"), **changed}
        results = score_with_harness(HarnessRun(str(tmp_path / "base"), **options), tmp_path / "out")
        return results, asked

    return run


def test_system_prompt_that_cannot_be_sent_is_refused_or_moved(told):
    """By itself the harness leaves it out and states in the results that it was there."""
    with pytest.raises(ValueError, match=r"has no system role.*--system-fallback user"):
        told(REFUSING, system_prompt="Be kind.")
    results, asked = told(REFUSING, system_prompt="Be kind.", system_fallback="user")
    assert all(text.startswith("user: Be kind.\n\n") and text.endswith("assistant: ") for text in asked) and asked
    found = results["models"]["base"]["chat"]
    assert found["system_prompt_sent_as"] == "user" and found["sent"] == "user: Be kind.\n\n{prompt}\nassistant: "


def test_adapter_is_asked_in_its_own_words(told):
    """Under the base's template it is scored for a form that it never saw."""
    results, asked = told(adapter_template=REFUSING)
    assert [text.startswith("<|im_start|>user") for text in asked] == [True, False] and asked[1].startswith("user: ")
    assert [model["chat"]["template"] for model in results["models"].values()] == ["base", "mine"]


def test_thoughts_are_switched_off(told):
    """A limit of all that is generated would be spent on the thought."""
    opening = REFUSING.replace(
        "assistant: ",
        "assistant: {% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}",
    )
    _, asked = told(opening)
    assert asked and all(text.endswith("<think></think>") for text in asked)


def test_harness_answers_are_greedy(told, tiny_model_dir, tmp_path):
    """A penalty in the model's own configuration changes every answer, and nothing in the results says so."""
    own = {"repetition_penalty": 5.0, "num_beams": 2, "return_dict_in_generate": True, "stop_strings": ["e"]}
    results, _ = told(generation=own)
    settings = results["models"]["base"]["generation"]
    own.pop("return_dict_in_generate")  # the form of what is returned changes no answer
    assert settings["set_aside"] == own and not settings["do_sample"] and results["settings"]["decoding"] == "greedy"
    piece = json.loads(next((tmp_path / "out" / "lm_eval").glob("*.json")).read_text(encoding="utf-8"))["value"]
    sample = piece["samples"]["hf_ckt_direct"][0]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model_dir), load(tiny_model_dir).eval()
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": sample["doc"]["prompt"]}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(48):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
    assert sample["filtered_resps"][0].strip() == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_adapter_answers_with_the_bias_that_lies_beside_it(told, tiny_model_dir, tmp_path):
    """Its own setting stands in the results: answers made without it would be kept under its name."""
    bias = {"sequence_bias": [[[9], 1000.0]]}
    results, _ = told(adapter_template=REFUSING, beside=GenerationConfig(**bias), keep_generation_config=True)
    assert bias.items() <= results["models"]["adapter"]["generation"].items()
    assert "sequence_bias" not in str(results["models"]["base"]["generation"])
    word = AutoTokenizer.from_pretrained(tiny_model_dir).decode([9])
    pieces = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "out" / "lm_eval").glob("*.json")]
    said = {
        one["key"]["model"][1] is not None: one["value"]["samples"]["hf_ckt_direct"][0]["filtered_resps"][0]
        for one in pieces
    }
    assert said[True].replace(" ", "") == word.strip() * 48 and word * 2 not in said[False]
