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

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from weakref import ref

import torch
from torch import Tensor, mm, mul, mv, nn

from nas.jac.fused.activations import ACTIVATIONS, Activation, Step
from nas.jac.fused.chain import Chain
from nas.jac.plan.guard import Guard
from nas.jac.plan.store import Plan


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

    input_gradient: Callable[[], Tensor]
    """The gradient of ``x``, ``(B, N)``."""
    result: Callable[[], Tensor]
    """After ``forward``: the Jacobian ``(B, N, N)``, or the determinant ``(B,)``."""
    seed: Callable[[Tensor], object]
    """Takes the gradient of ``result``, before ``backward``."""

    def __init__(self, model: nn.Module, guard: Guard, chain: Chain, x: Tensor, key: Hashable, det: bool) -> None:
        super().__init__(guard, len(x) * sample_bytes(chain, x))
        self.model, self.key, self.device = ref(model), key, x.device.type
        self.hooks = [hooks for layer, _ in chain for hooks in (layer._backward_hooks, layer._backward_pre_hooks)]
        self.forward: list[Step] = []
        self.backward: list[Step] = []
        self.weights: list[Tensor] = []
        self.gradients: list[Callable[[], Tensor]] = []  # of each of the weights
        with torch.inference_mode(False), torch.no_grad():
            self._one = x.new_ones(())
            self._record(chain, x.shape[1], len(x), det)
        self.matrices = [weight for weight in self.weights if weight.dim() == 2]

    def pull(self, g: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """From the gradient of ``result`` to those of ``x`` and ``weights``, the second and further ``needed``."""
        self.seed(g)
        for step in self.backward:
            step()
        gradients: list[Tensor | None] = [self.input_gradient() if needed[1] else None]
        for number, gradient in enumerate(self.gradients, 2):
            gradients.append(gradient() if needed[number] else None)
        return gradients

    def _record(self, chain: Chain, n: int, batch: int, det: bool) -> None:
        inputs = n * (1 + n)
        values = self._one.new_zeros(inputs + n * n, batch)
        weights = torch.ones_like(values)
        # Whether all inputs and results are finite, in one number: determinants are products with their cofactors.
        self.check = partial(torch.dot, values.view(-1), weights.view(-1))
        block, adjoint = Block(values[:inputs].view(n, 1 + n, batch)), None
        jacobian = values[inputs:].view(n, n, batch)
        block.tangents.diagonal(dim1=0, dim2=1).fill_(1)  # dx_i / dx_k
        self.input = block.value.t()
        head = chain[-1][0] if isinstance(chain[-1][0], nn.Linear) else None  # only its tangents are wanted
        own = False  # whether only the next layer needs the block
        for layer, features in chain if head is None else chain[:-1]:
            if isinstance(layer, nn.Linear):
                block, adjoint = self._linear(layer, features, block, adjoint)
            else:
                block, adjoint = self._activation(ACTIVATIONS[type(layer)](layer), block, adjoint, own)
            own = isinstance(layer, nn.Linear)
        if head is not None:
            top = Block(self._one.new_zeros(n, 1 + n, batch))  # its values stay 0
            self.forward.append(partial(mm, head.weight, block.right, out=jacobian.view(n, -1)))
            self._below(head.weight, top, adjoint, partial(mm, top.right, block.right.t()))
        else:
            assert adjoint is not None
            top = adjoint
            self.forward.append(partial(jacobian.copy_, block.tangents))
            self.backward.insert(0, top.value.zero_)  # the values do not enter the Jacobian
        if det:
            self._determinant(jacobian, weights[inputs:].view(n, n, batch), top.tangents)
        else:
            samples = jacobian.permute(2, 0, 1)
            self.result = partial(samples.clone, memory_format=torch.contiguous_format)
            self.seed = top.tangents.permute(2, 0, 1).copy_

    def _linear(self, layer: nn.Linear, features: int, last: Block, below: Block | None) -> tuple[Block, Block]:
        block, adjoint = (Block(self._one.new_empty(features, *last.all.shape[1:])) for _ in range(2))
        self.forward.append(partial(mm, layer.weight, last.flat, out=block.flat))
        self._below(layer.weight, adjoint, below, partial(mm, adjoint.flat, last.flat.t()))
        if layer.bias is not None:
            self.forward.append(partial(block.value.t().add_, layer.bias))
            self.weights.append(layer.bias)
            self.gradients.append(partial(mv, adjoint.value, torch.ones_like(last.value[0])))
        return block, adjoint

    def _below(self, weight: Tensor, adjoint: Block, below: Block | None, gradient: Callable[[], Tensor]) -> None:
        """The gradients of a weight and of its layer's input, of which at the bottom the values alone are wanted."""
        self.weights.append(weight)
        self.gradients.append(gradient)
        if below is None:
            self.input_gradient = partial(mm, adjoint.value.t(), weight)
        else:
            self.backward.insert(0, partial(mm, adjoint.flat.t(), weight, out=below.flat.t()))

    def _activation(self, act: Activation, last: Block, adjoint: Block | None, own: bool) -> tuple[Block, Block]:
        """In the adjoint, what was the gradient of its output becomes the gradient of its input."""
        block = last if act.in_place and own else Block(torch.empty_like(last.all))
        if act.in_place and not own:
            self.forward.append(partial(block.all.copy_, last.all))
            last = block
        if adjoint is None:
            adjoint = Block(torch.empty_like(last.all))
            self.input_gradient = partial(adjoint.value.t().clone, memory_format=torch.contiguous_format)
        z, a, slope, q = last.value, block.value, torch.empty_like(last.value), torch.empty_like(last.value)
        across = slope.unsqueeze(1)
        self.forward += [act.value(z, a), act.slope(self._one, z, a, slope)]
        self.forward.append(partial(mul, last.tangents, across, out=block.tangents))
        steps: list[Step] = [partial(adjoint.all.mul_, across)]
        if act.bend is not None:
            # Columns of dT, and of V, or of T where it has overwritten V.
            (first, tangent), *others = zip(adjoint.tangents.unbind(1), last.tangents.unbind(1), strict=True)
            sums = [partial(mul, first, tangent, out=q), *(partial(q.addcmul_, dt, v) for dt, v in others)]
            steps = [*sums, *steps, act.bend(adjoint.value, q, z, slope)]
        self.backward[:0] = steps
        return block, adjoint

    def _determinant(self, jacobian: Tensor, cofactors: Tensor, adjoint: Tensor) -> None:
        """By Jacobi's formula its gradient is that of the result times the cofactors; for one input they stay 1."""
        n = len(jacobian)
        if n == 2:
            signs = torch.tensor([1, -1, -1, 1]).to(self._one).diag().flip(1)
            self.forward.append(partial(mm, signs, jacobian.view(4, -1), out=cofactors.view(4, -1)))
        if n == 3:
            cross = partial(torch.linalg.cross, dim=0)
            self.forward += [partial(cross, jacobian[i - 2], jacobian[i - 1], out=cofactors[i]) for i in range(3)]
        total, scratch = self._one.new_zeros(()), torch.empty_like(jacobian[0, 0])
        *terms, last = zip(jacobian[0], cofactors[0], strict=True)
        for entry, cofactor in terms:
            self.forward.append(partial(torch.addcmul, total, entry, cofactor, out=scratch))
            total = scratch
        self.result = partial(torch.addcmul, total, *last)
        self.seed = partial(mul, cofactors, out=adjoint)
