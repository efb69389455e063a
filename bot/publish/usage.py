"""The snippet that loads the merged model: which Auto class of transformers fits a model class."""

from __future__ import annotations

import re

SEQ2SEQ = ("T5", "MT5", "UMT5", "LongT5", "Bart", "MBart", "Pegasus", "Marian", "M2M100", "BlenderBot", "Led")
SPEECH = ("Whisper", "Speech2Text", "Moonshine", "Parakeet")
BY_ENDING = (
    ("ForCausalLM", "AutoModelForCausalLM"),
    ("LMHeadModel", "AutoModelForCausalLM"),
    ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    ("ForTokenClassification", "AutoModelForTokenClassification"),
    ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
    ("ForMaskedLM", "AutoModelForMaskedLM"),
    ("ForImageClassification", "AutoModelForImageClassification"),
    ("ForSpeechSeq2Seq", "AutoModelForSpeechSeq2Seq"),
    ("ForImageTextToText", "AutoModelForImageTextToText"),
    ("ForSeq2SeqLM", "AutoModelForSeq2SeqLM"),
    ("ForCTC", "AutoModelForCTC"),
)
BY_TASK = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
PROCESSORS = {
    "AutoModelForImageClassification": "AutoImageProcessor",
    "AutoModelForImageTextToText": "AutoProcessor",
    "AutoModelForSpeechSeq2Seq": "AutoProcessor",
    "AutoModelForCTC": "AutoProcessor",
}


def auto_class(model_class: str, *, task_type: str | None) -> str:
    """The name of an Auto class of transformers; only names of ours come out, whatever a config says."""
    if model_class.endswith("ForConditionalGeneration"):
        return _generative(model_class, task_type)
    found = next((auto for ending, auto in BY_ENDING if model_class.endswith(ending)), None)
    return found or BY_TASK.get(task_type or "", "AutoModel")


def snippet(model_class: str, *, task_type: str | None, place: str) -> list[str]:
    """The lines of a fenced Python block that loads the model from `place`, a repo id or a path of ours."""
    model = auto_class(model_class, task_type=task_type)
    processor = PROCESSORS.get(model, "AutoTokenizer")
    return [
        "```python",
        f"from transformers import {', '.join(sorted((model, processor)))}",
        "",
        f'{_variable(processor)} = {processor}.from_pretrained("{place}")',
        f'model = {model}.from_pretrained("{place}", dtype="auto", device_map="auto")',
        "```",
    ]


def _generative(model_class: str, task_type: str | None) -> str:
    if model_class.startswith(SPEECH):
        return "AutoModelForSpeechSeq2Seq"
    if model_class.startswith(SEQ2SEQ) or task_type == "SEQ_2_SEQ_LM":
        return "AutoModelForSeq2SeqLM"
    return "AutoModelForImageTextToText"


def _variable(processor: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", processor.removeprefix("Auto")).lower()
