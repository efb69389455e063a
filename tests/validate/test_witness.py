"""The proof while a merge is written: what it finds in the files, and that the pass after it goes on from there."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from bot.progress import Silent
from bot.records import Check
from bot.validate.found import Found
from bot.validate.sample import sample
from bot.validate.tensors import check_tensors
from bot.validate.witness import Witness
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from tests.tiny.adapters import LORA_VARIANTS
from tests.validate.factory import Case, edit, flip_bit, make, put
from tests.validate.large import COLUMNS, NORM, ROWS, UP, large
from tests.validate.test_tensors import Counter


def sources(case: Case) -> dict[str, Any]:
    return {
        "base_folder": case.base, "base": case.layout, "adapter_folder": case.adapter, "out": case.merged
    }  # fmt: skip


def watch(case: Case, *, thorough: bool = False, step: int = 48, leave: str = "") -> Found:
    """Shows a folder to a witness as the stream would: in blocks, out of order, by several threads."""
    layout = read_layout(LocalFiles(case.merged))
    bound = {b.tensor: b for b in case.plan.bindings}
    parts = sources(case)
    with Witness(case.plan, **parts, thorough=thorough) as witness, ThreadPoolExecutor(3) as pool:
        for shard in layout.shards:
            witness.begin(shard.file, shard.header)
            jobs = [pool.submit(witness.copied, [s for s in shard.header.tensors if s.name not in bound])]
            blocks = [
                (bound[s.name], first, min(first + step, s.shape[0]))
                for s in shard.header.tensors
                if s.name in bound and s.name != leave
                for first in range(0, s.shape[0], step)
            ]
            Random(0).shuffle(blocks)
            jobs += [pool.submit(witness.merged, b, first=first, last=last) for b, first, last in blocks]
            for job in jobs:
                job.result()
        return witness.found()


def after(case: Case, seen: Found | None = None, *, thorough: bool = False, progress=None) -> list[Check]:
    return check_tensors(
        case.merged,
        plan=case.plan,
        base_folder=case.base,
        base=case.layout,
        adapter_folder=case.adapter,
        progress=progress or Silent(),
        thorough=thorough,
        seen=seen,
    )


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_it_finds_what_the_pass_after_finds(
    tmp_path: Path, dtype: torch.dtype, dora: bool, thorough: bool
) -> None:
    case = large(tmp_path, dtype=dtype, dora=dora)
    seen = watch(case, thorough=thorough)
    assert seen.proven == {"up_proj.weight", "down_proj.weight", NORM}
    counter = Counter()
    checks = after(case, seen, thorough=thorough, progress=counter)
    assert counter.total == counter.done == 0
    assert checks == after(case, thorough=thorough)
    assert {c.verdict for c in checks} == {"passed"}


def test_a_merge_that_rounds_as_peft_does_is_proven_too(
    base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """PEFT rounds the delta of an embedding before it adds it: too far off for a merge that rounds once."""
    base = base_of("llama", dtype="bfloat16")
    _, adapter = adapter_on("llama", LORA_VARIANTS["embedding"], base=base)
    out, plan = merged(adapter, parity="peft")
    case = Case(base=base, adapter=adapter, merged=out, plan=plan)
    seen = watch(case)
    assert {b.tensor for b in plan.bindings} <= seen.proven
    assert not any(m.wrong for m in seen.measures)
    exactly = watch(replace(case, plan=replace(plan, parity="exact")))
    assert any(m.wrong for m in exactly.measures)


def test_blocks_are_looked_at_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = large(tmp_path)
    monkeypatch.setattr("bot.validate.witness.BATCH", 100 * COLUMNS)
    assert after(case, watch(case, step=7)) == after(case)


def test_what_lies_in_the_file_counts(tmp_path: Path) -> None:
    case = large(tmp_path)
    put(case.merged, UP, lambda t: t.index_fill(0, torch.tensor([int(sample(UP, (ROWS, COLUMNS))[3])]), 9.0))
    put(case.merged, NORM, flip_bit)
    checks = {c.name: c for c in after(case, watch(case))}
    assert {n for n, c in checks.items() if c.verdict == "failed"} == {"changed", "untouched"}
    assert f"{UP}: {COLUMNS:,} of " in checks["changed"].detail
    assert checks["untouched"].detail == f"Not the base's: {NORM} (1 bytes differ)."


def test_one_wrong_number_in_an_unseen_row_is_found_by_thorough(tmp_path: Path) -> None:
    case = large(tmp_path)
    row = next(r for r in range(ROWS) if r not in set(sample(UP, (ROWS, COLUMNS)).tolist()))
    put(
        case.merged,
        UP,
        lambda t: t.index_put_((torch.tensor(row), torch.tensor(1)), torch.tensor(9.0).to(t.dtype)),
    )
    assert not any(m.wrong for m in watch(case).measures)
    assert [m.name for m in watch(case, thorough=True).measures if m.wrong] == [UP]


def test_a_tensor_whose_rows_did_not_all_come_is_left_to_the_pass_after(tmp_path: Path) -> None:
    case = large(tmp_path)
    seen = watch(case, leave=UP)
    assert seen.proven == {"down_proj.weight", NORM}
    counter = Counter()
    assert after(case, seen, progress=counter) == after(case)
    assert counter.done == case.layout.tensors[UP].size


def test_rows_that_come_twice_prove_nothing(tmp_path: Path) -> None:
    case = large(tmp_path)
    parts = sources(case)
    binding = next(b for b in case.plan.bindings if b.tensor == UP)
    with Witness(case.plan, **parts) as witness:
        witness.begin("model.safetensors", read_layout(LocalFiles(case.merged)).shards[0].header)
        for _ in range(2):
            witness.merged(binding, first=0, last=ROWS // 2)
        assert UP not in witness.found().proven


def test_what_has_no_formula_is_left_to_the_pass_after(tmp_path: Path) -> None:
    case = large(tmp_path)
    odd = tuple(replace(b, method="magic") if b.tensor == UP else b for b in case.plan.bindings)
    case = replace(case, plan=replace(case.plan, bindings=odd))
    seen = watch(case)
    assert UP not in seen.proven
    assert (
        "no formula for the method 'magic'"
        in next(c for c in after(case, seen) if c.name == "changed").detail
    )


def test_norms_over_columns_are_left_to_the_pass_after(tmp_path: Path) -> None:
    case = make(tmp_path, "gpt2", LORA_VARIANTS["conv1d_fan_in_fan_out"] | {"use_dora": True})
    seen = watch(case)
    assert not seen.measures
    assert seen.equal == len(case.layout.tensors) - len(case.plan.bindings)
    assert {c.verdict for c in after(case, seen)} == {"passed"}


@pytest.mark.parametrize("name", ["plain", "half"])
def test_a_model_in_shards(request: pytest.FixtureRequest, name: str) -> None:
    case = request.getfixturevalue(name)
    seen = watch(case)
    assert seen.proven == set(case.layout.tensors)
    assert after(case, seen) == after(case)


def test_another_dtype_was_asked_for(tmp_path: Path) -> None:
    case = large(tmp_path, dtype=torch.float32)
    edit(case.merged, lambda ts: {n: t.bfloat16() for n, t in ts.items()})
    case = replace(case, plan=replace(case.plan, dtype="bfloat16"))
    seen = watch(case)
    assert seen.proven == set(case.layout.tensors)
    assert {c.verdict for c in after(case, seen)} == {"passed"}


def test_a_file_that_ends_early_is_said(tmp_path: Path) -> None:
    case = large(tmp_path)
    path = case.merged / "model.safetensors"
    header = read_layout(LocalFiles(case.merged)).shards[0].header
    path.write_bytes(path.read_bytes()[:-1000])
    parts = sources(case)
    last = header.tensors[-1]
    with Witness(case.plan, **parts) as witness:
        witness.begin(path.name, header)
        binding = next((b for b in case.plan.bindings if b.tensor == last.name), None)
        with pytest.raises(OSError, match="ended early"):
            witness.merged(binding, first=0, last=ROWS) if binding else witness.copied([last])


def test_torch_is_not_imported(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, bot.validate.tensors, bot.validate.witness; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
