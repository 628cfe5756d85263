"""The faster of one and all threads is chosen by the work itself, and a run keeps it."""

import pytest
import torch
from support.runs import CHAIN, finish, tiny
from torch import nn

from nas import checkpoint
from nas.checkpoint import load_trained
from nas.errors import CheckpointError, SettingError
from nas.rank.target import RankTarget
from nas.score.benchmark import BenchmarkTable
from nas.search import Search
from nas.settings import SearchRunSettings, SearchSettings, SyntheticSettings, TrainSettings
from nas.threads import MOST, WARM_UP, Threads, passes
from nas.train import Run, fit
from nas.train.fast import Trial


@pytest.fixture
def four(monkeypatch):
    """torch with four threads that are none; a list whose last entry is their number."""
    numbers = [4]
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    return numbers


def chosen_by(numbers, seconds):
    """What is chosen, and after how many pieces; number ``k`` of those on ``n`` threads takes ``seconds(n, k)``."""
    with Threads("auto") as threads:
        for made in range(100):
            if line := threads.note(seconds(numbers[-1], made // 2)):
                assert line.startswith(f"threads: {threads.chosen} (a step takes ")
                assert numbers[-1] == threads.chosen
                break
    assert numbers[-1] == 4, "what was set before is put back"
    return threads.chosen, made + 1


def test_the_faster_number_is_chosen(four):
    wobble = (0.0, 0.1, -0.1, 0.05, -0.05)
    assert chosen_by(four, lambda n, k: (1 if n == 1 else 10) + wobble[k % 5]) == (1, 8)  # the trial is short
    assert chosen_by(four, lambda n, k: (1 if n == 1 else 0.6) + wobble[k % 5]) == (4, 22)
    assert chosen_by(four, lambda n, k: 50 if k == 0 and n == 1 else 1 if n == 1 else 3) == (1, 8)  # it warms up
    # All threads are faster, but for one piece in eight, in which something else had a core.
    assert chosen_by(four, lambda n, k: 1 if n == 1 else 10 if k % 8 == 5 else 0.6)[0] == 1
    assert chosen_by(four, lambda n, k: 1 + (n == 4) * (k % 2 - 0.49))[1] == WARM_UP + 2 * MOST  # and it ends


def test_a_number_stays_and_one_thread_needs_no_choice(four):
    for setting, most in ((3, 3), (0, 4), ("auto", 1)):
        four.append(most if setting == "auto" else 4)
        with Threads(setting) as threads:
            assert threads.choose(lambda: pytest.fail("there is nothing to choose")) == threads.note(1.0) == ""
            assert four[-1] == threads.chosen == most
    for wrong in (-1, "all", True, 2000):
        with pytest.raises(SettingError, match="must be auto, or a number between 0 and 1024"):
            TrainSettings(threads=wrong)


def test_passes_take_each_architecture_on_both_numbers(four):
    class Seen(nn.Linear):
        def forward(self, x, architecture):
            seen.append((architecture, four[-1], torch.is_grad_enabled()))
            return super().forward(x)

    for gradients in (False, True):
        seen, network = [], Seen(2, 2)
        with Threads("auto", "pass") as threads:
            line = threads.choose(lambda: passes(network, torch.ones(3, 2), "ab", gradients), spend_s=0)  # noqa: B023
        assert line.startswith("threads: ")
        expected = [("a", 1), ("a", 4), ("b", 4), ("b", 1)]
        assert seen == [(*pair, gradients) for pair in expected]  # one pair to warm up, one that must do
        assert network.weight.grad is None


def test_searches_and_rankings_time_a_pass_of_theirs(tmp_path):
    finish(tiny(epochs=1), tmp_path / "run")
    trained = {"checkpoint": str(tmp_path / "run")}
    untrained = {"space": CHAIN, "data": SyntheticSettings(size=100)}
    for name, target in (("loss", trained), ("trained", trained), ("naswot", untrained), ("flops", untrained)):
        how = SearchSettings(objectives=[name], proxy_images=8, sampler="random", progress=False, tensorboard=False)
        search = Search(SearchRunSettings(search=how, **target), tmp_path / name)
        search.measures.piece_of_work()()
        search.study.close()
    space, few = search.target.space, (torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))
    table = BenchmarkTable("table", list(space.enumerate())[:4], torch.rand(4, 1), None)
    for supernets in ([load_trained(tmp_path / "run")], []):
        ranked = RankTarget(space, CHAIN, table, supernets, (3, 16, 16), [few])
        ranked.piece_of_work()()


def test_a_resumed_run_keeps_the_number_it_chose(tmp_path, four, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("nas.threads.perf_counter", lambda: clock.append(clock[-1] + four[-1]) or clock[-1])
    settings = tiny(threads="auto", save_every=5)
    run = Run(settings, tmp_path)
    assert run.timings == "threads: 1 (a step takes 1 s; 4 s with 4)"
    fit(run, until=5)
    monkeypatch.setattr(Trial, "__init__", lambda *_: pytest.fail("it is chosen already"))
    used = []
    resumed = Run(settings, tmp_path)
    monkeypatch.setattr(resumed.progress, "advance", lambda *_: used.append(four[-1]))
    fit(resumed)
    assert set(used) == {1}
    assert four[-1] == 4
    assert resumed.timings == run.timings


def test_a_damaged_number_of_threads_is_one_line(tmp_path):
    finish(tiny(epochs=1, threads="auto"), tmp_path)
    state = checkpoint.load(checkpoint.saved(tmp_path)[0])
    checkpoint.save(tmp_path, state["step"], {**state, "threads": "many"})
    with pytest.raises(CheckpointError, match="'many' is no number of threads"):
        Run(tiny(epochs=1, threads="auto"), tmp_path)
