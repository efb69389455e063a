"""How to use the merged model: which Auto class of transformers fits its class, and examples for each kind of model.

Every line is ours: of what strangers wrote, only names of classes and of files are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection

CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
IMAGE_TEXT, SPEECH = "AutoModelForImageTextToText", "AutoModelForSpeechSeq2Seq"
# Families whose class is called …ForConditionalGeneration, which alone says nothing; others are imported by their name.
FAMILIES = {
    SEQ2SEQ: (
        "T5", "MT5", "UMT5", "LongT5", "SwitchTransformers", "Bart", "MBart", "PLBart", "Pegasus", "BigBirdPegasus",
        "M2M100", "NllbMoe", "Blenderbot", "LED", "FSMT", "Mvp", "ProphetNet",
    ),
    SPEECH: ("Whisper", "Speech2Text", "Moonshine"),
    IMAGE_TEXT: (
        "Aria", "AyaVision", "Blip", "Chameleon", "Emu3", "FastVlm", "Florence2", "Gemma3", "Gemma4", "Glm4", "GotOcr2",
        "Idefics", "InstructBlip", "InternVL", "Janus", "Kosmos2", "Lfm2Vl", "Llama4", "Llava", "Mistral3", "Mllama",
        "Ovis2", "PaliGemma", "PerceptionLM", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3_5", "SmolVLM", "VideoLlava",
        "VipLlava",
    ),
}  # fmt: skip
AUDIO = ("Data2VecAudio", "Hubert", "SEW", "UniSpeech", "Wav2Vec2", "WavLM")
AUDIO_CLASSIFIER = "AutoModelForAudioClassification"
BY_ENDING = (
    ("ForCausalLM", CAUSAL),
    ("LMHeadModel", CAUSAL),
    ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    ("ForTokenClassification", "AutoModelForTokenClassification"),
    ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
    ("ForMaskedLM", "AutoModelForMaskedLM"),
    ("ForMultipleChoice", "AutoModelForMultipleChoice"),
    ("ForImageClassification", "AutoModelForImageClassification"),
    ("ForVideoClassification", "AutoModelForVideoClassification"),
    ("ForAudioClassification", AUDIO_CLASSIFIER),
    ("ForSpeechSeq2Seq", SPEECH),
    ("ForImageTextToText", IMAGE_TEXT),
    ("ForSeq2SeqLM", SEQ2SEQ),
    ("ForCTC", "AutoModelForCTC"),
)
BY_TASK = {
    "CAUSAL_LM": CAUSAL,
    "SEQ_2_SEQ_LM": SEQ2SEQ,
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
CLASS = re.compile(r"[A-Z][A-Za-z0-9_]{1,99}", re.ASCII)
# One of several models of its type, of which AutoModel knows but one.
PART = re.compile(r"Encoder|Decoder|Text|Vision|Audio|Heads|WithLMHead|WithProjection|MTModel")
UNKNOWN = re.compile(
    r"\w+WithLMHeadModel|Mistral4ForCausalLM", re.ASCII
)  # to the Auto class that their names suggest
PIPELINES = {
    "AutoModelForSequenceClassification": ("text-classification", '"A sentence to classify."'),
    "AutoModelForTokenClassification": ("token-classification", '"Ada Lovelace lived in London."'),
    "AutoModelForImageClassification": ("image-classification", '"picture.png"'),
    "AutoModelForVideoClassification": ("video-classification", '"film.mp4"'),
    AUDIO_CLASSIFIER: ("audio-classification", '"sound.wav"'),
    "AutoModelForCTC": ("automatic-speech-recognition", '"speech.wav"'),
    SPEECH: ("automatic-speech-recognition", '"speech.wav"'),
    IMAGE_TEXT: ("image-text-to-text", 'text="What is this?", images="picture.png", max_new_tokens=100'),
}
TOKENIZER = re.compile(r"(tokenizer|vocab|spiece|sentencepiece|merges|tekken)[\w.-]*", re.ASCII)
PROCESSOR = frozenset({"preprocessor_config.json", "processor_config.json"})
BEFORE = {"AutoProcessor": "processor", "AutoTokenizer": "tokenizer"}
CHAT = (
    'messages = [{"role": "user", "content": "Hello, who are you?"}]',
    "inputs = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
    ").to(model.device)",
)
CHAT_IMAGE = (
    'picture = {"type": "image", "path": "picture.png"}',
    'messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]',
)
CHAT_GIVEN = "text=messages, max_new_tokens=100"
TEXT = ('inputs = tokenizer("Once upon a time", return_tensors="pt").to(model.device)',)
GENERATE = (
    "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))",
)
FEATURES = ("vectors = model(**inputs).last_hidden_state  # one for each token",)
TGI = "ghcr.io/huggingface/text-generation-inference:latest"


def auto_class(model_class: str, *, task_type: str | None) -> str:
    """The name of the Auto class of transformers, or of the class itself where none is sure to lead to it.

    Whatever a config says, it is an identifier.
    """
    if model_class.endswith("ForConditionalGeneration"):
        found = [auto for auto, names in FAMILIES.items() if model_class.startswith(names)]
        known = found[0] if found else None
    elif UNKNOWN.fullmatch(model_class):
        known = None
    elif model_class.startswith(AUDIO) and model_class.endswith("ForSequenceClassification"):
        known = AUDIO_CLASSIFIER
    else:
        known = next((auto for ending, auto in BY_ENDING if model_class.endswith(ending)), None)
    if known is not None:
        return known
    if not CLASS.fullmatch(model_class):
        return BY_TASK.get(task_type or "", "AutoModel")
    whole = model_class.endswith("Model") and not PART.search(model_class)
    return "AutoModel" if whole else model_class


def examples(model_class: str, *, task_type: str | None, files: Collection[str], place: str) -> list[str]:
    """Markdown with fenced blocks that load the model, use it and serve it.

    `place` is a repo id, or a path that begins with `./`. `files`: the names of the small files beside the weights.
    """
    model = auto_class(model_class, task_type=task_type)
    lines = ["With transformers:", ""]
    if model in PIPELINES:
        lines += [*_block("python", _pipeline(model, files, place)), "", "or the model itself:", ""]
    lines += _block("python", _transformers(model, files, place))
    if "modules.json" in files:
        lines += ["", "With sentence-transformers:", "", *_block("python", _sentences(place))]
    if model in (CAUSAL, IMAGE_TEXT):
        lines += ["", "With vLLM, where it knows this architecture:", ""]
        lines += _block("shell", [f'vllm serve "{place}"'])
    if model in (CAUSAL, SEQ2SEQ):
        lines += ["", "With text-generation-inference (TGI), where it knows this architecture:", ""]
        lines += _block("shell", _tgi(place))
    return lines


def _transformers(model: str, files: Collection[str], place: str) -> list[str]:
    before = _before(files)
    names = sorted(name for name in (model, before) if name)
    load = [f'{BEFORE[before]} = {before}.from_pretrained("{place}")'] if before else []
    load += [f'model = {model}.from_pretrained("{place}", dtype="auto", device_map="auto")']
    lines = [f"from transformers import {', '.join(names)}", "", *load]
    return [*lines, *(["", *use] if before == "AutoTokenizer" and (use := _use(model, files)) else [])]


def _pipeline(model: str, files: Collection[str], place: str) -> list[str]:
    task, given = PIPELINES[model]
    chat = CHAT_IMAGE if model == IMAGE_TEXT and "chat_template.jinja" in files else ()
    return [
        "from transformers import pipeline",
        "",
        f'pipe = pipeline("{task}", model="{place}", device_map="auto")',
        *chat,
        f"print(pipe({CHAT_GIVEN if chat else given}))",
    ]


def _before(files: Collection[str]) -> str | None:
    """What comes before the model; None where the model has none with it."""
    if not PROCESSOR.isdisjoint(files):
        return "AutoProcessor"  # also where there is only an image processor, or a feature extractor
    return "AutoTokenizer" if any(TOKENIZER.fullmatch(name) for name in files) else None


def _use(model: str, files: Collection[str]) -> list[str]:
    if model == CAUSAL:
        return [*(CHAT if "chat_template.jinja" in files else TEXT), *GENERATE]
    if model == SEQ2SEQ:
        return [*TEXT, *GENERATE]
    return [*TEXT, *FEATURES] if model == "AutoModel" else []


def _sentences(place: str) -> list[str]:
    return [
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{place}")',
        'vectors = model.encode(["A sentence.", "Another one."])',
    ]


def _tgi(place: str) -> list[str]:
    local = place.startswith("./")
    mount = f' -v "$PWD/{place[2:]}:/model"' if local else ""
    return [
        f"docker run --gpus all --shm-size 1g -p 8080:80 -e HF_TOKEN{mount} \\",
        f"  {TGI} --model-id {'/model' if local else place}",
    ]


def _block(language: str, lines: list[str]) -> list[str]:
    return [f"```{language}", *lines, "```"]
