"""A real training run with TRL's SFTTrainer: a chat model gets new special tokens, and the merged one has them too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.merge.oracle import read_tensors

ADDED = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WAYS: dict[str, dict[str, Any]] = {
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trainable_tokens": {"trainable_token_indices": {"embed_tokens": [384, 385]}},
    "embeddings_saved_by_peft": {},
}


def train(base: Path, folder: Path, *, more: dict[str, Any]) -> tuple[Any, Any]:
    """Two steps of SFT with two more tokens and a chat template that uses them."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    chat = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "The fox jumps"}]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "run"),
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            max_length=32,
            report_to=[],
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list([{"messages": chat}] * 4),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    return trainer.model.eval(), tokenizer


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        ("llama", "modules_to_save"),
        ("llama", "trainable_tokens"),
        ("llama", "embeddings_saved_by_peft"),
        ("llama_tied", "modules_to_save"),
        ("llama_tied", "embeddings_saved_by_peft"),  # TRL itself fails over trainable tokens on a tied head
    ],
)
def test_a_chat_model_with_new_tokens(
    way: str, architecture: str, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    base = base_of(architecture)
    live, tokenizer = train(base, tmp_path, more=WAYS[way])
    out, _ = merged(tmp_path / "adapter", base=str(base), validation="full")
    rows = json.loads((base / "config.json").read_text())["vocab_size"] + len(ADDED)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    assert read_tensors(out)["model.embed_tokens.weight"].shape[0] == rows
    mine = AutoTokenizer.from_pretrained(out)
    assert len(mine) == rows
    assert mine.chat_template == TEMPLATE
    chat = [{"role": "user", "content": "Hi there"}]
    ids = mine.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]
    assert {rows - 2, rows - 1} <= set(ids.flatten().tolist())
    assert mine.decode(ids[0]) == tokenizer.decode(ids[0])
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.no_grad():
        want, got = live(input_ids=ids).logits, model(input_ids=ids).logits
        before = AutoModelForCausalLM.from_pretrained(base).eval()(input_ids=ids.clamp(max=rows - 3)).logits
    assert float((want - got).abs().max()) < 2e-5
    assert float((want[..., : rows - 2] - before).abs().max()) > 0.01
