"""Every PEFT type: merged, or refused with its reason. A test compares this table with the installed PEFT."""

from __future__ import annotations

MERGED = frozenset(
    {
        "ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA",
        "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA",
        "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
    }
)  # fmt: skip

_PROMPT = "it puts vectors of its own in front of the input, which no weight of the base can hold"
REFUSED = {
    "ADAMSS": "which rows its matrices belong to comes from a clustering of the base's weights that it does not store",
    "ADAPTION_PROMPT": "it adds prompts inside of the attention, which no weight of the base can hold",
    "CARTRIDGE": _PROMPT,
    "CPT": _PROMPT,
    "LILY": "its matrices are chosen by a router for each input, so there is no one delta",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "POLY": "it mixes its skills by a task id at run time, so there is no one delta",
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "SHADOW": "its state evolves with the input, so there is no one delta",
    "XLORA": "it mixes its adapters for each input, so there is no one delta",
}
