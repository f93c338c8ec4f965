# SPDX-License-Identifier: Apache-2.0
"""From a file name to a part."""

import re
import sys
import types

import pytest

from hf_ckt import discovery
from hf_ckt.discovery import FAMILIES, describe_part, load_part, names_for_role, part_name, part_names, part_settings
from hf_ckt.losses.base import PAIRS, ContrastiveLoss, Divergence, TokenLoss

# What is said of these by name says nothing of a loss that is added.
KNOWN = {"nll", "dft", "trusted_nll", "info_nce", "relational_kl", "adapter_l2", "reference_kl", "forward_kl"}
KNOWN |= {"reverse_kl", "skew_forward_kl", "skew_reverse_kl", "total_variation"}
KNOWN |= {"consistency_kl", "symmetric_kl", "jensen_shannon"}


def every_part() -> list[tuple[str, str]]:
    return [(family, name) for family in FAMILIES for name in part_names(family)]


@pytest.mark.parametrize(("family", "name"), every_part())
def test_every_file_gives_a_part_that_knows_its_name(family, name):
    """A part reported under another name is looked for in the wrong file, config and plot."""
    cls = load_part(family, name)
    assert part_name(cls) == name
    described = describe_part(cls)
    assert described["family"] == family and described["name"] == name
    assert described["summary"], "the docstring begins with what the part does"


@pytest.mark.parametrize("name", part_names("losses"))
def test_every_loss_names_its_whole_source(name):
    """`hf-ckt parts` and the card print it; cut off at a line break, the address would be missing."""
    source = describe_part(load_part("losses", name))["source"]
    assert source and "\n" not in source
    # A part that is added may come from elsewhere than a paper of the Hub; those that are known come from there.
    assert "https://huggingface.co/papers/" in source or name == "nll" or (name not in KNOWN and "https://" in source)
    # Read off the docstring another way: up to the next paragraph or the next of the words that begin one.
    text = re.split(r"\n\s*\n|\n *(?:Related|Differs):", load_part("losses", name).__doc__.partition("Source:")[2])[0]
    assert all(address in source for address in re.findall(r"https://\S*\w", text))


def test_part_of_an_instance_has_the_same_name():
    """The log's keys come from instances, the config's names from files."""
    assert part_name(load_part("losses", "forward_kl")(temperature=2.0)) == "forward_kl"


def test_misspelt_part_gets_the_nearest_name():
    """A bare KeyError sends the user to the source."""
    with pytest.raises(ValueError, match=r"loss: unknown name 'forwrd_kl'\. Did you mean 'forward_kl'\?.*reverse_kl"):
        load_part("losses", "forwrd_kl")
    with pytest.raises(ValueError, match=r"metric: unknown name 'entropi'\. Did you mean 'entropy'\?"):
        load_part("metrics", "entropi")
    with pytest.raises(ValueError, match=r"family: unknown name 'loses'\. Did you mean 'losses'\?"):
        part_names("loses")


@pytest.mark.parametrize("count", [0, 2])
def test_file_with_none_or_two_parts_is_refused(count, monkeypatch):
    """The first of two by chance would be the part, and the other one dead code."""
    module = types.ModuleType("hf_ckt.losses.doubtful")
    for i in range(count):
        setattr(module, f"Number{i}Loss", type(f"Number{i}Loss", (), {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(discovery, "part_names", lambda family: ["doubtful"])
    with pytest.raises(TypeError, match=rf"doubtful: must hold exactly one public \*Loss class, has {count}"):
        load_part.__wrapped__("losses", "doubtful")


def test_roles_list_the_losses_that_can_serve_them():
    """A loss offered for a role whose views it cannot read fails in the first step."""
    assert KNOWN & set(names_for_role("task")) == {"nll", "dft", "trusted_nll"}
    assert {"info_nce", "relational_kl"} <= set(names_for_role("contrastive"))
    assert {"adapter_l2", "reference_kl"} <= set(names_for_role("regularization"))
    assert "forward_kl" in names_for_role("distillation") and "forward_kl" not in names_for_role("consistency")
    assert KNOWN & set(names_for_role("consistency")) == {"consistency_kl", "symmetric_kl", "jensen_shannon"}
    assert names_for_role("no such role") == []


@pytest.mark.parametrize("name", part_names("losses"))
def test_loss_is_offered_only_for_roles_whose_views_it_reads(name):
    """The same of every loss, also of those that are added later."""
    cls = load_part("losses", name)
    for role in cls.roles:
        if issubclass(cls, Divergence):
            assert cls(role=role).needs == set(PAIRS[role])
        elif issubclass(cls, TokenLoss):
            assert role == "task" and cls().needs <= {"student", "teacher"}
        else:
            assert role == ("contrastive" if issubclass(cls, ContrastiveLoss) else "regularization")


def test_role_is_no_setting_of_the_user():
    """Set by hand it would send a loss to the wrong views; the config's prefix says it already."""
    settings = part_settings(load_part("losses", "jensen_shannon"))
    assert set(settings) == {"temperature", "beta"}
    assert describe_part(load_part("losses", "jensen_shannon"))["settings"] == {"temperature": 1.0, "beta": 0.5}
    assert part_settings(load_part("metrics", "entropy")) == {}
