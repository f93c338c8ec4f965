# SPDX-License-Identifier: Apache-2.0
"""A judge's error, against counts by hand, scikit-learn, and a bootstrap written as a loop."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from hf_ckt.evaluation.judges import Judge, Verdict
from hf_ckt.evaluation.judges.error import digests, error_table, measure_judge, write_error
from hf_ckt.evaluation.judges.labelled import Columns, LabelledAnswer, read_labelled
from hf_ckt.evaluation.scoring.intervals import wilson_interval


class Reader(Judge):
    """Refused where the answer begins with an R, degenerate where it ends with a D."""

    name, measures = "reader", "attack success (reader)"

    def verdicts(self, prompts, answers):
        return [Verdict(answer.startswith("R"), answer.endswith("D")) for answer in answers]


def labelled(counts: dict[tuple[str, bool, bool], int], prompts: int = 0) -> list[LabelledAnswer]:
    """So many rows of each (kind, judged, labelled); with `prompts`, so many prompts of each kind in turn."""
    rows = []
    for (kind, judged, label), count in counts.items():
        for number in range(count):
            prompt = f"{kind} {number % prompts}" if prompts else ""
            rows.append(LabelledAnswer("R" if judged else "A", label, prompt, kind))
    return rows


COUNTS = {
    ("harmful", True, True): 30,
    ("harmful", False, True): 12,
    ("harmful", True, False): 2,
    ("harmful", False, False): 6,
    ("benign", True, True): 3,
    ("benign", True, False): 5,
    ("benign", False, False): 22,
}


def test_rates_are_those_of_scikit_learn():
    """Precision and recall swapped look just as plausible."""
    rows = labelled(COUNTS)
    found = measure_judge(Reader(), rows)
    labels, judged = [row.refused for row in rows], [row.answer == "R" for row in rows]
    precision, recall, f1, _ = precision_recall_fscore_support(labels, judged, average="binary")
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, judged))
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((precision, recall, f1))
    counts = ("true_refusals", "false_refusals", "missed_refusals", "true_answers")
    assert [found[count] for count in counts] == [33, 7, 12, 28]
    assert found["intervals"]["accuracy"] == pytest.approx(list(wilson_interval(61, 80)))
    assert found["intervals"]["precision"] == pytest.approx(list(wilson_interval(33, 40)))
    assert found["intervals"]["recall"] == pytest.approx(list(wilson_interval(33, 45)))


def test_bias_is_judged_minus_labelled_rate_of_each_kind():
    """Misses on harmful prompts and false alarms on benign ones cancel out in one rate over both."""
    found = measure_judge(Reader(), labelled(COUNTS))
    # harmful: 32 of 50 judged, 42 labelled; benign: 8 of 30 judged, 3 labelled
    assert found["bias_harmful"] == pytest.approx(32 / 50 - 42 / 50)
    assert found["bias_benign"] == pytest.approx(8 / 30 - 3 / 30)
    assert (found["n_harmful"], found["n_benign"]) == (50, 30)


@pytest.mark.parametrize("prompts", [0, 7])
def test_bootstrap_resamples_prompts_within_kinds(prompts):
    """Five models' answers to one prompt rise and fall together: taken one by one, the interval is too narrow."""
    rows = labelled(COUNTS, prompts)
    found = measure_judge(Reader(), rows)
    by_prompt = _drawn(rows, lambda number, row: row.prompt or number)
    by_answer = _drawn(rows, lambda number, row: number)
    for name, ends in by_prompt.items():
        # Never narrower than with answers that have nothing in common.
        low, high = min(ends[0], by_answer[name][0]), max(ends[1], by_answer[name][1])
        assert found["intervals"][name] == pytest.approx([low, high], abs=0.02), name


def _drawn(rows, key) -> dict[str, tuple[float, float]]:
    """2.5 and 97.5 % of 4,000 draws of F1 and of the bias on harmful prompts, of clusters by `key` within kinds."""
    clusters: dict[str, dict] = {"harmful": {}, "benign": {}}
    for number, row in enumerate(rows):
        clusters[row.kind].setdefault(key(number, row), []).append(row)
    generator, f1, bias = random.Random(0), [], []
    for _ in range(4_000):
        drawn = [
            row
            for of_kind in clusters.values()
            for cluster in generator.choices(list(of_kind.values()), k=len(of_kind))
            for row in cluster
        ]
        pairs = [(row.answer == "R", row.refused, row.kind) for row in drawn]
        hits = sum(a and b for a, b, _ in pairs)
        f1.append(2 * hits / sum(a + b for a, b, _ in pairs))
        harmful = [a - b for a, b, kind in pairs if kind == "harmful"]
        bias.append(sum(harmful) / len(harmful))
    return {name: (sorted(values)[99], sorted(values)[3_899]) for name, values in (("f1", f1), ("bias_harmful", bias))}


def test_counts_of_each_kind_are_its_own():
    """A rate is corrected by the judge's error on prompts like its own; that of the other kind would correct it wrongly."""
    found = measure_judge(Reader(), labelled(COUNTS))
    names = ("true_refusals", "false_refusals", "missed_refusals", "true_answers")
    assert found["by_kind"] == {
        "harmful": dict(zip(names, (30, 2, 12, 6), strict=True)),
        "benign": dict(zip(names, (3, 5, 0, 22), strict=True)),
    }


@pytest.mark.parametrize("n", [20, 200])
def test_a_judge_that_never_erred_has_intervals_of_some_width(n):
    """[1, 1] after twenty answers says that it cannot err."""
    rows = labelled({("harmful", True, True): n, ("benign", False, False): n}, prompts=n)
    intervals = measure_judge(Reader(), rows)["intervals"]
    # 3 / n is the rule of three: the highest rate of errors that none in n leaves open
    low, high = intervals["f1"]
    assert 1 - 4.5 / n < low < 1 - 1 / n and high == pytest.approx(1)
    for kind in ("harmful", "benign"):
        low, high = intervals[f"bias_{kind}"]
        assert -4.5 / n < low < -1 / n and low == pytest.approx(-high)


def test_rates_of_nothing_are_none():
    """A precision of 0 where nothing was judged refused reads as a judge that is always wrong."""
    found = measure_judge(Reader(), [LabelledAnswer("A", False), LabelledAnswer("A", False)])
    assert found["accuracy"] == 1 and found["precision"] is None and found["recall"] is None and found["f1"] is None
    assert "bias_harmful" not in found and "n_benign" not in found and "by_form" not in found
    assert "precision" not in error_table(found)
    with pytest.raises(ValueError, match="is empty"):
        measure_judge(Reader(), [])


def test_degenerate_flags_and_forms_are_counted_where_labelled():
    """The rows that no one labelled must not count as right."""
    rows = [
        LabelledAnswer("R", True, form="plain", degenerate=False),
        LabelledAnswer("A D", False, form="loop", degenerate=True),
        LabelledAnswer("A", False, form="loop", degenerate=True),
        LabelledAnswer("A", True, form="plain"),
    ]
    found = measure_judge(Reader(), rows)
    assert found["degenerate_accuracy"] == pytest.approx(2 / 3)
    assert found["by_form"] == {"loop": {"n": 2, "right": 2}, "plain": {"n": 2, "right": 1}}


def test_table_shows_the_four_counts_where_they_belong():
    """Missed refusals in the column of false ones turn the judge's fault around."""
    lines = error_table(measure_judge(Reader(), labelled(COUNTS))).splitlines()
    assert lines[0].split() == ["judged", "refused", "answered"]
    assert lines[1].split() == ["labelled", "refused", "33", "12"]
    assert lines[2].split() == ["labelled", "answered", "7", "28"]
    assert any(line.startswith("bias benign") and "+0.167" in line for line in lines)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_jsonl_are_read_alike(tmp_path):
    """A quoted line break or comma that splits an answer gives half of it the label of another."""
    rows = [("Sure,\n\u201cgladly\u201d", "false", "benign"), ("I can't", "true", "harmful")]
    lines = [json.dumps({"answer": text, "refused": label == "true", "kind": kind}) for text, label, kind in rows]
    jsonl = write(tmp_path / "a.jsonl", "\n".join(lines) + "\n\n")
    quoted = [f'"{text}",{label},{kind}' for text, label, kind in rows]
    csv = write(tmp_path / "a.csv", "\ufeff" + "\n".join(["answer,refused,kind", *quoted]))
    expected = [LabelledAnswer(text, label == "true", "", kind) for text, label, kind in rows]
    assert read_labelled([jsonl]) == read_labelled([csv]) == expected
    assert read_labelled([jsonl, csv]) == expected * 2


def test_labels_and_kinds_of_others_are_understood(tmp_path):
    """XSTest's form: a partial refusal is a refusal, and a contrast prompt is harmful."""
    head = "type,prompt,completion,final_label\n"
    body = (
        "homonyms,p,a,1_full_compliance\ncontrast_privacy,q,b,3_partial_refusal\ncontrast_discr,r,c,2_full_refusal\n"
    )
    path = write(tmp_path / "x.csv", head + body)
    columns = Columns(
        "completion",
        "final_label",
        kind="type",
        refusal_labels=["2_full_refusal", "3_partial_refusal"],
        harmful_kinds=["contrast_*"],
    )
    rows = read_labelled([path], columns)
    assert [(row.refused, row.kind) for row in rows] == [(False, "benign"), (True, "harmful"), (True, "harmful")]


def test_split_leaves_the_other_rows_out(tmp_path):
    """An error on the rows that the rule was made with is no error."""
    lines = [json.dumps({"answer": name, "refused": True, "split": name}) for name in ("dev", "test", "test")]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert [row.answer for row in read_labelled([path], split="test")] == ["test", "test"]
    with pytest.raises(ValueError, match="Known: dev, test"):
        read_labelled([path], split="tset")


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.txt", "", {}, "neither .jsonl nor .csv"),
        ("a.jsonl", "", {}, "holds no row"),
        ("a.jsonl", "{", {}, "line 1: is not JSON"),
        ("a.jsonl", "[1]", {}, "must be an object"),
        ("a.jsonl", '{"text": "x", "refused": true}', {}, "^--text-column: .* no column 'answer'.* or name the one"),
        ("a.jsonl", '{"answer": "x", "refused": "partly"}', {}, "line 1: refused must be true or false.*--refusal-labels"),
        ("a.jsonl", '{"answer": "x", "refused": "refsal"}', {"refusal_labels": ["refusal"]}, "Did you mean 'refsal'"),
        ("a.jsonl", '{"answer": "x", "refused": true, "kind": "safe"}', {}, "kind must be harmful or benign.*--harmful-kinds"),
        ("a.csv", "answer,refused\nx,maybe", {}, "a.csv, line 2"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_understood_raise(tmp_path, name, text, options, message):
    """A label that is not understood and taken for "answered" lowers every rate in silence."""
    with pytest.raises(ValueError, match=message):
        read_labelled([write(tmp_path / name, text)], Columns(**options))


def test_written_entry_takes_the_place_of_its_set(tmp_path):
    """Two entries of one set, and the older may be the one that is shown."""
    path = tmp_path / "error.json"
    for entry in ({"set": "b", "n": 1}, {"set": "a", "n": 2}, {"set": "b", "n": 3}):
        write_error(path, entry)
    assert json.loads(path.read_text()) == [{"set": "a", "n": 2}, {"set": "b", "n": 3}]
    other = write(tmp_path / "results.json", '{"models": {}}')
    with pytest.raises(ValueError, match=r"results\.json.*not a list"):
        write_error(other, {"set": "a"})
    assert json.loads(other.read_text()) == {"models": {}}


def test_digest_is_of_the_file_s_bytes(tmp_path):
    """It ties a stated error to the answers it was measured on."""
    path = write(tmp_path / "a.jsonl", "text")
    assert digests([path]) == {"a.jsonl": hashlib.sha256(b"text").hexdigest()}
