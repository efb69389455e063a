"""Trains the tiny base model, its tokenizer and the LoRA adapter: real ones, only small."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1024
LENGTH = 96
ROWS = 8

#: Called now and then with the step, the number of steps and the mean loss since the last call.
Tell = Callable[[int, int, float], None]


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that begins each text with <s>, as Llama's does."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=256, **names)


def base(words: PreTrainedTokenizerFast, texts: list[str], *, steps: int, tell: Tell) -> LlamaForCausalLM:
    """A Llama of about one million parameters, trained from nothing."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    _train(model, words, texts, steps=steps, rate=3e-3, tell=tell)
    return model


def save(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """As the Hub has it, the weights in two files."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=int(size * 0.6))
    words.save_pretrained(folder)


def adapter(base_id: str, words: PreTrainedTokenizerFast, texts: list[str], *, steps: int, tell: Tell):
    """A LoRA on every linear layer of the base, which is loaded from the Hub by its id."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_id), config)
    _train(model, words, texts, steps=steps, rate=1e-2, tell=tell)
    return model


def _train(model, words, texts, *, steps, rate, tell) -> None:
    """AdamW with a warm-up and a cosine: nothing special."""
    model.train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for step, batch in zip(range(1, steps + 1), _batches(words, texts), strict=False):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        if step == 1 or step % max(1, steps // 6) == 0:
            tell(step, steps, sum(losses) / len(losses))
            losses.clear()


def _batches(words, texts: list[str]) -> Iterator[torch.Tensor]:
    """Rows cut from the texts in a row, each text between <s> and </s>, shuffled anew each time round."""
    flat = [token for text in texts for token in [*words(text)["input_ids"], words.eos_token_id]]
    rows = torch.tensor(flat[: len(flat) // LENGTH * LENGTH]).view(-1, LENGTH)
    while True:
        yield from rows[torch.randperm(len(rows))].split(ROWS)
