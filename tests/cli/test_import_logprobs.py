# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt import-logprobs`: what a server says becomes a teacher of the same rows, token by token, or nothing does."""

import json
import math

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback

from hf_ckt.cli import main as cli
from tests import served, tiny_models
from tests.by_hand import rows_by_hand, table
from tests.runs import OFF
from tests.trainers import build, load, lora, run, steps

K = 5
DATA = table()
PLAIN = DATA.remove_columns(["teacher", "topic"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model that is not the student."""
    return load(tiny_models.save_tiny_llama(tmp_path_factory.mktemp("teacher"), hidden_size=48, seed=5)).eval()


@pytest.fixture(scope="module")
def by_hand(tiny_model_dir):
    return rows_by_hand(tiny_model_dir, DATA)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def places(row):
    return (row.labels != -100).nonzero()[:, 0].tolist()


def responses(form, teacher, tokenizer, by_hand, k=K):
    found = []
    for row in by_hand:
        ids = row.ids.tolist()
        found.append(
            {
                "completion": lambda ids=ids: served.completion(teacher, tokenizer, ids, k),
                "raw": lambda ids=ids: served.completion(teacher, tokenizer, ids, k, tokenizer.convert_ids_to_tokens),
                "as ids": lambda ids=ids: served.completion(teacher, tokenizer, ids, k, "token_id:{}".format),
                "vllm": lambda ids=ids: served.prompt_logprobs(teacher, tokenizer, ids, k),
                "chat": lambda ids=ids, row=row: served.chat(teacher, tokenizer, ids, places(row), k),
                "chat without end": lambda ids=ids, row=row: served.chat(teacher, tokenizer, ids, places(row)[:-1], k),
                "columns": lambda ids=ids: served.columns(teacher, ids, k),
                "parquet": lambda ids=ids: served.columns(teacher, ids, k),
            }[form]()
        )
    return found


def write(tmp_path, lines, ending=".jsonl"):
    file = tmp_path / f"served{ending}"
    if ending == ".parquet":
        Dataset.from_list(lines).to_parquet(str(file))
    else:
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def config(tmp_path, model, data=PLAIN, **changes):
    rows = tmp_path / "rows.jsonl"
    data.to_json(str(rows))
    fields = {"use_peft": True, "lora_target_modules": "all-linear", "report_to": "none", "use_cpu": True}
    where = {"output_dir": str(tmp_path / "out"), "dataset_name": str(rows), "model_name_or_path": str(model)}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**fields, **where, "distillation_weight": 1.0, **changes}))
    return file


def bring_in(tmp_path, model, file, *more, **changes):
    run_file = config(tmp_path, model, **changes)
    return cli.main(["import-logprobs", str(file), f"--config={run_file}", f"--output={tmp_path / 'cache'}", *more])


def stored(folder):
    """Ids and log-probabilities, `(P, K)` each, in the order that they were written in."""
    shards = [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]
    return (torch.cat([one[name] for one in shards]) for name in ("ids", "log_probs"))


FORMS = ["completion", "raw", "as ids", "vllm", "chat", "chat without end", "columns", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_import_keeps_what_the_model_says(form, tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """One position off, or a token of another id, and the student would learn words of another place."""
    ending = ".parquet" if form == "parquet" else ".jsonl"
    file = write(tmp_path, responses(form, teacher, tokenizer, by_hand), ending)
    code = bring_in(tmp_path, tiny_model_dir, file)
    said = capsys.readouterr()
    assert code == 0, said.err
    ids, log_probs = stored(tmp_path / "cache")
    expected, tails, silent = [], [], 0
    for row in by_hand:
        whole = served.log_softmax(teacher, row.ids.tolist())
        for place in places(row):
            named = whole[place - 1].topk(K)
            ended = form == "chat without end" and place == places(row)[-1]
            label = [] if form in ("columns", "parquet") else [row.ids[place].item()]
            found = {} if ended else {a: whole[place - 1, a].item() for a in [*named.indices.tolist(), *label]}
            expected.append(found)
            silent += ended
            tails += [] if ended else [1 - sum(map(math.exp, found.values()))]
    assert len(ids) == len(expected) == sum(len(places(row)) for row in by_hand)
    for own, values, wanted in zip(ids.tolist(), log_probs.tolist(), expected, strict=True):
        kept = {a: b for a, b in zip(own, values, strict=True) if a >= 0}
        assert kept == pytest.approx(wanted, abs=1e-5)
        assert list(kept.values()) == sorted(kept.values(), reverse=True)
    assert f"{len(by_hand)} rows, {len(expected)} positions" in said.out and "Lossy" in said.out
    assert f"{sum(tails) / len(tails):.2%} on average" in said.out
    assert (f"At {silent} positions" in said.out) == bool(silent)


class Watch(TrainerCallback):
    """Before each step: the divergence by hand, over the named tokens and one bucket for all others."""

    def __init__(self, teacher, rows):
        self.teacher, self.rows, self.losses = teacher, rows, []

    def on_step_begin(self, args, state, control, model, **kwargs):
        batch = self.rows[4 * state.global_step :][:4]
        found = []
        for row in batch:
            ids = row.ids.tolist()
            student, target = (served.log_softmax(one, ids).double().exp() for one in (model, self.teacher))
            for place in places(row):
                named = {*target[place - 1].topk(K).indices.tolist(), ids[place]}
                p, q = ([one[place - 1, a].item() for a in named] for one in (target, student))
                p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
                found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        self.losses.append(sum(found) / len(found))


@pytest.mark.parametrize("packing", [False, True])
def test_run_learns_from_what_was_imported(packing, tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """The whole way: what a run from the cache calls its distillation loss is that of the buckets."""
    lines = responses("vllm", teacher, tokenizer, by_hand)
    lines = [{**line, "row": number} for number, line in enumerate(lines)]
    file = write(tmp_path, lines[::-1])
    assert bring_in(tmp_path, tiny_model_dir, file, **({"packing": True, "max_length": 1024} if packing else {})) == 0
    fields = {**OFF, "distillation_weight": 1.0, "distillation_loss": "forward_kl", "task_weight": 0.0}
    trainer = build(
        tmp_path / "run",
        tiny_model_dir,
        PLAIN,
        given={"peft_config": lora(lora_dropout=0.0)},
        teacher_cache=str(tmp_path / "cache"),
        learning_rate=1e-2,
        **fields,
    )
    watch = Watch(teacher, by_hand)
    trainer.add_callback(watch)
    logged = [entry["distillation_loss"] for entry in steps(run(trainer))]
    assert logged == pytest.approx(watch.losses, rel=2e-4) and logged[0] != pytest.approx(logged[1], rel=1e-3)


def other_tokenizer_lines(teacher):
    """What a server says whose tokenizer cuts the same texts elsewhere."""
    other = tiny_models.build_tokenizer(vocab_size=150, text=["kill kill first first end it it number then find its"])
    texts = [row["prompt"] + row["completion"] for row in PLAIN]
    return [served.completion(teacher, other, other(text + "<|im_end|>")["input_ids"], K) for text in texts]


def refused(tmp_path, capsys, model, lines, *more, **changes):
    file = lines if not isinstance(lines, list) else write(tmp_path, lines)
    code = bring_in(tmp_path, model, file, *more, **changes)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and said.startswith("hf-ckt import-logprobs: error: "), said
    assert not (tmp_path / "cache" / "index.json").exists()
    return said


def test_import_refuses_another_tokenizer(tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """Ids of one vocabulary read as those of another teach noise."""
    said = refused(tmp_path, capsys, tiny_model_dir, other_tokenizer_lines(teacher))
    assert "row 0, position" in said and "the served model read '" in said and "Serve a model with the run's" in said


@pytest.mark.parametrize("form", ["completion", "vllm", "chat", "columns"])
def test_import_refuses_another_text(form, tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """Of rows in another order, each would hear what is said of its neighbour."""
    lines = responses(form, teacher, tokenizer, by_hand, k=1)
    lines[3], lines[4] = lines[4], lines[3]
    said = refused(tmp_path, capsys, tiny_model_dir, lines)
    assert "import-logprobs: row 3" in said
    assert "the run's row has" in said or "another answer" in said or "goes on with" in said


def test_import_names_what_is_missing_or_broken(tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """A row that nobody teaches, or half a line, is found before the training that would lack it."""
    lines = responses("vllm", teacher, tokenizer, by_hand)
    said = refused(tmp_path, capsys, tiny_model_dir, lines[:5])
    assert "holds nothing on 3 of the 8 rows of train_dataset (first: row 5)" in said
    said = refused(tmp_path, capsys, tiny_model_dir, [*lines[:7], {**lines[7], "row": 2}])
    assert "row 2: is there twice" in said
    said = refused(tmp_path, capsys, tiny_model_dir, [*lines, lines[0]])
    assert "row 8: the run has 8 rows" in said
    said = refused(tmp_path, capsys, tiny_model_dir, [*lines[:7], {**lines[7], "model": "another"}])
    assert "several models (stub, another)" in said
    file = write(tmp_path, lines)
    file.write_text(file.read_text()[:-40])
    assert "served.jsonl, line 8: " in refused(tmp_path, capsys, tiny_model_dir, file)
    assert "no such file" in refused(tmp_path, capsys, tiny_model_dir, tmp_path / "nowhere.jsonl")
    (tmp_path / "served.parquet").write_text("no parquet")
    assert "served.parquet: cannot be read" in refused(tmp_path, capsys, tiny_model_dir, tmp_path / "served.parquet")
    with_eval = {"eval_strategy": "steps", "dataset_test_split": "train"}
    said = refused(tmp_path, capsys, tiny_model_dir, lines, **with_eval)
    assert "--eval-files holds nothing on 8 of the 8 rows of eval_dataset" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            {"choices": [{"text": "hello", "logprobs": None}]},
            "neither choices[0].logprobs nor prompt_logprobs is there",
        ),
        ({"error": {"message": "busy"}}, "neither choices[0].logprobs nor prompt_logprobs is there"),
        ({"choices": [{"logprobs": {"tokens": ["a"]}}]}, "token_logprobs"),
        ({"input_ids": [1, 2, 3], "top_ids": [[2]], "top_log_probs": [[-1.0]]}, "3 tokens, and lists of 1 and 1"),
        ({"input_ids": [1, 2], "top_ids": [[2]], "top_log_probs": [[0.4]]}, "0.4 is the logarithm of no probability"),
        ({"row": -1, "input_ids": [1], "top_ids": [], "top_log_probs": []}, "row is -1"),
    ],
)
def test_import_names_a_line_that_is_none(line, said, tmp_path, capsys, tiny_model_dir):
    """An error of the server in the place of a response is no row."""
    found = refused(tmp_path, capsys, tiny_model_dir, [line])
    assert "served.jsonl, line 1: " in found and said in found


@pytest.mark.parametrize("form", ["completion", "vllm", "chat"])
def test_import_refuses_what_names_no_other_token(form, tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """Asked with 0, a server tells the row's own tokens: a bucket of the label and one of the rest is no teacher."""
    lines = responses(form, teacher, tokenizer, by_hand, k=0)
    assert "names no other (logprobs=0)" in refused(tmp_path, capsys, tiny_model_dir, lines)


def test_import_refuses_what_is_no_distribution(tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """Scores of another kind in the same form would be read as probabilities."""
    lines = responses("columns", teacher, tokenizer, by_hand)
    lines[2]["top_log_probs"] = [[-0.1] * K for _ in lines[2]["top_log_probs"]]
    assert "add up to 4.524" in refused(tmp_path, capsys, tiny_model_dir, lines)


def test_import_does_not_go_on_with_another_one(tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand):
    """A folder in which half is of one asking and half of another has two teachers."""
    file = write(tmp_path, responses("vllm", teacher, tokenizer, by_hand))
    assert bring_in(tmp_path, tiny_model_dir, file) == 0
    assert bring_in(tmp_path, tiny_model_dir, file) == 0
    capsys.readouterr()
    assert bring_in(tmp_path, tiny_model_dir, write(tmp_path, responses("vllm", teacher, tokenizer, by_hand, 3))) == 2
    assert "was begun with another" in capsys.readouterr().err


def test_import_takes_a_chat_without_the_marks_of_its_end(tmp_path, capsys, tiny_model_dir, teacher, tokenizer):
    """A chat's response ends with its words; the template's end of turn behind them is the run's alone."""
    rows, lines, words = [], [], 0
    for n in range(4):
        prompt, answer = (
            [{"role": role, "content": text}] for role, text in (("user", f"What {n}?"), ("assistant", f"It is {n}."))
        )
        rows.append({"prompt": prompt, "completion": answer, "teacher": "a", "kind": "b"})
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(prompt + answer, return_dict=False)
        own = range(len(before), ids.index(tokenizer.eos_token_id, len(before)))
        lines.append({**served.chat(teacher, tokenizer, ids, list(own), K), "row": n})
        words += len(own)
    rows.append(rows[0])  # the same again
    lines.append({**lines[0], "row": 4})
    assert bring_in(tmp_path, tiny_model_dir, write(tmp_path, lines), data=Dataset.from_list(rows)) == 0
    ids, _ = stored(tmp_path / "cache")
    said = capsys.readouterr().out
    assert (ids >= 0).any(1).sum() == words and f"4 rows, {len(ids)} positions" in said
    assert f"At {len(ids) - words} positions, the ends of texts" in said and len(ids) - words >= 4


def test_import_leaves_a_name_that_may_be_several_tokens_unnamed(
    tmp_path, capsys, tiny_model_dir, teacher, tokenizer, by_hand
):
    """Guessed, the wrong token would be taught; what it has counts among the others."""
    lines = responses("completion", teacher, tokenizer, by_hand)
    first = places(by_hand[0])[0]
    tops = lines[0]["choices"][0]["logprobs"]["top_logprobs"][first]
    own = lines[0]["choices"][0]["logprobs"]["tokens"][first]
    lost = next(name for name in tops if name != own)
    tops["\ufffd"] = tops.pop(lost)
    assert bring_in(tmp_path, tiny_model_dir, write(tmp_path, lines)) == 0
    ids, _ = stored(tmp_path / "cache")
    assert tokenizer.encode(lost)[0] not in ids[0].tolist()
    assert "1 names are no token of this tokenizer, or several" in capsys.readouterr().out
