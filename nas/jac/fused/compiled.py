"""The determinant of a small chain as C++: a vector of samples at a time goes through the whole network and back.

The formulas are those of :mod:`nas.jac.fused.tape`; the backward pass computes the values again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from string import Template

import torch
from torch import Tensor, nn

from nas.jac.errors import JacobianError
from nas.jac.fused.activations import NAMES, formulas
from nas.jac.fused.chain import Chain, read_chain
from nas.jac.fused.functions import CLOSED_FORM, Derived
from nas.jac.plan.guard import guard
from nas.jac.refuse import WEIGHTS, check_finite, check_input

empty = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]  # half the time of torch.empty
WIDEST = 16
REAL = {torch.float32: "float", torch.float64: "double"}

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
MIXED(+) MIXED(-) MIXED(*) MIXED(/) MIXED(>)
inline V relu(const V& z) { return at::vec::maximum(z, V(0)); }
inline V sign(const V& z) { return V::blendv(V(0), V(1), z > V(0)); }  // of z >= 0
inline V softplus(const V& z, double beta, double threshold) {
    return V::blendv((beta * z).exp().log1p() / beta, z, beta * z > threshold);
}
inline V sigmoid(const V& z) { return 1 / (1 + z.neg().exp()); }
inline V tanh(const V& z) { return 2 * sigmoid(2 * z) - 1; }  // to a rounding of 1; Sleef's takes three times as long
inline Real total(V lanes) { return at::vec::vec_reduce_all<Real>([](V& a, V& b) { return a + b; }, lanes); }

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
template <class F, int O> void activation(F (&f)[O], const Block<O>& in, Block<O>& out) {
    for (int o = 0; o < O; o++) {
        f[o].at(in[o][0]);
        out[o][0] = f[o].a;
        for (int r = 1; r < ROWS; r++) out[o][r] = f[o].s * in[o][r];
    }
}
template <class F, int O>
void activation_back(const F (&f)[O], const Block<O>& in, const Block<O>& dout, Block<O>& din) {
    for (int o = 0; o < O; o++) {
        V sum(0);
        for (int r = 1; r < ROWS; r++) sum = fmadd(dout[o][r], in[o][r], sum);
        for (int r = 0; r < ROWS; r++) din[o][r] = f[o].s * dout[o][r];
        din[o][0] = fmadd(f[o].c, sum, din[o][0]);
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
// Writes det; or, going back (1) from its gradient g, those of parameters; of x too (2). Are x and det finite?
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


class Original:
    """What was compiled: the modules, parameters and buffers of a model, ``tensors``, and the kind of ``x``."""

    def __init__(self, model: object, tensors: Sequence[Tensor], x: Tensor, free: int) -> None:
        self._kind, self._free = (x.shape[free:], x.dtype, x.device), free  # some first dimensions may change
        modules = list(model.modules()) if isinstance(model, nn.Module) else []
        tables = [table for m in modules for table in (m._modules, m._parameters, m._buffers) if table]
        self._tables = [table.values() for table in tables]
        self._members = list(chain.from_iterable(self._tables))  # alive, so that no other takes their place in memory
        self._ids = list(map(id, self._members))
        self.tensors, self.memory = tensors, [tensor.detach() for tensor in tensors]

    def check(self, x: Tensor) -> None:
        """Refuse an ``x`` of another kind, and a model with other members or with tensors in other memory."""
        if not isinstance(x, Tensor) or (x.shape[self._free :], x.dtype, x.device) != self._kind:
            check_input("x", x)
            found, (shape, dtype, device) = f"{tuple(x.shape)}, {x.dtype}, {x.device}", self._kind
            rule = f"was compiled for {('B',) * self._free + tuple(shape)}, {dtype}, {device}"
            raise JacobianError("x", found, rule, "call compiled(model, x) once for each kind of input")
        if not all(map(Tensor.is_set_to, self.tensors, self.memory)):  # they may have another type or shape
            rule = "are in other memory than when the model was compiled, as after .to() or .data = ..."
            raise JacobianError("model", "parameters", rule, "call compiled again")
        if list(map(id, chain.from_iterable(self._tables))) != self._ids:
            rule = "are not those that were compiled, as after load_state_dict(..., assign=True) or model[0] = ..."
            raise JacobianError("model", "modules or parameters", rule, "call compiled again")


class Determinant:
    """The function ``(B, N)`` to the determinants ``(B,)`` of a chain's Jacobians, for inputs such as ``x``."""

    second = "of", "determinant", "is compiled with first derivatives only", "use jacobian_det(model, x, fused=False)"

    def __init__(self, model: Callable[[Tensor], Tensor], x: Tensor) -> None:
        layers = None if guard(model) is None else read_chain(model, x)
        named = _weights(layers or [])
        small = x.shape[-1] <= CLOSED_FORM and max((width for _, width in layers or []), default=0) <= WIDEST
        plain = x.is_cpu and x.dtype in REAL and all(weight.is_contiguous() for weight in named.values())
        if not (layers and named and small and plain):
            rule = f"must be a chain of Linear and {', '.join(NAMES)}, with 3 inputs and {WIDEST} features at most, "
            rule += "in float32 or float64 on a CPU, to be compiled"
            raise JacobianError("model", type(model).__name__, rule, "use jacobian_det(model, x)")
        self._kernel, self._weights = _kernel(layers, named, x), tuple(named.values())
        self._shapes = [(tuple(weight.shape), weight.stride(), weight.dtype) for weight in self._weights]
        self._original = Original(model, self._weights, x, free=1)

    def __call__(self, x: Tensor) -> Tensor:
        self._original.check(x)
        det: Tensor = Derived.apply(self, None, x.contiguous(), *self._weights)
        return det

    def run(self, x: Tensor) -> Tensor:
        """The determinants; an ``x`` or a result that is not finite is refused."""
        batch = x.shape[0]  # len takes longer
        det = empty((batch,), (1,), x.dtype)
        if not self._kernel(batch, x, x, det, 0, x, *self._weights, *self._weights):
            check_input("x", x)
            check_finite("det", det, "the determinant", WEIGHTS)
        return det

    def read(self, x: Tensor) -> Sequence[Tensor]:
        """What ``pull`` reads."""
        return x, *self._weights

    def pull(self, x: Tensor, g: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the inputs ``(self, None, x, *weights)``, that of ``x`` if it is ``needed``."""
        dx, gradients = torch.empty_like(x) if needed[2] else None, [empty(*shape) for shape in self._shapes]
        back = (1, x) if dx is None else (2, dx)
        self._kernel(x.shape[0], x, g.contiguous(), x, *back, *self._weights, *gradients)
        return [None, None, dx, *gradients]


def _weights(chain: Chain) -> dict[str, Tensor]:
    """Weights and biases by their names in C++, but for the last bias, which does not enter the Jacobian."""
    linear = [(k, module) for k, (module, _) in enumerate(chain) if isinstance(module, nn.Linear)]
    both = {f"w{k}": module.weight for k, module in linear} | {f"b{k}": module.bias for k, module in linear}
    return {name: part for name, part in both.items() if part is not None and name != f"b{len(chain) - 1}"}


def _kernel(chain: Chain, weights: dict[str, Tensor], x: Tensor) -> Callable[..., bool]:
    """The compiled ``kernel`` of the source, as a function of tensors."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    class Library(CppPythonBindingsCodeCache):
        call_entry_function = "return PyBool_FromLong(kernel({}));"

    activations, sums, forward, back, inputs = "", "", "", "", x.shape[1]
    for k, (module, outputs) in enumerate(chain):
        if isinstance(module, nn.Linear):
            bias = f"b{k}" if f"b{k}" in weights else "nullptr"
            sums += f"V sum_w{k}[{outputs * inputs}] = {{}}, sum_b{k}[{outputs}] = {{}};\n"
            forward += f"Block<{outputs}> h{k + 1}; linear(w{k}, {bias}, h{k}, h{k + 1});\n"
            last = f"linear_back(w{k}, h{k}, d{k + 1}, d{k}, sum_w{k}, sum_b{k})"
        else:
            code = f"V p, q, t, u; {formulas(module)}"
            activations += f"struct F{k} {{ V a, s, c = V(0); void at(const V& z) {{ {code} }} }};\n"
            forward += f"F{k} f{k}[{outputs}]; Block<{outputs}> h{k + 1}; activation(f{k}, h{k}, h{k + 1});\n"
            last = f"activation_back(f{k}, h{k}, d{k + 1}, d{k})"
        back = f"Block<{inputs}> d{k}; {last};\n{back}"
        inputs = outputs
    arguments = ["int64_t batch", "const Real* x", "const Real* g", "Real* det", "int64_t back", "Real* dx"]
    arguments += [f"const Real* {name}" for name in weights] + [f"Real* d{name}" for name in weights]
    source = _SOURCE.substitute(
        real=REAL[x.dtype],
        inputs=x.shape[1],
        activations=activations,
        arguments=", ".join(arguments),
        sums=sums,
        forward=f"{forward}const auto& j = h{len(chain)};",
        back=f"const auto& d{len(chain)} = dj;\n{back}",
        write=" ".join(f"for (auto& s : sum_{name}) *d{name}++ = total(s);" for name in weights),
    )
    kinds = [argument.rsplit(" ", 1)[0].replace("Real", REAL[x.dtype]) for argument in arguments]
    return Library.load_pybinding(kinds, source)
