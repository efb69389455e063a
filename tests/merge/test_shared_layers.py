"""Layers that share one block, stored once: the adapter has factors of its own for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Zamba2Config, Zamba2ForCausalLM

from tests.merge.training import BATCH, distance
from tests.tiny.adapters import live, save_adapter
from tests.tiny.architectures import DECODER
from tests.tiny.models import fill, load, logits


def test_each_layer_gets_its_own_merged_block(merged: Callable, tmp_path: Path) -> None:
    """The base has the block in layer 1 alone, which says nothing about how many layers there are."""
    sizes: dict[str, Any] = DECODER | {"num_hidden_layers": 4, "num_key_value_heads": 4, "num_mem_blocks": 1}
    sizes |= {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "mamba_headdim": 8}
    sizes |= {"n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 4, "tie_word_embeddings": True}
    model: Any = Zamba2ForCausalLM(Zamba2Config(**sizes))
    fill(model, seed=0)
    model.save_pretrained(tmp_path / "base")
    config = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "in_proj"]}
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", config=config)
    want = logits(live(tmp_path / "base", adapter), BATCH)
    out, plan = merged(adapter)
    assert float((logits(load(tmp_path / "base"), BATCH) - want).abs().max()) > 0.05
    assert distance(out, want) < 5e-5
    assert any(a.name.startswith("model.layers.3.shared_transformer") for a in plan.added)
