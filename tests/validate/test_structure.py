"""Each way to break the files of a good merge, and the check that must say so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from bot.records import ConfigEdit
from bot.validate.tokenizer import _round_trip
from bot.weights.layout import INDEX
from tests.validate.factory import Case, edit

Q = "model.layers.1.self_attn.q_proj.weight"


def change_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def last_shard(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


def truncate(folder: Path) -> None:
    path = last_shard(folder)
    path.write_bytes(path.read_bytes()[:-100])


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, change)


def write(name: str, text: str = "{}") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


EXTRA = {
    "id": 384, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    "special": True,
}  # fmt: skip
BREAKAGES = {
    "truncated": (truncate, {"files"}),
    "shard missing": (lambda f: last_shard(f).unlink(), {"files"}),
    "folder empty": (lambda f: [p.unlink() for p in f.iterdir()], {"files"}),
    "index disagrees": (change_json(INDEX, lambda c: c["weight_map"].pop(Q)), {"index"}),
    "total_size": (change_json(INDEX, lambda c: c["metadata"].update(total_size=7)), {"index"}),
    "index lost": (lambda f: (f / INDEX).unlink(), {"index"}),
    "tensor missing": (tensors(lambda t: {n: v for n, v in t.items() if n != Q}), {"keys", "model_class"}),
    "tensor added": (tensors(lambda t: t | {"extra.weight": torch.ones(2)}), {"keys"}),
    "dtype": (tensors(lambda t: t | {Q: t[Q].bfloat16()}), {"dtypes"}),
    "shape": (tensors(lambda t: t | {Q: t[Q].reshape(16, 64)}), {"shapes"}),
    "adapter config": (write("adapter_config.json"), {"leftovers"}),
    "adapter weights": (write("adapter_model.safetensors", ""), {"leftovers"}),
    "adapter pickle": (write("adapter_model.bin", ""), {"leftovers"}),
    "base pickle": (write("pytorch_model-00001-of-00002.bin", ""), {"leftovers"}),
    "stray shard": (write("model-00003-of-00003.safetensors", ""), {"leftovers"}),
    "config broken": (write("config.json", "{"), {"config", "model_class", "tokenizer"}),
    "config changed": (change_json("config.json", lambda c: c.update(rms_norm_eps=0.1)), {"config"}),
    "generation config": (write("generation_config.json", "["), {"generation_config", "sidecars"}),
    "vocabulary shrunk": (
        lambda f: (
            edit(f, lambda t: {n: v[:380] if "embed" in n or "lm_head" in n else v for n, v in t.items()}),
            change_json("config.json", lambda c: c.update(vocab_size=380))(f),
        ),
        {"shapes", "config", "vocabulary"},
    ),
    "chat template": (write("chat_template.jinja", "{{ 1 }}"), {"sidecars", "chat_template"}),
    "tokenizer file": (
        change_json("tokenizer.json", lambda c: c["added_tokens"].append(EXTRA)),
        {"sidecars", "tokenizer", "vocabulary"},
    ),
    "tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), {"sidecars", "tokenizer"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_breakage_is_named(plain: Case, tmp_path: Path, name: str) -> None:
    case = plain.copy(tmp_path)
    act, expected = BREAKAGES[name]
    act(case.merged)
    assert case.failed("structure") == expected


def test_good_structure(plain: Case) -> None:
    report = plain.report("structure")
    assert report.verdict == "passed"
    names = [c.name for c in report.checks]
    assert names == [
        "files", "index", "keys", "shapes", "dtypes", "leftovers", "config", "generation_config", "model_class",
        "sidecars", "tokenizer", "vocabulary", "chat_template",
    ]  # fmt: skip


def test_config_edit_missing(plain: Case) -> None:
    wanted = ConfigEdit(key="rms_norm_eps", before=1e-6, after=1e-5, reason="test")
    case = replace(plain, plan=replace(plain.plan, config_edits=(wanted,)))
    assert case.failed("structure") == {"config"}
    assert case.report("structure").check("config").detail == "rms_norm_eps is 1e-06 instead of 1e-05."


def test_code_of_strangers_is_not_run(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    (case.merged / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...")
    change_json("config.json", lambda c: c.update(model_type="odd", auto_map={"AutoConfig": "evil.C"}))(
        case.merged
    )
    assert "config" in case.failed("full")
    assert not (tmp_path / "ran").exists()


def test_other_tools_rewritten_config_passes(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    change_json("config.json", lambda c: c.update(transformers_version="4.1", _name_or_path="x"))(case.merged)
    assert case.failed("structure") == set()


class Boxes:
    """A tokenizer of documents: it takes words with their places, and no text."""

    special_tokens_map: ClassVar[dict[str, str]] = {}

    def __call__(self, text: str) -> None:
        raise ValueError("Words must be of type `List[str]`")

    def __len__(self) -> int:
        return 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}


def test_a_tokenizer_that_takes_no_plain_text_is_its_source_still() -> None:
    problems, figure = _round_trip(Boxes(), Boxes())
    assert problems == []
    assert "0 of" in figure
    assert "It takes no text" in _round_trip(Boxes(), None)[0][0]
