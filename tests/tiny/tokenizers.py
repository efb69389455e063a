"""Tiny real tokenizers from a few sentences: byte-level BPE (GPT-2 style) and WordPiece (BERT style).

The ids of the special tokens are the same in every folder, so that model configs can name them.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Kind = Literal["bpe", "wordpiece"]

VOCAB_SIZE = 384
#: In id order. BERT's own names for WordPiece; Llama's names, plus Qwen2-VL's and LLaVA's markers, for BPE.
BPE_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<vision_start>", "<vision_end>", "<video>")
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "An adapter is a small change to a large model; merging folds the change into the weights.",
    "Once the merge is done, the merged model must answer just as the adapter did.",
    "What is the capital of France? The capital of France is Paris.",
    "def merge(base, adapter):\n    return base + adapter.scale * (adapter.b @ adapter.a)\n",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "El rápido zorro marrón salta sobre el perro perezoso.",
    "Le renard brun saute par-dessus le chien paresseux.",
    "Быстрая лиса прыгает через ленивую собаку.",
    "敏捷的棕色狐狸跳过了懒狗。",
    "すばやい茶色の狐がのろまな犬を飛び越える。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "1 + 2 = 3, 10 % 4 == 2, and 3.14159 is nearly pi.",
)


def train_tokenizer(
    folder: Path, *, vocab_size: int = VOCAB_SIZE, chat_template: str | None = None, kind: Kind = "bpe"
) -> PreTrainedTokenizerBase:
    """Train a tokenizer of exactly `vocab_size` entries on SENTENCES and save it to `folder`."""
    tokenizer = _bpe(vocab_size) if kind == "bpe" else _wordpiece(vocab_size)
    if kind == "bpe":
        names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        names["mask_token"] = "[MASK]"
    fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=64, **names
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return fast


def _bpe(vocab_size: int) -> Tokenizer:
    """A GPT-2 style tokenizer: every byte has an entry, so any text survives the round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BPE_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _wordpiece(vocab_size: int) -> Tokenizer:
    """A BERT style tokenizer: lower case, `[CLS] text [SEP]`. Text in unknown letters becomes `[UNK]`."""
    vocab = {piece: index for index, piece in enumerate(_wordpieces(vocab_size))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _wordpieces(vocab_size: int) -> list[str]:
    """Specials, letters, then the commonest words and endings.

    Written out, as the library's WordPieceTrainer breaks ties differently from one call to the next.
    """
    text = normalizers.BertNormalizer(lowercase=True).normalize_str(" ".join(SENTENCES))
    words = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
    letters = sorted({letter for word in words for letter in word})
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    common = Counter(word for word in words if len(word) > 1)
    common.update(f"##{word[cut:]}" for word in words for cut in range(1, len(word) - 1))
    longest = sorted(common, key=lambda piece: (-common[piece], piece))
    pieces = [*WORDPIECE_SPECIALS, *letters, *inner, *longest][:vocab_size]
    if len(pieces) < vocab_size:
        raise ValueError(f"the sentences give {len(pieces)} pieces only, fewer than {vocab_size}")
    return pieces
