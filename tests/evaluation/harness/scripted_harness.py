# SPDX-License-Identifier: Apache-2.0
"""A model of EleutherAI's harness whose answers are known, and a task whose results can be counted by hand."""

import json


def scripted(*answers):
    """A model of the harness that gives these answers in turn, and prefers the first option of every question."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        tokenizer_name = "scripted"

        def generate_until(self, requests):
            return [answers[number % len(answers)] for number in range(len(requests))]

        def loglikelihood(self, requests):
            return [(-float(request.idx), False) for request in requests]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def apply_chat_template(self, chat_history, add_generation_prompt=True):
            return json.dumps(chat_history)

    return Scripted()


def _sums(**settings):
    from datasets import Dataset

    rows = [{"question": f"{number} + 1 =", "options": ["no", "yes"], "right": number % 2} for number in range(20)]
    return {"test": Dataset.from_list(rows), "train": Dataset.from_list(rows)}


def sum_task(name):
    """Twenty questions with two options, of which the first is right for every second one."""
    from lm_eval.api.task import ConfigurableTask

    config = {
        "task": name,
        "custom_dataset": _sums,
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": "question",
        "doc_to_choice": "options",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return ConfigurableTask(config=config)


def asked_texts(lm):
    """Has a model remember the texts that it is asked about."""
    texts, answer = [], lm.loglikelihood
    lm.loglikelihood = lambda requests: texts.extend(request.args[0] for request in requests) or answer(requests)
    return texts
