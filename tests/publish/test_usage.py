"""How the card says to use a model: the Auto class that leads to it, for all of transformers, and examples that run."""

import re

import pytest
import transformers

from bot.publish import usage
from tests.publish.test_model_card import golden
from tests.tiny.models import save_base


@pytest.mark.parametrize(
    ("model_class", "task", "auto"),
    [
        ("LlamaForCausalLM", "CAUSAL_LM", "AutoModelForCausalLM"),
        ("GPT2LMHeadModel", None, "AutoModelForCausalLM"),
        ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
        ("WhisperForConditionalGeneration", None, "AutoModelForSpeechSeq2Seq"),
        ("Qwen2_5_VLForConditionalGeneration", "CAUSAL_LM", "AutoModelForImageTextToText"),
        ("BertForSequenceClassification", "SEQ_CLS", "AutoModelForSequenceClassification"),
        ("BertModel", "FEATURE_EXTRACTION", "AutoModel"),
        ("AutoModelForCausalLM", "CAUSAL_LM", "AutoModelForCausalLM"),
        ("__import__('os')", None, "AutoModel"),
    ],
)
def test_snippet_uses_the_right_auto_class(model_class, task, auto):
    assert usage.auto_class(model_class, task_type=task) == auto
    files = ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json", "modules.json")
    for count in range(len(files) + 1):
        told = usage.examples(model_class, task_type=task, files=files[:count], place="alice/cat-7b")
        for block in fenced(told, "python"):
            compile(block, "snippet", "exec")
            [line] = re.findall(r"^from transformers import (.*)", block, re.MULTILINE) or ["pipeline"]
            assert all(hasattr(transformers, name) for name in line.split(", "))


def fenced(lines, language):
    """The content of the fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", "\n".join([*lines, ""]), re.MULTILINE | re.DOTALL)


def test_every_class_of_transformers_gets_an_auto_class_that_leads_to_it():
    """Of all that transformers has in the mappings of which a card speaks."""
    kinds = {auto for _, auto in usage.BY_ENDING} | {"AutoModel", *usage.FAMILIES}
    mappings = {kind: getattr(transformers, kind)._model_mapping._model_mapping for kind in kinds}
    seen = 0
    for mapping in mappings.values():
        for model_type, classes in mapping.items():
            for name in [classes] if isinstance(classes, str) else classes:
                told = usage.auto_class(name, task_type=None)
                led = mappings[told].get(model_type, ()) if told in mappings else told
                assert name == led or (isinstance(led, tuple) and name in led), (model_type, name, told)
                seen += 1
    assert seen > 500


def test_how_to_use_each_kind_of_model():
    text = ("tokenizer.json",)
    kinds = {
        "a causal model with a chat template": ("LlamaForCausalLM", (*text, "chat_template.jinja")),
        "a causal model": ("GPT2LMHeadModel", text),
        "a seq2seq model": ("T5ForConditionalGeneration", text),
        "a classifier": ("BertForSequenceClassification", text),
        "a classifier without a tokenizer": ("BertForSequenceClassification", ()),
        "embeddings": ("BertModel", (*text, "modules.json")),
        "an encoder": ("BertModel", text),
        "images": ("ViTForImageClassification", ("preprocessor_config.json",)),
        "images and text": (
            "Qwen2_5_VLForConditionalGeneration",
            (*text, "preprocessor_config.json", "chat_template.jinja"),
        ),
        "images and text without a chat": (
            "BlipForConditionalGeneration",
            (*text, "preprocessor_config.json"),
        ),
        "speech": ("WhisperForConditionalGeneration", (*text, "preprocessor_config.json")),
        "sounds": ("Wav2Vec2ForCTC", (*text, "preprocessor_config.json")),
        "a class that no Auto class is sure to lead to": ("T5EncoderModel", text),
    }
    lines = []
    for kind, (model_class, files) in kinds.items():
        told = usage.examples(model_class, task_type=None, files=files, place="alice/cat-7b")
        lines += [f"# {kind}", "", *told, ""]
    local = usage.examples("LlamaForCausalLM", task_type=None, files=text, place="./path/to/this/folder")
    golden("usage.md", "\n".join([*lines, "# a local folder", "", *local, ""]))


@pytest.mark.parametrize("architecture", ["llama", "t5", "bert_seqcls", "bert_tokcls", "bert_model"])
def test_the_examples_run(architecture, tmp_path):
    place = save_base(tmp_path / "model", architecture)
    [model_class] = transformers.AutoConfig.from_pretrained(place).architectures
    files = {path.name for path in place.iterdir()}
    blocks = fenced(usage.examples(model_class, task_type=None, files=files, place=str(place)), "python")
    for block in blocks:
        exec(compile(block, "example", "exec"), {})
    assert "tokenizer" in blocks[-1]
