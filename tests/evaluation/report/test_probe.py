# SPDX-License-Identifier: Apache-2.0
"""What the base knows stands beside what each adapter shows, in every form of the report, and nowhere where it is not known."""

import re

import pytest

from hf_ckt.evaluation.report import readme_block
from hf_ckt.evaluation.report.findings import Findings
from hf_ckt.evaluation.report.markdown import markdown
from hf_ckt.evaluation.report.page import html_page
from hf_ckt.evaluation.report.plots import draw_plots
from hf_ckt.evaluation.report.probe import NOTE, bound_sentence
from hf_ckt.evaluation.report.tables import headline_table, score_table
from tests.evaluation.report import made_up

SENTENCE = (
    "What the base knows: a probe of its hidden states tells these harmful prompts from the benign ones with an AUROC of 0.950 "
    "[0.900, 0.980]. Of that, the refusal log-odds show: base 0.610 (-0.340 [-0.420, -0.260], less), SFT 0.570 (-0.380 "
    "[-0.460, -0.300], less) and full objective 0.910 (-0.040 [-0.080, 0.010], no clear difference). " + NOTE
)


def results():
    """The made-up results with a probe of the base of all three models."""
    found = made_up.results()
    area = {"value": 0.95, "low": 0.9, "high": 0.98, "n": 120, "interval": "clustered"}
    noisy = {"value": 0.85, "low": 0.7, "high": 0.92, "n": 48, "interval": "clustered"}
    found["models"]["base"]["scores"] |= {"probe_auroc": area, "probe_auroc_noise": noisy}
    away = {"base": (-0.34, -0.42, -0.26), "sft": (-0.38, -0.46, -0.3), "full": (-0.04, -0.08, 0.01)}
    found["probe"] = {
        **{"name": "aligned", "digest": "0123", "layers": [15, 20], "facts": {"C": 0.01}, "model": "base"},
        "prompts_compared": True,
        "differences": {
            name: {"refusal_auroc": dict(zip(("difference", "low", "high"), three, strict=True))}
            for name, three in away.items()
        },
    }
    return found


def _line(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return found


def test_markdown_has_the_bound_beside_each_area():
    """An AUROC of 0.57 alone says nothing of whether more was to be had."""
    assert bound_sentence(results()) == SENTENCE
    text = markdown(Findings(results()))
    assert SENTENCE.replace("<", "&lt;") in text and text.index(SENTENCE) < text.index("## All scores")
    assert _line(headline_table(results()), "AUROC") == (
        "| AUROC of the refusal log-odds (more is better, chance 0.5) | 0.610 [0.530, 0.690] n=120, base's probe 0.950 [0.900, "
        "0.980] | 0.570 [0.490, 0.650] n=120, not told from chance, base's probe 0.950 [0.900, 0.980] | 0.910 [0.830, 0.990] "
        "n=120, base's probe 0.950 [0.900, 0.980] |"
    )
    table = score_table(results())
    assert _line(table, "AUROC of the refusal log-odds, under noise").count("base's probe 0.850 [0.700, 0.920]") == 3
    assert "probe" not in _line(table, "AUROC of the refusal log-odds, under jailbreak templates")
    assert _line(table, "AUROC of a probe of the base (") == (
        "| AUROC of a probe of the base (more is better, chance 0.5) | 0.950 [0.900, 0.980] n=120 |  |  |"
    )
    assert "| boundary probe | name aligned, digest 0123, layers 15, 20, prompts compared yes, C 0.01 |" in text
    assert SENTENCE in readme_block(results(), "out")


def test_model_on_another_base_has_no_bound():
    """The probe of one base says nothing of what another one knows."""
    found = results()
    del found["probe"]["differences"]["full"]
    line = _line(headline_table(found), "AUROC")
    assert line.count("base's probe") == 2 and "base's probe" not in line.split("|")[-2]
    assert "full objective" not in bound_sentence(found) and "base 0.610 (" in bound_sentence(found)
    found["probe"]["differences"]["pooled"] = {}
    found["pooled"] = {"pooled": made_up.pooled(found)["SFT, all seeds"]}
    text = markdown(Findings(found))
    assert "base's probe" in text[text.index("## Several training seeds pooled") :].split("## Safety against")[0]


def test_page_has_a_line_and_words_in_the_card_of_the_area():
    """Two markers without the line between them and 1 look as far from perfect as they are from what is known."""
    page = html_page(Findings(results(), made_up.rows(), made_up.lm_eval()))
    cards = re.findall(r'<div class="card">.*?</table>.*?</div>', page, re.DOTALL)
    with_line = [card for card in cards if 'class="bound"' in card]
    assert len(with_line) == 1 and "AUROC of the refusal log-odds" in with_line[0]
    # From 0 to 1, so 0.95 lies at 95 %.
    lines = re.findall(r'<line class="bound" x1="([\d.%]+)" x2="([\d.%]+)"', with_line[0])
    assert lines == [("95.00%", "95.00%")] * 3
    assert with_line[0].count("base&#39;s probe 0.950 [0.900, 0.980]") == 3
    assert "the dashed one is a probe of the base, 0.950." in with_line[0]
    assert page.count("<p>What the base knows: a probe of its hidden states") == 1
    sheet = page[page.index('id="scores"') : page.index('id="pairs"')]
    assert sheet.count("base&#39;s probe") == 6


def test_plot_has_the_line_and_says_what_it_is(tmp_path):
    """A dashed line that nothing names is taken for another chance level."""
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_plots(results(), tmp_path / "with")
        draw_plots(made_up.results(), tmp_path / "without")
    one, other = ((tmp_path / name / "headline.svg").read_text(encoding="utf-8") for name in ("with", "without"))
    assert "Dashed: a probe of the base." in " ".join(re.sub(r"<[^>]*>", " ", one).split())
    assert one.count("stroke-dasharray") == other.count("stroke-dasharray") + 1
    same = [(tmp_path / name / "balance.svg").read_bytes() for name in ("with", "without")]
    assert same[0] == same[1]


def test_reports_without_a_probe_have_no_trace_of_one():
    """An empty sentence, rule or row would change every report that was written before there were probes."""
    findings = Findings(made_up.results(), made_up.rows(), made_up.lm_eval())
    for text in (markdown(findings), html_page(findings), readme_block(findings.results, "out")):
        assert "probe" not in text.lower() and 'class="bound"' not in text
