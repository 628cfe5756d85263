"""The determinant of a small chain as C++: a vector of samples at a time goes through the whole network and back.

The formulas are those of :mod:`nas.jac.fused.tape`; the backward pass computes the values again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Template
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from nas.jac.errors import JacobianError
from nas.jac.fused.chain import flat
from nas.jac.plan.guard import guard
from nas.jac.refuse import WEIGHTS, check_finite, check_input

empty = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]  # half the time of torch.empty
CLOSED_FORM, WIDEST = 3, 16
REAL = {torch.float32: "float", torch.float64: "double"}

_GELU = {
    "none": """const V p = 0.5 + 0.5 * (z * 0.7071067811865476).erf(), q = 0.3989422804014327 * (-0.5 * z * z).exp();
        a = z * p; s = p + z * q; c = (2 - z * z) * q;""",
    "tanh": """const V k(0.7978845608028654), u = 0.044715 * z * z;
        const V t = tanh(k * z * (1 + u)), du = k * (1 + 3 * u), dt = 1 - t * t;
        a = 0.5 * z * (1 + t); s = 0.5 * (1 + t + z * dt * du);
        c = dt * (du + z * (0.134145 * k * z - t * du * du));""",
}
ACTIVATIONS: dict[type[nn.Module], Callable[[Any], str]] = {
    nn.Tanh: lambda m: "a = tanh(z); s = 1 - a * a; c = -2 * a * s;",
    nn.Sigmoid: lambda m: "a = sigmoid(z); s = a - a * a; c = (1 - 2 * a) * s;",
    nn.ReLU: lambda m: "a = at::vec::maximum(z, V(0)); s = where(z > 0, V(1), V(0)); c = V(0);",
    nn.LeakyReLU: lambda m: f"s = where(z > 0, V(1), V({m.negative_slope!r})); a = z * s; c = V(0);",
    nn.ELU: lambda m: (
        f"""a = where(z > 0, z, {m.alpha!r} * z.expm1());
        s = where(z > 0, V(1), {m.alpha!r} * z.exp()); c = where(z < 0, s, V(0));"""
    ),
    nn.SiLU: lambda m: (
        """const V p = sigmoid(z), q = 1 - p;
        a = z * p; s = p * (1 + z * q); c = p * q * (2 + z * (q - p));"""
    ),
    nn.GELU: lambda m: _GELU[m.approximate],
    nn.Softplus: lambda m: (
        f"""const V u = {m.beta!r} * z, p = sigmoid(u); const V far = u > {m.threshold!r};
        a = where(far, z, u.exp().log1p() / {m.beta!r}); s = where(far, V(1), p); c = {m.beta!r} * s * (1 - s);"""
    ),
    nn.Softsign: lambda m: (
        """const V p = 1 / (1 + z.abs());
        a = z * p; s = p * p; c = where(z > 0, V(-2), where(z < 0, V(2), V(0))) * s * p;"""
    ),
}
"""In C++: ``a = f(z)``, ``s = f'(z)`` and ``c = f''(z)`` of each activation; at kinks as torch has them."""

_SOURCE = Template(r"""
#include <torch/csrc/inductor/cpp_prefix.h>
using Real = $real;
using V = at::vec::Vectorized<Real>;
constexpr int N = $inputs, ROWS = 1 + N, LANES = V::size();
constexpr double inf = INFINITY;  // as Python writes it
template <int F> using Block = V[F][ROWS];  // of each feature: its value, and its derivative by each input

#define MIXED(op) \
    inline V operator op(double a, const V& b) { return V(a) op b; } \
    inline V operator op(const V& a, double b) { return a op V(b); }
MIXED(+) MIXED(-) MIXED(*) MIXED(/) MIXED(<) MIXED(>)
inline V where(const V& mask, const V& yes, const V& no) { return V::blendv(no, yes, mask); }
inline V sigmoid(const V& z) { return 1 / (1 + z.neg().exp()); }
inline V tanh(const V& z) { return 2 * sigmoid(2 * z) - 1; }  // to a rounding of 1; Sleef's takes three times as long
inline Real total(V lanes) { return at::vec::vec_reduce_all<Real>([](V& a, V& b) { return a + b; }, lanes); }

template <int S> void write(V (&sums)[S], Real* out) {
    for (int i = 0; i < S; i++) out[i] = total(sums[i]);
}
template <int I, int O> void linear(const Real* w, const Real* b, const Block<I>& in, Block<O>& out) {
    for (int o = 0; o < O; o++)
        for (int r = 0; r < ROWS; r++) {
            out[o][r] = V(b && r == 0 ? b[o] : 0);
            for (int i = 0; i < I; i++) out[o][r] = fmadd(V(w[o * I + i]), in[i][r], out[o][r]);
        }
}
template <int I, int O>
void linear_back(const Real* w, const Block<I>& in, const Block<O>& dout, Block<I>& din, V (&dw)[O * I], V (&db)[O]) {
    for (int o = 0; o < O; o++) db[o] = db[o] + dout[o][0];
    for (int i = 0; i < I; i++)
        for (int r = 0; r < ROWS; r++) {
            din[i][r] = V(0);
            for (int o = 0; o < O; o++) {
                din[i][r] = fmadd(V(w[o * I + i]), dout[o][r], din[i][r]);
                dw[o * I + i] = fmadd(dout[o][r], in[i][r], dw[o * I + i]);
            }
        }
}
template <class F, int O> void activation(const Block<O>& in, Block<O>& out) {
    for (int o = 0; o < O; o++) {
        const F f(in[o][0]);
        out[o][0] = f.a;
        for (int r = 1; r < ROWS; r++) out[o][r] = f.s * in[o][r];
    }
}
template <class F, int O> void activation_back(const Block<O>& in, const Block<O>& dout, Block<O>& din) {
    for (int o = 0; o < O; o++) {
        const F f(in[o][0]);
        V sum(0);
        for (int r = 1; r < ROWS; r++) sum = fmadd(dout[o][r], in[o][r], sum);
        for (int r = 0; r < ROWS; r++) din[o][r] = f.s * dout[o][r];
        din[o][0] = fmadd(f.c, sum, din[o][0]);
    }
}
V cofactor(const Block<N>& j, int i, int k) {
    if constexpr (N == 1) return V(1);
    if constexpr (N == 2) return i == k ? j[1 - i][2 - k] : j[1 - i][2 - k].neg();
    const int a = (i + 1) % N, b = (i + 2) % N, c = 1 + (k + 1) % N, d = 1 + (k + 2) % N;
    return j[a][c] * j[b][d] - j[a][d] * j[b][c];
}
V gather(const Real* from, int stride, int count, Real beyond) {
    Real lanes[LANES];
    for (int l = 0; l < LANES; l++) lanes[l] = l < count ? from[l * stride] : beyond;
    return V::loadu(lanes);
}
$activations
// Writes det; or, with the gradient g of det, those of x and of the parameters. Gives whether x and det are finite.
extern "C" bool kernel($arguments) {
    V seen(0);
    $sums
    for (int64_t start = 0; start < batch; start += LANES) {
        const int count = std::min<int64_t>(LANES, batch - start);
        Block<N> h0, dj;
        for (int i = 0; i < N; i++) {
            h0[i][0] = gather(x + start * N + i, N, count, x[i]);
            for (int k = 0; k < N; k++) h0[i][1 + k] = V(i == k);
            seen = seen + h0[i][0];
        }
        $forward
        if (!back) {
            V sum(0);
            for (int k = 0; k < N; k++) sum = fmadd(j[0][1 + k], cofactor(j, 0, k), sum);
            sum.store(det + start, count);
            seen = seen + sum;
            continue;
        }
        const V seed = gather(g + start, 1, count, 0);
        for (int i = 0; i < N; i++) {
            dj[i][0] = V(0);
            for (int k = 0; k < N; k++) dj[i][1 + k] = seed * cofactor(j, i, k);
        }
        $back
        for (int i = 0; back > 1 && i < N; i++) {
            Real lanes[LANES];
            d0[i][0].store(lanes);
            for (int l = 0; l < count; l++) dx[(start + l) * N + i] = lanes[l];
        }
    }
    if (back) { $write }
    return batch && std::isfinite(total(seen));
}
""")


def kind_error(x: object, *kind: object) -> JacobianError:
    """The error for an input of another ``(shape, dtype, device)`` than was compiled for."""
    check_input("x", x)  # type: ignore[arg-type]
    assert isinstance(x, Tensor)
    found, rule = f"{tuple(x.shape)}, {x.dtype}, {x.device}", f"was compiled for {', '.join(map(str, kind))}"
    return JacobianError("x", found, rule, "call compiled(model, x) once for each kind of input")


def check_places(tensors: Sequence[Tensor], memory: Sequence[Tensor]) -> None:
    """Refuse parameters that are not in the memory that they were in: they may have another type or shape."""
    if not all(map(Tensor.is_set_to, tensors, memory)):
        rule = "are in other memory than when the model was compiled, as after .to() or .data = ..."
        raise JacobianError("model", "parameters", rule, "call compiled again")


class Chain(NamedTuple):
    """A compiled chain: its C++, and the shape, strides and dtype of its parameters."""

    kernel: Callable[..., bool]
    kinds: list[tuple]


class Determinant(Function):
    """``(chain, x, *weights)`` to ``(B,)``; it refuses an ``x`` or a result that is not finite."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.chain = chain
        ctx.save_for_backward(x, *weights)
        batch = x.shape[0]
        det = empty((batch,), (1,), x.dtype)
        if not chain.kernel(batch, x, x, det, 0, x, *weights, *weights):
            check_input("x", x)
            check_finite("det", det, "the determinant", WEIGHTS)
        return det

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            rule = "is compiled with first derivatives only, and a second one was asked for"
            raise JacobianError("of", "determinant", rule, "use jacobian_det(model, x, fused=False)")
        chain, (x, *weights) = ctx.chain, ctx.saved_tensors
        dx, gradients = torch.empty_like(x) if ctx.needs_input_grad[1] else None, [empty(*kind) for kind in chain.kinds]
        back = (1, x) if dx is None else (2, dx)
        chain.kernel(x.shape[0], x, g.contiguous(), x, *back, *weights, *gradients)
        return None, dx, *gradients


def determinant(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """``(B, N)`` to the determinants ``(B,)`` of a chain's Jacobians, for inputs such as ``x``; they are square."""
    modules = flat(model)
    weights = _weights(modules)
    widths = {*map(len, weights.values())}
    small = x.dim() == 2 and x.shape[1] <= CLOSED_FORM and widths and 0 < min(widths) <= max(widths) <= WIDEST
    plain = x.device.type == "cpu" and x.dtype in REAL and all(w.is_contiguous() for w in weights.values())
    known = guard(model) is not None and all(type(m) is nn.Linear or type(m) in ACTIVATIONS for m in modules)
    if not (known and small and plain):
        rule = f"must be a chain of Linear layers and activations, 3 inputs and {WIDEST} features at most, on a CPU"
        raise JacobianError("model", type(model).__name__, f"{rule}, to be compiled", "use jacobian_det(model, x)")
    parameters = tuple(weights.values())
    memory = [parameter.detach() for parameter in parameters]
    kinds = [(tuple(parameter.shape), parameter.stride(), parameter.dtype) for parameter in parameters]
    chain = Chain(_kernel(modules, weights, x), kinds)
    inputs, dtype = x.shape[1], x.dtype

    def call(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != inputs or x.dtype is not dtype or not x.is_cpu:
            raise kind_error(x, ("B", inputs), dtype, "cpu")
        check_places(parameters, memory)
        return Determinant.apply(chain, x.contiguous(), *parameters)

    return call


def _weights(modules: list[nn.Module]) -> dict[str, Tensor]:
    """Weights and biases by their names in C++, but for the last bias, which does not enter the Jacobian."""
    linear = [(k, module) for k, module in enumerate(modules) if isinstance(module, nn.Linear)]
    both = {f"w{k}": module.weight for k, module in linear} | {f"b{k}": module.bias for k, module in linear}
    return {name: part for name, part in both.items() if part is not None and name != f"b{len(modules) - 1}"}


def _kernel(modules: list[nn.Module], weights: dict[str, Tensor], x: Tensor) -> Callable[..., bool]:
    """The compiled ``kernel`` of the source, as a function of tensors."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    class Library(CppPythonBindingsCodeCache):
        call_entry_function = "return PyBool_FromLong(kernel({}));"

    activations, sums, forward, back, inputs = "", "", "", "", x.shape[1]
    for k, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            outputs, bias = module.out_features, f"b{k}" if f"b{k}" in weights else "nullptr"
            sums += f"V sum_w{k}[{outputs * inputs}] = {{}}, sum_b{k}[{outputs}] = {{}};\n"
            forward += f"Block<{outputs}> h{k + 1}; linear(w{k}, {bias}, h{k}, h{k + 1});\n"
            last = f"Block<{inputs}> d{k}; linear_back(w{k}, h{k}, d{k + 1}, d{k}, sum_w{k}, sum_b{k});\n"
            inputs = outputs
        else:
            formulas = ACTIVATIONS[type(module)](module)
            activations += f"struct F{k} {{ V a, s, c; F{k}(const V& z) {{ {formulas} }} }};\n"
            forward += f"Block<{inputs}> h{k + 1}; activation<F{k}>(h{k}, h{k + 1});\n"
            last = f"Block<{inputs}> d{k}; activation_back<F{k}>(h{k}, d{k + 1}, d{k});\n"
        back = last + back
    arguments = ["int64_t batch", "const Real* x", "const Real* g", "Real* det"]
    arguments += ["int64_t back", "Real* dx"]  # back: 1 for gradients of the parameters, 2 for that of x too
    arguments += [f"const Real* {name}" for name in weights] + [f"Real* d{name}" for name in weights]
    real = REAL[x.dtype]
    source = _SOURCE.substitute(
        real=real,
        inputs=x.shape[1],
        activations=activations,
        arguments=", ".join(arguments),
        sums=sums,
        forward=f"{forward}const auto& j = h{len(modules)};",
        back=f"const auto& d{len(modules)} = dj;\n{back}",
        write=" ".join(f"write(sum_{name}, d{name});" for name in weights),
    )
    kinds = [argument.rsplit(" ", 1)[0].replace("Real", real) for argument in arguments]
    return Library.load_pybinding(kinds, source)
