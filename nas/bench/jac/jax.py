"""The same cases in JAX, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nas.bench.jac.cases import Call, Net, classifier, normal, square_net

Rows = dict[str, Call]
"""By their name in the table."""


class Jax:
    """JAX and neural-tangents as far as they can be imported; ``missing`` names the others and why.

    neural-tangents 0.6.5, the last release, imports names that JAX has dropped since: with jax 0.10 it does not import,
    and its structured derivatives, which are what makes it fast, ran last on jax 0.4.25.
    """

    def __init__(self, threads: int) -> None:
        self.jax: Any = None
        self.tangents: Any = None
        self.missing: dict[str, str] = {}
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        if threads == 1:
            os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
        try:
            import jax

            self.jax = jax
        except ImportError as error:
            self.missing["jax"] = _reason(error)
            return
        try:
            import neural_tangents
        except ImportError as error:
            self.missing["neural-tangents"] = _reason(error)
            return
        if hasattr(jax.interpreters.ad, "source_info_util"):  # what they call
            self.tangents = neural_tangents
        else:
            self.missing["neural-tangents"] = f"its structured derivatives do not run on jax {jax.__version__}"

    def determinant(self, batch: int) -> Rows:
        """A step of the determinant's loss."""
        if self.jax is None:
            return {}
        jax, numpy = self.jax, self.jax.numpy
        parameters, net = self.rewritten(square_net())
        x = self.array(normal(batch, 2))

        def loss(parameters: Any) -> Any:
            jacobians = jax.vmap(jax.jacrev(lambda one: net(parameters, one[None])[0]))(x)
            return ((numpy.linalg.det(jacobians) - 1) ** 2).mean()

        return {"jax.jit(value_and_grad), det of jacrev": self.ready(jax.jit(jax.value_and_grad(loss)), parameters)}

    def samples(self, batch: int) -> Rows:
        """The Jacobians of the network with 500 inputs."""
        if self.jax is None:
            return {}
        parameters, net = self.rewritten(classifier())
        x = self.array(normal(batch, 500))
        reverse = self.jax.jacrev(lambda one: net(parameters, one[None])[0])
        if batch == 1:
            return {"jax.jit(jacrev)": self.ready(self.jax.jit(reverse), x[0])}
        return {"jax.jit(vmap(jacrev))": self.ready(self.jax.jit(self.jax.vmap(reverse)), x)}

    def kernel(self, network: Net, batch: int) -> Rows:
        """The tangent kernel: by contraction, and by neural-tangents in its fastest way for such a network."""
        if self.jax is None:
            return {}
        jax, numpy = self.jax, self.jax.numpy
        model, inputs = network.make(batch)
        (parameters, net), x = self.rewritten(model), self.array(inputs)

        def single(parameters: Any, one: Any) -> Any:
            return net(parameters, one[None])[0]

        def contraction(parameters: Any) -> Any:
            jacobians = jax.vmap(jax.jacrev(single), (None, 0))(parameters, x)
            flat = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobians)]
            return sum(numpy.einsum("Naf,Mbf->NMab", one, one) for one in flat)

        rows = {"jax.jit, contraction": self.ready(jax.jit(contraction), parameters)}
        if self.tangents is not None:
            way = self.tangents.NtkImplementation.STRUCTURED_DERIVATIVES
            ntk = self.tangents.empirical_ntk_fn(net, trace_axes=(), vmap_axes=0, implementation=way)
            compiled = jax.jit(lambda parameters: ntk(x, None, parameters))
            rows["neural-tangents, structured derivatives"] = self.ready(compiled, parameters)
        return rows

    def array(self, tensor: torch.Tensor) -> Any:
        """The tensor as a JAX array."""
        return self.jax.numpy.asarray(tensor.detach().numpy())

    def ready(self, call: Callable[..., Any], *arguments: Any) -> Call:
        """Wait for the result: JAX returns before it has computed it."""
        return lambda: self.jax.block_until_ready(call(*arguments))

    def rewritten(self, model: nn.Module) -> tuple[Any, Callable[[Any, Any], Any]]:
        """The parameters of a Sequential and its function ``(parameters, x)``, with its current weights."""
        assert isinstance(model, nn.Sequential)
        jax = self.jax
        parameters = [[self.array(p) for p in layer.parameters()] for layer in model]

        def function(parameters: Any, x: Any) -> Any:
            for layer, own in zip(model, parameters, strict=True):
                match layer:
                    case nn.Linear():
                        x = x @ own[0].T + own[1]
                    case nn.Conv2d():
                        x = jax.lax.conv(x, own[0], layer.stride, "VALID") + own[1][:, None, None]
                    case nn.ReLU():
                        x = jax.nn.relu(x)
                    case nn.Tanh():
                        x = jax.numpy.tanh(x)
                    case nn.Softmax():
                        x = jax.nn.softmax(x)
                    case nn.Flatten():
                        x = x.reshape(len(x), -1)
                    case _:
                        raise AssertionError(f"no rule for {layer}")
            return x

        return parameters, function


def _reason(error: ImportError) -> str:
    return str(error).partition(" (/")[0]  # without the path of the file
