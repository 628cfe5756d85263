"""The training-free proxies as their formulas read, in float64: one sample, one layer, one number at a time.

Each function takes ``(network, batches)`` and returns one number. Nothing here is shared with ``nas.score``. Where a
published code and its paper disagree, the docstring says which one is written down.

A layer is an ``nn.Conv2d`` or an ``nn.Linear``, as in zero-cost-nas (Abdelfattah et al., "Zero-Cost Proxies for
Lightweight NAS", ICLR 2021, and its code), and only its weight counts. Its networks share no weight between layers and
freeze none; here a shared weight is one weight, with its whole gradient, and a frozen one counts like any other.
Dropout, which those codes leave on, drops nothing.
"""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.seeds import generator

Batches = Sequence[tuple[Tensor, Tensor]]


def in_train_mode(network: nn.Module) -> nn.Module:
    """A float64 copy, all of it in train mode, nothing frozen, no gradient left over."""
    net = copy.deepcopy(network).double().train()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    for module in net.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    return net


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over samples of ``log(sum(exp(logits))) - logits[label]``."""
    losses = [torch.logsumexp(row, 0) - row[label] for row, label in zip(logits, y.tolist(), strict=True)]
    return torch.stack(losses).sum() / len(losses)


def layer_weights(net: nn.Module) -> list[Tensor]:
    """The weights of the convolutions and Linears, each tensor once."""
    found: list[Tensor] = []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not any(module.weight is one for one in found):
            found.append(module.weight)
    return found


def gradients(value: Tensor, tensors: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of one number; zeros for what it does not depend on."""
    found = torch.autograd.grad(value, tensors, create_graph=create_graph, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]


def loss_gradients(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return gradients(cross_entropy(net(x.double()), y), layer_weights(net))


def total(tensor: Tensor) -> float:
    return math.fsum(tensor.detach().flatten().tolist())


def grad_norm(network: nn.Module, batches: Batches) -> float:
    """Sum over layers of the Euclidean norm of the weight's gradient (zero-cost-nas)."""
    return math.fsum(math.sqrt(total(g * g)) for g in loss_gradients(in_train_mode(network), *batches[0]))


def l2_norm(network: nn.Module, batches: Batches) -> float:
    """Sum over layers of the Euclidean norm of the weight (zero-cost-nas)."""
    return math.fsum(math.sqrt(total(w * w)) for w in layer_weights(in_train_mode(network)))


def snip(network: nn.Module, batches: Batches) -> float:
    """``sum |w dL/dw|`` (Lee et al., "SNIP", ICLR 2019; unnormalised, as in zero-cost-nas)."""
    net = in_train_mode(network)
    pairs = zip(layer_weights(net), loss_gradients(net, *batches[0]), strict=True)
    return math.fsum(total((w * g).abs()) for w, g in pairs)


def grasp(network: nn.Module, batches: Batches) -> float:
    """``-sum w (H g)``, H and g over the layers' weights alone (Wang et al., "GraSP", ICLR 2020; the code's T is 1).

    zero-cost-nas argues about the sign in a comment and ends with the minus, unlike the first version of its paper.
    """
    net = in_train_mode(network)
    x, y = batches[0]
    held = [g.detach() for g in loss_gradients(net, x, y)]
    weights = layer_weights(net)
    again = gradients(cross_entropy(net(x.double()), y), weights, create_graph=True)
    product = torch.stack([(g * f).sum() for g, f in zip(held, again, strict=True)]).sum()
    return -math.fsum(total(w * hg) for w, hg in zip(weights, gradients(product, weights), strict=True))


def fisher(network: nn.Module, batches: Batches) -> float:
    """A channel's ``1/2 mean_n (sum_hw a dL/da)^2`` for each weight of the channel (Theis et al. 2018; zero-cost-nas).

    ``a`` is what the layer puts out, bias included. A layer that runs twice has two such values.
    """
    net = in_train_mode(network)
    calls: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> Tensor:
        calls.append((module, output))
        return output.clone()  # what comes next may work in place

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(keep)
    x, y = batches[0]
    slopes = gradients(cross_entropy(net(x.double()), y), [output for _, output in calls])
    score = 0.0
    for (module, output), slope in zip(calls, slopes, strict=True):
        for channel in range(output.shape[1]):
            samples = [total(output[n, channel] * slope[n, channel]) ** 2 for n in range(len(x))]
            score += 0.5 * math.fsum(samples) / len(samples) * module.weight[channel].numel()
    return score


def synflow(network: nn.Module, batches: Batches) -> float:
    """``log sum |w dR/dw|``, R the sum of outputs for ones, of absolute parameters (Tanaka et al., NeurIPS 2020).

    As in zero-cost-nas: BatchNorm does nothing, the absolute value is taken of every parameter, biases too.
    The logarithm is ours to take: the sum overflows float32.
    """
    net = in_train_mode(network)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.forward = lambda x: x  # type: ignore[method-assign]
    for parameter in net.parameters():
        parameter.data.abs_()
    ones = torch.ones(1, *batches[0][0].shape[1:], dtype=torch.float64)
    weights = layer_weights(net)
    slopes = gradients(net(ones).sum(), weights)
    flow = math.fsum(total((w * g).abs()) for w, g in zip(weights, slopes, strict=True))
    return math.log(flow) if flow > 0 else -math.inf


def correlation(rows: Tensor) -> np.ndarray:
    """Pearson's correlation of each pair of rows; NaN where a row does not vary."""
    out = np.zeros((len(rows), len(rows)))
    centred = [row - row.mean() for row in rows.detach()]
    for i, a in enumerate(centred):
        for j, b in enumerate(centred):
            scale = math.sqrt(total(a * a) * total(b * b))
            out[i, j] = total(a * b) / scale if scale > 0 else math.nan
    return out


def jacob_cov(network: nn.Module, batches: Batches) -> float:
    """Eigenvalues of the input gradients' correlation matrix (Mellor et al. 2020, first version; zero-cost-nas)."""
    x = batches[0][0].double().requires_grad_(True)
    (jacobian,) = gradients(in_train_mode(network)(x).sum(), [x])
    values = np.linalg.eigvalsh(correlation(jacobian.flatten(1)))
    return -math.fsum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in values)


class ReluInputs(TorchFunctionMode):
    """Notes what goes into each rectifier that begins at 0, however it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("relu", "relu_", "relu6", "leaky_relu") or (name == "clamp" and kwargs.get("min") == 0):
            self.seen.append(args[0].detach().clone())
        return func(*args, **kwargs)


def naswot(network: nn.Module, batches: Batches) -> float:
    """``log |det K|``, K counting the ReLUs on whose state two samples agree (Mellor et al., ICML 2021).

    The published code knows a ReLU by the name of its class: ReLU6 and LeakyReLU are such, NAS-Bench-201's ReLUConvBN
    is and counts its ReLU a second time, a function call is not. Here a ReLU is a call of one.
    """
    x = batches[0][0].double()
    with ReluInputs() as relus:
        in_train_mode(network)(x)
    agree = np.zeros((len(x), len(x)))
    for inputs in relus.seen:
        states = [(row > 0).flatten().tolist() for row in inputs]
        for i, a in enumerate(states):
            for j, b in enumerate(states):
                agree[i, j] += sum(one == two for one, two in zip(a, b, strict=True))
    values = np.linalg.eigvalsh(agree)
    return -math.inf if singular(values) else math.fsum(np.log(values))


def singular(values: np.ndarray) -> bool:
    """Whether a matrix with these eigenvalues is singular to rounding."""
    return bool(values.min() <= values.max() * len(values) * np.finfo(np.float64).eps)


def ntk_matrix(network: nn.Module, batches: Batches) -> np.ndarray:
    """``(B, B)``: dot products of the samples' gradients of summed outputs, by all parameters named weight.

    One forward of the whole batch; with BatchNorm in train mode a sample's output depends on the others.
    """
    net = in_train_mode(network)
    weights = [parameter for name, parameter in net.named_parameters() if "weight" in name]
    rows = [gradients(outputs.sum(), weights) for outputs in net(batches[0][0].double())]
    gram = [[math.fsum(total(a * b) for a, b in zip(one, two, strict=True)) for two in rows] for one in rows]
    return np.array(gram)


def ntk_condition(network: nn.Module, batches: Batches) -> float:
    """Largest over smallest eigenvalue of the kernel (Chen et al., "TE-NAS", ICLR 2021, and its code)."""
    values = np.linalg.eigvalsh(ntk_matrix(network, batches))
    return math.inf if singular(values) else float(values[-1] / values[0])


def zico(network: nn.Module, batches: Batches) -> float:
    """``sum over layers of log sum(mean|g| / std g)`` over batches, where the std is not 0 (Li et al., ICLR 2023).

    The authors' code never clears the gradients between batches, so batch k adds to those before it; here, as
    in the paper and in others' copies, each batch has its own. The std has ddof 0, as numpy's.
    """
    net = in_train_mode(network)
    per_batch = [[g.flatten().tolist() for g in loss_gradients(net, x, y)] for x, y in batches]
    score = 0.0
    for layer in zip(*per_batch, strict=True):  # one list of entries a batch
        ratios = []
        for entries in zip(*layer, strict=True):  # one number a batch
            mean = math.fsum(entries) / len(entries)
            std = math.sqrt(math.fsum((e - mean) ** 2 for e in entries) / len(entries))
            if std != 0:
                ratios.append(math.fsum(map(abs, entries)) / len(entries) / std)
        if math.fsum(ratios) != 0:
            score += math.log(math.fsum(ratios))
    return score


def meco(network: nn.Module, batches: Batches, seed: int = 0) -> float:
    """Sum over module calls of the smallest eigenvalue of the channels' correlations (Jiang et al., NeurIPS 2023).

    As in the authors' code: every module, containers and the whole network too, for one Gaussian image (there always
    64x64, here of the batch's shape). What has no correlation (a channel that does not vary, a map of one pixel, the
    outputs of a Linear) counts as zero.
    """
    net = in_train_mode(network)
    smallest: list[float] = []

    def look(_: nn.Module, __: object, output: Tensor) -> None:
        first = output[0].detach()
        matrix = correlation(first.reshape(first.shape[0], -1))
        smallest.append(float(np.linalg.eigvalsh(np.nan_to_num(matrix, nan=0.0)).min()))

    for module in net.modules():
        module.register_forward_hook(look)
    x = batches[0][0]
    net(torch.randn(1, *x.shape[1:], generator=generator(seed, "meco")).to(x.dtype).double())
    return math.fsum(smallest)


def zen(network: nn.Module, batches: Batches, seed: int = 0, features: str = "") -> float:
    """``log mean_n sum |f(u + 0.01 v) - f(u)| + sum over BatchNorms of log sqrt(mean var)`` (Lin et al., ICCV 2021).

    ``f`` is what the module called ``features`` gives the last time. The code reads ``running_var`` where the paper
    means the batch's variance; this is the paper's, for the input ``u``, as BatchNorm would keep it (ddof 1). One
    draw: weights in the order of the modules, then u, then v.
    """
    net, draws = in_train_mode(network), generator(seed, "zen")
    x = batches[0][0]
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            new = torch.randn(module.weight.shape, generator=draws).to(x.dtype).double()
            module.weight.data.copy_(new)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)) and module.affine:
            module.weight.data.fill_(1)
        if getattr(module, "bias", None) is not None:
            module.bias.data.fill_(0)
    u, v = (torch.randn(x.shape, generator=draws).to(x.dtype).double() for _ in range(2))
    maps: list[Tensor] = []
    variances: list[float] = []

    def variance(_: nn.Module, args: tuple[Tensor]) -> None:
        channels = [args[0][:, c].flatten() for c in range(args[0].shape[1])]
        variances.append(math.fsum(total((c - c.mean()) ** 2) / (len(c) - 1) for c in channels) / len(channels))

    net.get_submodule(features).register_forward_hook(lambda _, __, output: maps.append(output.detach().clone()))
    watches = [m.register_forward_pre_hook(variance) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net(u)
    for watch in watches:
        watch.remove()
    before = maps[-1]
    net(u + 0.01 * v)
    change = total((maps[-1] - before).abs()) / len(u)
    return math.log(change) + math.fsum(math.log(math.sqrt(variance)) for variance in variances)


def parameters(network: nn.Module, batches: Batches) -> float:
    """Numbers in all parameters, a shared one once."""
    return float(sum(parameter.numel() for parameter in network.parameters()))


def flops(network: nn.Module, batches: Batches) -> float:
    """Twice the multiply-accumulates of convolutions and Linears for one image."""
    net = copy.deepcopy(network).double().eval()
    counts: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counts.append(2 * output.numel() * module.weight[0].numel())

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    net(batches[0][0][:1].double())
    return float(sum(counts))


REFERENCES: dict[str, Callable[[nn.Module, Batches], float]] = {
    function.__name__: function
    for function in (
        jacob_cov,
        naswot,
        ntk_condition,
        synflow,
        snip,
        grasp,
        grad_norm,
        fisher,
        l2_norm,
        zico,
        meco,
        parameters,
        flops,
    )
}
"""All but ``zen``, which draws its own weights and images."""
