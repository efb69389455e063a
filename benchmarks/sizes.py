"""Models of any size as shapes alone: which tensors they have, how they are split, and what an adapter changes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A Llama in bfloat16 with a head of its own, in shards of at most `shard_bytes`."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    shard_bytes: int = 5_000_000_000

    def modules(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer: (out, in)."""
        keys = self.hidden // self.heads * self.kv_heads
        shapes = dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (self.hidden, self.hidden))
        shapes |= dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (keys, self.hidden))
        shapes |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (self.ffn, self.hidden))
        return shapes | {"mlp.down_proj": (self.hidden, self.ffn)}

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the model's order."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for n in range(self.layers):
            for name, shape in self.modules().items():
                yield f"model.layers.{n}.{name}.weight", shape
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{n}.{name}.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    def targets(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """What the adapter changes: all linear modules."""
        for n in range(self.layers):
            for name, shape in self.modules().items():
                yield f"model.layers.{n}.{name}", shape

    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts with the shapes of DeepSeek-V3, in bfloat16; the adapter is on its attention."""

    layers: int = 61
    dense: int = 3
    experts: int = 256
    hidden: int = 7168
    vocabulary: int = 129_280
    shard_bytes: int = 5_000_000_000

    def attention(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer's attention: (out, in)."""
        shapes = {
            "q_a_proj": (1536, self.hidden),
            "q_b_proj": (24_576, 1536),
            "o_proj": (self.hidden, 16_384),
        }
        return shapes | {"kv_a_proj_with_mqa": (576, self.hidden), "kv_b_proj": (32_768, 512)}

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the model's order."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for n in range(self.layers):
            place = f"model.layers.{n}."
            for name, shape in self.attention().items():
                yield f"{place}self_attn.{name}.weight", shape
            yield f"{place}self_attn.q_a_layernorm.weight", (1536,)
            yield f"{place}self_attn.kv_a_layernorm.weight", (512,)
            yield from _mlp(f"{place}mlp.", 18_432 if n < self.dense else None, self)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{place}{name}.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    def targets(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """What the adapter changes."""
        for n in range(self.layers):
            for name, shape in self.attention().items():
                yield f"model.layers.{n}.self_attn.{name}", shape

    def config(self) -> dict[str, Any]:
        """As much of its config.json as a plan looks at."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


def _mlp(place: str, width: int | None, model: Experts) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A dense one of that width, or the router and its experts."""
    of = [""] if width else [f"experts.{n}." for n in range(model.experts)] + ["shared_experts."]
    if not width:
        yield f"{place}gate.weight", (model.experts, model.hidden)
    for inner in of:
        rows = width or 2048
        yield f"{place}{inner}gate_proj.weight", (rows, model.hidden)
        yield f"{place}{inner}up_proj.weight", (rows, model.hidden)
        yield f"{place}{inner}down_proj.weight", (model.hidden, rows)


def shards(model: Scale | Experts) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors as `save_pretrained` splits them."""
    found: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in model.tensors():
        more = 2 * math.prod(shape)
        if size and size + more > model.shard_bytes:
            found.append([])
            size = 0
        found[-1].append((name, shape))
        size += more
    return found


MB = 1_000_000
SCALES = {
    "tiny": Scale(hidden=128, layers=6, heads=4, kv_heads=2, ffn=384, vocabulary=512, shard_bytes=MB),
    "1": Scale(
        hidden=1536, layers=16, heads=12, kv_heads=2, ffn=4096, vocabulary=32_000, shard_bytes=250 * MB
    ),
    "4": Scale(
        hidden=2560, layers=26, heads=20, kv_heads=4, ffn=7168, vocabulary=32_000, shard_bytes=1000 * MB
    ),
    "16": Scale(hidden=4096, layers=32, heads=32, kv_heads=8, ffn=14_336, vocabulary=128_256),  # Llama-3-8B
    "141": Scale(hidden=8192, layers=80, heads=64, kv_heads=8, ffn=28_672, vocabulary=128_256),  # Llama-3-70B
}
