"""Which rows the proof looks at, and what it finds and misses by them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from bot.progress import Silent
from bot.records import Check
from bot.validate.sample import EVERY, sample
from bot.validate.tensors import check_tensors
from tests.validate.factory import Case, edit, put
from tests.validate.large import COLUMNS, NORM, ROWS, UP, large


@given(st.text(min_size=1), st.integers(0, 5000), st.integers(16, 4096))
def test_every_sixteen_rows_have_one(name: str, rows: int, columns: int) -> None:
    found = sample(name, (rows, columns))
    if rows * columns < 2**12:
        assert np.array_equal(found, np.arange(rows))
        return
    assert np.array_equal(found, np.unique(found))
    assert {0, rows - 1} <= set(found.tolist()) <= set(range(rows))
    assert set((found // EVERY).tolist()) == set(range(-(-rows // EVERY)))
    assert len(found) <= -(-rows // EVERY) + 2


def test_no_period_of_rows_stays_unseen() -> None:
    found = sample("a", (2**14, 64))
    assert all(set((found % period).tolist()) == set(range(period)) for period in (2, 3, 8, 16, 32, 128))


def test_names_decide_and_thorough_means_all() -> None:
    one, two = (sample(name, (4096, 64)) for name in ("a", "b"))
    assert np.array_equal(one, sample("a", (4096, 64)))
    assert not np.array_equal(one, two)
    assert len(sample("a", (4096, 64), thorough=True)) == 4096
    assert len(sample("bias", (10_000, 1))) == 10_000  # a row of one number is not worth the way


def checks(case: Case, *, thorough: bool = False) -> dict[str, Check]:
    found = check_tensors(
        case.merged,
        plan=case.plan,
        base_folder=case.base,
        base=case.layout,
        adapter_folder=case.adapter,
        progress=Silent(),
        thorough=thorough,
    )
    return {check.name: check for check in found}


def failed(case: Case, *, thorough: bool = False) -> set[str]:
    return {name for name, check in checks(case, thorough=thorough).items() if check.verdict == "failed"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dora", [False, True])
def test_good_merge_passes_and_says_how_much_was_looked_at(
    tmp_path: Path, dtype: torch.dtype, dora: bool
) -> None:
    case = large(tmp_path, dtype=dtype, dora=dora)
    found = checks(case)
    assert {c.verdict for c in found.values()} == {"passed"}, found
    rows = sum(len(sample(f"{name}.weight", (ROWS, COLUMNS))) for name in ("up_proj", "down_proj"))
    looked = f"{rows * COLUMNS / 1000:.3g} k of {2 * ROWS * COLUMNS / 1000:.3g} k numbers"
    assert found["changed"].figure.startswith(f"2 of 2 right (1 in 16 rows, {looked}); median ")
    assert "in every row looked at" in found["changed"].detail
    whole = checks(case, thorough=True)
    assert whole["changed"].figure.startswith("2 of 2 right (all numbers); median ")
    assert failed(case, thorough=True) == set()


def unseen(row: int = 300) -> int:
    """A row that is not in the sample."""
    seen = set(sample(UP, (ROWS, COLUMNS)).tolist())
    return next(r for r in range(row, ROWS) if r not in seen)


def bumped(row: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_put_((torch.tensor(row), torch.tensor(5)), tensor[row, 5] * 1.1 + 1)


def test_one_wrong_number_is_found_by_thorough_alone_unless_its_row_is_sampled(tmp_path: Path) -> None:
    case = large(tmp_path)
    put(case.merged, UP, bumped(unseen()))
    assert failed(case) == set()  # the README says so
    assert failed(case, thorough=True) == {"changed"}
    assert f"{UP}: 1 of {ROWS * COLUMNS:,} numbers" in checks(case, thorough=True)["changed"].detail
    put(case.merged, UP, bumped(int(sample(UP, (ROWS, COLUMNS))[7])))
    assert failed(case) == {"changed"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_number_that_is_not_finite_is_found_in_any_row(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    case = large(tmp_path, dtype=dtype)
    put(
        case.merged,
        UP,
        lambda t: t.index_put_((torch.tensor(unseen()), torch.tensor(5)), torch.tensor(value).to(dtype)),
    )
    assert failed(case) == {"changed", "finite"}
    assert f"{UP} (1 elements)" in checks(case)["finite"].detail


@pytest.mark.parametrize(
    ("times", "found"), [(2.0, "there 2.00 times"), (0.0, "missing"), (0.5, "there 0.50 times")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_amounts_of_the_delta_are_found_by_a_sample(
    tmp_path: Path, dtype: torch.dtype, times: float, found: str
) -> None:
    case = large(tmp_path, dtype=dtype)
    _again(case, times=times)
    names = {"changed", "effect"} if times == 0 else {"changed"}
    assert failed(case) == names
    assert f"the delta is {found}" in checks(case)["changed"].detail


def _again(case: Case, *, times: float) -> None:
    base, good = (load_file(folder / "model.safetensors") for folder in (case.base, case.merged))
    for binding in case.plan.bindings:
        start = base[binding.tensor].double()
        value = start + times * (good[binding.tensor].double() - start)
        put(case.merged, binding.tensor, lambda t, value=value: value.to(t.dtype))


@pytest.mark.parametrize("period", [2, 16, 64])
def test_an_error_in_every_nth_row_is_found_by_a_sample(tmp_path: Path, period: int) -> None:
    case = large(tmp_path)
    for offset in (0, period // 2, period - 1):
        wrong = torch.arange(offset, ROWS, period)
        put(case.merged, UP, lambda t, wrong=wrong: t.index_copy(0, wrong, t[wrong] * 1.1))
        if len(wrong) >= ROWS // 16:
            assert failed(case) == {"changed"}
        assert failed(case, thorough=True) == {"changed"}


def test_swapped_halves_are_found_by_a_sample(tmp_path: Path) -> None:
    case = large(tmp_path)
    put(case.merged, UP, lambda t: t.roll(ROWS // 2, 0))
    assert failed(case) == {"changed"}


def test_a_delta_in_rows_that_were_not_looked_at_is_an_effect(tmp_path: Path) -> None:
    case = large(tmp_path)

    def alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: (
                t * (torch.arange(len(t)) == unseen())[:, None] * ("up_proj" in name)
                if "lora_B" in name
                else t
            )
            for name, t in tensors.items()
        }

    edit(case.adapter, alone)
    base = load_file(case.base / "model.safetensors")
    good = load_file(case.merged / "model.safetensors")
    row = unseen()
    put(case.merged, "down_proj.weight", lambda t: base["down_proj.weight"])
    put(case.merged, UP, lambda t: base[UP].index_copy(0, torch.tensor([row]), good[UP][row : row + 1]))
    assert failed(case) == failed(case, thorough=True) == set()


def test_a_copy_is_compared_by_every_byte(tmp_path: Path) -> None:
    case = large(tmp_path)
    put(case.merged, NORM, lambda t: t.index_fill(0, torch.tensor([9]), 3.0))
    assert failed(case) == {"untouched"}
