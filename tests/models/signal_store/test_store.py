# SPDX-License-Identifier: Apache-2.0
"""A store gives back what was written, for the document that it was written for, or says why not."""

import json

import pytest
import torch

from hf_ckt.models.batch import Batch
from hf_ckt.models.signal_store.documents import documents_of
from hf_ckt.models.signal_store.facts import digest_of, store_facts
from hf_ckt.models.signal_store.reader import StoreReader
from hf_ckt.models.signal_store.writer import StoreWriter, plan_shards, write_head
from hf_ckt.views import LinearHead

TEXTS = [[5, 6, 7, 8], [9, 5, 6], [7, 7, 7, 7, 7], [6, 5]]
# The first token of an answer: those before it do not count.
BEGINS = [2, 1, 3, 1]


def padded(order, side="right"):
    width = max(len(TEXTS[one]) for one in order)
    ids, labels, mask = (torch.full((len(order), width), value) for value in (0, -100, 0))
    for row, one in enumerate(order):
        length = len(TEXTS[one])
        start = 0 if side == "right" else width - length
        ids[row, start : start + length] = torch.tensor(TEXTS[one])
        labels[row, start + BEGINS[one] : start + length] = torch.tensor(TEXTS[one])[BEGINS[one] :]
        mask[row, start : start + length] = 1
    return Batch({"input_ids": ids, "attention_mask": mask}, labels)


def in_one_row(order):
    ids = torch.tensor([token for one in order for token in TEXTS[one]])[None]
    positions = torch.tensor([place for one in order for place in range(len(TEXTS[one]))])[None]
    counts = torch.tensor([place >= BEGINS[one] for one in order for place in range(len(TEXTS[one]))])[None]
    return Batch({"input_ids": ids, "position_ids": positions}, torch.where(counts, ids, -100))


def states_of(one):
    """A row for each kept position, which names document and position."""
    return torch.tensor([[one, place, 0.5] for place in range(BEGINS[one] - 1, len(TEXTS[one]) - 1)])


def write(folder, stop_after=None, dtype=torch.float32):
    documents = documents_of(padded(range(4)))
    counts = [document.kept_count for document in documents]
    keys = [document.key("print") for document in documents]
    shards = plan_shards(counts, 3)
    facts = store_facts(
        kind="states",
        dtype="float32",
        teachers={"": {"fingerprint": "print", **write_head(folder, LinearHead(torch.eye(3)))}},
        tokenizer="t",
        chat_template=None,
        max_length=None,
        shards=len(shards),
        rows=digest_of(b"".join(keys)),
    )
    writer = StoreWriter(folder, facts)
    for number in writer.missing()[:stop_after]:
        own = shards[number]
        states = torch.cat([states_of(one) for one in own])
        writer.write(number, "", [keys[one] for one in own], [counts[one] for one in own], {"states": states})
    return writer


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1], [2, 2, 0]])
@pytest.mark.parametrize("layout", [padded, lambda order: padded(order, "left"), in_one_row])
def test_lookup_finds_each_document_in_every_layout(layout, order, tmp_path):
    """States of another document, or moved by a position, teach noise."""
    write(tmp_path).finish()
    found = StoreReader(tmp_path).look_up(layout(order))
    assert found.keys() == {"states"}
    assert torch.equal(found["states"], torch.cat([states_of(one) for one in order]))


def test_a_document_of_other_kept_positions_is_another(tmp_path):
    """The same text with another part of it trained on has other positions."""
    write(tmp_path).finish()
    batch = padded([0])
    batch.labels[0, 1] = 6
    other = Batch(batch.inputs, batch.labels)
    reader = StoreReader(tmp_path)
    assert len(reader.missing(documents_of(other))) == 1
    with pytest.raises(ValueError, match=r"nothing on 1 of 1 documents .* ids \[5, 6, 7, 8\]"):
        reader.look_up(other)
    assert reader.look_up(other, strict=False)["states"].isnan().all()


def test_a_store_that_was_cut_off_goes_on(tmp_path):
    """Starting anew would run the teacher twice; leaving out what was cut off would leave rows without states."""
    write(tmp_path / "whole").finish()
    writer = write(tmp_path / "cut", stop_after=1)
    assert len(writer.missing()) == 1
    with pytest.raises(ValueError, match="is not finished"):
        StoreReader(tmp_path / "cut")
    (tmp_path / "cut" / ".shard-00001.safetensors.17.tmp").write_bytes(b"half")
    (tmp_path / "cut" / ".tmpbUUdXE").write_bytes(b"")  # as safetensors names what it writes aside
    write(tmp_path / "cut").finish()
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_flipped_bit_is_named_in_every_file_and_mended(tmp_path):
    """A damaged disk or copy would teach noise, and no loss shows it."""
    write(tmp_path).finish()
    whole = files(tmp_path)
    for name, content in whole.items():
        if name == "index.json":  # holds the checksums
            continue
        for place in (0, len(content) // 2, len(content) - 2):
            changed = bytearray(content)
            changed[place] ^= 1
            (tmp_path / name).write_bytes(bytes(changed))
            with pytest.raises(ValueError, match=f"{name.split('.')[0]}.* is missing or not what was written"):
                StoreReader(tmp_path)
            write(tmp_path).finish()
            assert files(tmp_path) == whole


def test_a_store_is_not_continued_with_another_teacher(tmp_path):
    """Half of the rows would be taught by one, half by the other."""
    write(tmp_path, stop_after=1)
    facts = json.loads((tmp_path / "facts.json").read_text()) | {"dtype": "int8"}
    with pytest.raises(ValueError, match="was begun with another dtype"):
        StoreWriter(tmp_path, facts)


def test_folder_without_a_store_is_named(tmp_path):
    """A folder by another name would be an empty cache."""
    with pytest.raises(ValueError, match=r"teacher_cache: .* has no facts\.json"):
        StoreReader(tmp_path)
