"""Which configs need a repository's code, and what becomes of those that only name it."""

import json

import pytest

from bot.plan import remote_code
from bot.records import Sidecar

NATIVE = {"LlamaForCausalLM", "LlamaTokenizer"}.__contains__


class Memory:
    name = "owner/name"

    def __init__(self, **files):
        self._files = {n: json.dumps(c).encode() if not isinstance(c, bytes) else c for n, c in files.items()}

    def sizes(self):
        return {name: len(data) for name, data in self._files.items()}

    def read(self, name, *, start=0, end=None):
        return self._files[name][start:end]


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        ({"architectures": ["MineForCausalLM"]}, ""),  # no code named: the merge itself says what is unknown
        ({"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModelForCausalLM": "m.LlamaForCausalLM"}}, ""),
        ({"architectures": ["MineForCausalLM"], "auto_map": {"AutoModel": "m.Mine"}}, "MineForCausalLM"),
        ({"model_type": "llama", "architectures": ["Mine"], "auto_map": {"AutoModel": "x/y--m.Mine"}}, "Mine"),
        ({"auto_map": {"AutoModel": "x/y--m.Mine"}}, "Mine"),
        ({"auto_map": {"AutoModel": "m.LlamaForCausalLM"}}, ""),
        ({"auto_map": {"AutoModel": 7}}, "class that config.json names"),
        ({"architectures": ["Mine"], "auto_map": {"AutoTokenizer": ["t.T", None]}}, ""),
        ({"architectures": ["Mine"], "auto_map": "m.Mine"}, ""),
    ],
)  # fmt: skip
def test_what_only_the_repositorys_code_has(config, needed):
    assert remote_code.needed(config, is_native=NATIVE) == needed


def test_the_key_goes_wherever_it_is():
    config = {
        "auto_map": {"AutoConfig": "a/b--c.D"},
        "text_config": {"auto_map": {"AutoModel": "e.F"}, "n": 1},
    }
    edits = remote_code.edits(config)
    assert [(e.key, e.after) for e in edits] == [("auto_map", None), ("text_config.auto_map", None)]
    assert remote_code.edits({"model_type": "llama"}) == []


def test_small_files_lose_it_only_where_transformers_has_the_class():
    coded = {"auto_map": {"AutoTokenizer": ["t.T", None]}}
    sidecars = (
        Sidecar(name="tokenizer_config.json", origin="base"),
        Sidecar(name="vocab.json", origin="base"),
    )
    for content, without, said in (
        ({"tokenizer_class": "LlamaTokenizer", **coded}, "auto_map", 0),
        ({"tokenizer_class": "MineTokenizer", **coded}, "", 1),
        ({"tokenizer_class": "LlamaTokenizer"}, "", 0),
        (b"{", "", 0),
    ):
        files = Memory(**{"tokenizer_config.json": content, "vocab.json": coded})
        found, notes = remote_code.without_code(sidecars, adapter=Memory(), base=files, is_native=NATIVE)
        assert [s.without for s in found] == [without, ""]
        assert len(notes) == said
