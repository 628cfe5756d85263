"""How a process computes on a GPU: torch's flags, which exist without one too."""

import pytest
import torch

from nas.dist import set_cuda_flags
from nas.settings import TrainSettings


def flags():
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.deterministic


@pytest.fixture(autouse=True)
def _back():
    tf32, matmul, benchmark, deterministic = flags()
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def test_float32_is_float32_on_a_gpu_unless_asked():
    gpu = torch.device("cuda")
    set_cuda_flags(gpu, TrainSettings())
    assert flags() == (False, "highest", False, True)
    set_cuda_flags(gpu, TrainSettings(tf32=True))
    assert flags() == (True, "high", False, True)
    set_cuda_flags(gpu, TrainSettings(cudnn_benchmark=True))
    assert flags() == (False, "highest", True, False)


def test_a_run_on_the_cpu_leaves_the_flags():
    before = flags()
    set_cuda_flags(torch.device("cpu"), TrainSettings(tf32=True, cudnn_benchmark=True))
    assert flags() == before
