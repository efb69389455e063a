"""PEFT's annotations as the words of bot/plan/schema.json."""

import re
from typing import Any

WORDS = {"bool": "bool", "int": "int", "float": "float", "str": "str", "dict": "dict", "list": "list"}


def kinds(annotation: Any) -> str:
    """What JSON may hold where PEFT annotates this, in one order."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    text = re.sub(
        r"Literal\[[^]]*\[[^]]*\][^]]*\]|Literal\[[^]]*\]", "str", text
    )  # one literal holds brackets
    text = re.sub(r"(dict|tuple)\[[^]]*\]+", r"\1", text).replace("list[tuple", "list")
    found = set()
    for item in re.findall(r"list\[(\w+)", text):
        found.add(f"list[{item}]")
    for word in re.findall(r"[\w.]+", re.sub(r"list\[\w+\]", "", text)):
        name = word.rpartition(".")[2]
        if name.endswith("Config"):
            found.add("dict")
        elif name in WORDS:
            found.add(name)
        elif name in ("Optional", "NoneType", "None"):
            found.add("null")
    if "TaskType" in text or "PeftType" in text:
        found.add("str")
    return " ".join(sorted(found))
