"""The spectrum is that of the kernel, and what is no kernel is refused with its figures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import example
from support.jac_references import refused

from nas.jac.spectrum import spectrum


def kernel_with(values, dtype=torch.float64, seed=0):
    """A symmetric matrix with these eigenvalues in a random basis."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=random, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.integers(0, 100))
def test_the_figures_are_those_of_the_eigenvalues(values, seed):
    found = spectrum(kernel_with(values, seed=seed))
    values = sorted(values)
    shares = [value / sum(values) for value in values]
    assert found.eigenvalues.dtype == torch.float64
    assert found.eigenvalues.tolist() == pytest.approx(values, rel=1e-10)
    assert found.condition_number == pytest.approx(values[-1] / values[0], rel=1e-10)
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-10)
    assert found.logdet == pytest.approx(sum(map(math.log, values)), rel=1e-10, abs=1e-10)


def test_a_singular_kernels_condition_number_is_infinite():
    for seed, dtype in enumerate([torch.float64, torch.float32] * 4):
        x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        x = torch.cat([x, x[:1], x[1:2] + x[2:]])
        found = spectrum(x @ x.mT)
        assert (found.condition_number, found.logdet) == (math.inf, -math.inf)
        assert found.eigenvalues[:2].tolist() == [0, 0]
        assert found.eigenvalues[2] > 0
        assert 1 <= found.effective_rank <= 3
    assert spectrum(torch.ones(5, 5)).effective_rank == pytest.approx(1)
    assert spectrum(torch.eye(5)).effective_rank == pytest.approx(5)


def test_the_kernels_type_says_what_is_zero():
    values = [1e-9, 1.0, 2.0]
    assert spectrum(kernel_with(values)).condition_number == pytest.approx(2e9, rel=1e-5)
    found = spectrum(kernel_with(values, torch.float32))
    assert found.condition_number == math.inf
    assert found.rounding == pytest.approx(3 * torch.finfo(torch.float32).eps * 2, rel=1e-4)


def test_blocks_are_one_kernel_of_all_outputs():
    jacobians = torch.randn(4, 3, 50, dtype=torch.float64)  # (B, M, P)
    blocks = torch.einsum("amp,bnp->abmn", jacobians, jacobians)
    flat = jacobians.reshape(12, 50)
    assert torch.allclose(spectrum(blocks).eigenvalues, torch.linalg.eigvalsh(flat @ flat.mT), rtol=1e-10)


def test_scale_moves_no_figure_but_size():
    kernel = kernel_with([0.5, 3.0, 7.0])
    plain = spectrum(kernel)
    for scale in (1e-300, 2e307):  # sums of such numbers overflow
        scaled = spectrum(kernel * scale)
        for figure in ("condition_number", "effective_rank"):
            assert getattr(scaled, figure) == pytest.approx(getattr(plain, figure), rel=1e-10)
        assert scaled.logdet == pytest.approx(plain.logdet + 3 * math.log(scale), rel=1e-10)
        assert torch.allclose(scaled.eigenvalues / scale, plain.eigenvalues, rtol=1e-10)


def test_the_kernel_is_left_as_it_was():
    kernel = kernel_with([1.0, 2.0]).requires_grad_()
    before = kernel.detach().clone()
    assert not spectrum(kernel).eigenvalues.requires_grad
    assert torch.equal(kernel, before)


ASYMMETRIC, NEGATIVE = torch.tensor([[1.0, 0.5], [0.25, 1.0]]), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
REFUSED = {
    "not square": (torch.ones(2, 3), r"kernel=\(2, 3\): must be square"),
    "another batch": (torch.ones(2, 3, 4, 4), r"kernel=\(2, 3, 4, 4\): must be square"),
    "not even a matrix": (torch.ones(4), r"kernel=\(4,\): must be square"),
    "empty": (torch.ones(0, 0), r"kernel=\(0, 0\): .* not empty"),
    "integers": (torch.ones(2, 2, dtype=torch.int64), r"kernel=torch.int64: must be"),
    "no tensor": ([[1.0]], r"kernel=list: must be"),
    "NaN": (torch.tensor([[1.0, 0.0], [0.0, math.nan]]), r"kernel=nan: .* the first at \(1, 1\)"),
    "infinite": (torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), r"kernel=inf: .* the first at \(0, 0\)"),
    "zero": (torch.zeros(3, 3), r"kernel=3 x 3: is zero everywhere"),
    "asymmetric": (ASYMMETRIC, r"kernel=2 x 2: is not symmetric: entry \(0, 1\) is 0\.5, entry \(1, 0\) is 0\.25, "),
    "negative": (NEGATIVE, r"kernel=2 x 2: is not positive semi.*: its smallest eigenvalue is -1, its largest 3, "),
    "too coarse": (torch.eye(200, dtype=torch.bfloat16), r"kernel=200 x 200: has torch.bfloat16, .*"),
}


def test_what_is_no_kernel_is_refused_with_figures():
    for name, (kernel, message) in REFUSED.items():
        with example(name), refused(f"^{message}"):
            spectrum(kernel)


def test_only_more_than_rounding_is_refused():
    eps = torch.finfo(torch.float32).eps
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    spectrum(torch.eye(2) + 4 * eps * skew)
    with refused("not symmetric"):
        spectrum(torch.eye(2) + 100 * eps * skew)
    assert spectrum(kernel_with([-4e-16, 1.0])).condition_number == math.inf
    with refused("not positive semidefinite"):
        spectrum(kernel_with([-4e-14, 1.0]))
