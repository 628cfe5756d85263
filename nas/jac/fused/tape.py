"""Values and tangents of a chain of Linear layers and activations, side by side, forward and backward.

Each layer is a block ``(features, 1 + N, B)``: for every feature a row of values over the batch, then one row of
tangents for each of the ``N`` inputs. So a Linear layer is one matrix product for all samples and all columns of
their Jacobians, and everything else goes along contiguous rows. The backward pass is the adjoint of this forward pass,
written out: with ``[z | V]`` before an activation and ``[a | T] = [f(z) | f'(z) V]`` after it,

    dV = f'(z) dT        dz = f'(z) da + f''(z) sum_k dT_k V_k.

A small network's step is made of calls more than of numbers. So the memory, all views of it and the calls that work on
them are made once and replayed.

Source: Griewank and Walther, *Evaluating Derivatives* (2008), chapter 3 (vector forward mode) and its adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import attrgetter
from weakref import ref

import torch
from torch import Tensor, addcmul, mm, mul, mv, nn

from nas.jac.fused.activations import IN_PLACE, Bend, Step, by_formulas, in_place
from nas.jac.fused.chain import Chain
from nas.jac.plan.guard import Guard
from nas.jac.plan.store import Plan
from nas.jac.refuse import WEIGHTS, check_finite, check_input

Pull = Callable[["Block"], "Block"]
"""Records the steps from the adjoint of a layer's output to that of its input."""


def sample_bytes(chain: Chain, x: Tensor) -> int:
    """About how much memory a tape takes for each sample of ``x``."""
    n = x.shape[1]
    return x.element_size() * (1 + n) * (3 * n + 2 * sum(width for _, width in chain))


class Block:
    """One block ``(features, 1 + N, B)`` and the views that are taken of it."""

    def __init__(self, memory: Tensor) -> None:
        self.all = memory
        self.flat = memory.view(len(memory), -1)
        self.value = memory[:, 0]  # (features, B)
        self.tangents = memory[:, 1:]  # (features, N, B)
        self.right = self.flat[:, memory.shape[2] :]  # (features, N * B)


class Tape(Plan):
    """The memory and the calls of one forward and backward pass of the Jacobian, or of its determinant."""

    second = "fused", True, "gives first derivatives only", "pass fused=False to jacobian_det or slogdet"
    result: Callable[[], Tensor]
    """After ``forward``: the Jacobian ``(B, N, N)``, or the determinant ``(B,)``."""
    seed: Callable[[Tensor], object]
    """Takes the gradient of ``result``, before ``backward``."""

    def __init__(self, model: nn.Module, guard: Guard, chain: Chain, x: Tensor, key: Hashable, det: bool) -> None:
        super().__init__(guard, len(x) * sample_bytes(chain, x))
        self.model, self.key, self.device = ref(model), key, x.device.type
        self.hooks = [hooks for layer, _ in chain for hooks in (layer._backward_hooks, layer._backward_pre_hooks)]
        self.forward: list[Step] = []
        self.backward: list[tuple[int, Callable]] = []  # 0, or the number of the input whose gradient it returns
        self.weights: list[Tensor] = []
        with torch.inference_mode(False), torch.no_grad():
            self._one, self._zero = x.new_ones(()), x.new_zeros(())
            self._q = x.new_empty(max(width for _, width in chain), len(x))
            self._silent = True  # nothing has asked for values yet, so that their adjoint is 0
            self._record(chain, x.shape[1], len(x), det)
        matrices = [weight for weight in self.weights if weight.dim() == 2]
        self.read: Callable[[Tensor], Sequence[Tensor]] = lambda x: matrices

    def run(self, x: Tensor) -> Tensor:
        """The result; an ``x`` or a result that is not finite is refused."""
        self._input.copy_(x)
        for step in self.forward:
            step()
        result = self.result()
        if not math.isfinite(self._check().item()):
            check_input("x", x)
            if result.dim() == 1:
                check_finite("det", result, "the determinant", f"{WEIGHTS}, or use slogdet")
            check_finite("jacobian", result, "the Jacobian", WEIGHTS)
        return result

    def pull(self, x: Tensor, g: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the inputs ``(tape, lease, x, *weights)`` that are ``needed``, from that of the result."""
        self.seed(g)
        gradients: list[Tensor | None] = [None] * len(needed)
        for number, step in self.backward:
            if not number:
                step()
            elif needed[number]:
                gradients[number] = step()
        return gradients

    def _record(self, chain: Chain, n: int, batch: int, det: bool) -> None:
        inputs = n * (1 + n)
        values = self._one.new_zeros(inputs + n * n, batch)
        weights = torch.ones_like(values)
        # Whether all inputs and results are finite, in one number: determinants are products with their cofactors.
        self._check = partial(torch.dot, values.view(-1), weights.view(-1))
        jacobian = values[inputs:].view(n, n, batch)
        self._start = block = Block(values[:inputs].view(n, 1 + n, batch))
        self._input = block.value.t()
        block.tangents.diagonal(dim1=0, dim2=1).fill_(1)  # dx_i / dx_k
        top = adjoint = Block(self._one.new_zeros(n, 1 + n, batch))
        head = chain[-1][0] if isinstance(chain[-1][0], nn.Linear) else None  # only its tangents are wanted
        pulls, own = [], False
        for layer, _ in chain if head is None else chain[:-1]:
            if isinstance(layer, nn.Linear):
                # An activation takes the first one's tangents from where they are: its weight.
                block, pull = self._linear(layer, block, block is self._start and type(chain[1][0]) is not nn.Linear)
            else:
                block, pull = self._activation(layer, block, own)
            pulls.append(pull)
            own = isinstance(layer, nn.Linear)
        if head is None:
            self.forward.append(partial(jacobian.copy_, block.tangents))
        else:
            self.forward.append(partial(mm, head.weight, block.right, out=jacobian.view(n, -1)))
            pulls.append(partial(self._pull_linear, head.weight, None, block))
        if det:
            self._determinant(jacobian, weights[inputs:].view(n, n, batch), top.tangents)
        else:
            samples = jacobian.permute(2, 0, 1)
            self.result = partial(samples.clone, memory_format=torch.contiguous_format)
            self.seed = top.tangents.permute(2, 0, 1).copy_
        for pull in reversed(pulls):
            adjoint = pull(adjoint)
        if type(chain[0][0]) is not nn.Linear:
            self.backward.append((2, partial(adjoint.value.t().clone, memory_format=torch.contiguous_format)))

    def _linear(self, layer: nn.Linear, last: Block, constant: bool) -> tuple[Block, Pull]:
        """``constant``: its tangents are its weight, for all samples."""
        block = Block(self._one.new_empty(len(layer.weight), *last.all.shape[1:]))
        if constant:
            block.tangents = layer.weight.detach().unsqueeze(2).expand_as(block.tangents)
            self.forward.append(partial(mm, layer.weight, last.value, out=block.value))
        else:
            self.forward.append(partial(mm, layer.weight, last.flat, out=block.flat))
        if layer.bias is not None:
            self.forward.append(partial(block.value.t().add_, layer.bias))
        return block, partial(self._pull_linear, layer.weight, layer.bias, last)

    def _pull_linear(self, weight: Tensor, bias: Tensor | None, last: Block, adjoint: Block) -> Block:
        columns = attrgetter("right" if self._silent else "flat")
        self._gradient(weight, partial(mm, columns(adjoint), columns(last).t()))
        if bias is not None:
            self._gradient(bias, partial(mv, adjoint.value, torch.ones_like(adjoint.value[0])))
        if last is self._start:
            self.backward.append((2, partial(mm, adjoint.value.t(), weight)))
            return adjoint
        below = Block(torch.zeros_like(last.all))
        self.backward.append((0, partial(mm, columns(adjoint).t(), weight, out=columns(below).t())))
        return below

    def _gradient(self, weight: Tensor, step: Callable[[], Tensor]) -> None:
        self.weights.append(weight)
        self.backward.append((2 + len(self.weights), step))

    def _activation(self, module: nn.Module, last: Block, own: bool) -> tuple[Block, Pull]:
        """``own``: nothing else reads the memory of ``last``."""
        kind = type(module)
        block = Block(last.all if own and kind in IN_PLACE else torch.empty_like(last.all))
        a, slope, tangents = block.value, torch.empty_like(last.value), last.tangents
        if kind in IN_PLACE:
            steps, bend = in_place(kind, self._one, a, slope)
            self.forward += steps if own else [partial(a.copy_, last.value), *steps]
            tangents = block.tangents
        else:
            steps, bend = by_formulas(module, last.value, a, slope)
            self.forward += steps
        self.forward.append(partial(mul, last.tangents, slope.unsqueeze(1), out=block.tangents))
        return block, partial(self._pull_activation, slope, bend, tangents)

    def _pull_activation(self, slope: Tensor, bend: Bend, tangents: Tensor, adjoint: Block) -> Block:
        """In place; the second derivative is multiplied by the sum of ``tangents`` times their adjoints."""
        dz = adjoint.value
        across = partial((adjoint.tangents if self._silent else adjoint.all).mul_, slope.unsqueeze(1))
        if bend is None:
            self.backward.append((0, across))
            return adjoint
        q, start = self._q[: len(dz)], self._zero if self._silent else dz
        (first, tangent), *others = zip(adjoint.tangents.unbind(1), tangents.unbind(1), strict=True)
        steps = [partial(mul, first, tangent, out=q), *(partial(q.addcmul_, dt, v) for dt, v in others), across]
        plus, factor, curve = bend
        if plus:
            steps.append(partial(torch.add, start, q, out=dz))
            start = dz
        steps.append(partial(addcmul, start, q, curve, value=factor, out=dz))
        self.backward += [(0, step) for step in steps]
        self._silent = False
        return adjoint

    def _determinant(self, jacobian: Tensor, cofactors: Tensor, adjoint: Tensor) -> None:
        """By Jacobi's formula its gradient is that of the result times the cofactors; for one input they stay 1."""
        n = len(jacobian)
        if n == 2:
            signs = torch.tensor([1, -1, -1, 1]).to(self._one).diag().flip(1)
            self.forward.append(partial(mm, signs, jacobian.view(4, -1), out=cofactors.view(4, -1)))
        if n == 3:
            cross = partial(torch.linalg.cross, dim=0)
            self.forward += [partial(cross, jacobian[i - 2], jacobian[i - 1], out=cofactors[i]) for i in range(3)]
        total, terms = self._zero, list(zip(jacobian[0], cofactors[0], strict=True))
        for term in terms[:-1]:
            self.forward.append(partial(addcmul, total, *term, out=self._q[0]))
            total = self._q[0]
        self.result = partial(addcmul, total, *terms[-1])
        self.seed = partial(mul, cofactors, out=adjoint)
