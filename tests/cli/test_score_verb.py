"""``nas-score`` on the command line."""

import os
import re
import shlex
import signal

import nas.score.run

TINY = ("data=synthetic", "data.image_size=8", "data.size=100", "batch_size=8", "threads=1", "proxies=[naswot,snip]")
TINY = (*TINY, "space.widths=[4]", "space.depths=[3]", "space.strides=[1]", "space.candidates=[skip,conv1,conv3]")


def test_the_best_are_printed_and_all_are_written(nas_score, tmp_path):
    status, out, err = nas_score(*TINY, "run=first", "architectures=23")
    folder = tmp_path / "outputs" / "score" / "first"
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0] == f"chain: 23 of 27 architectures; {folder}"
    assert lines[1] == "Best by the rank sum of naswot, snip"
    places = [line for line in lines if re.match(r"│ +\d+ │", line)]
    written = (folder / "scores.csv").read_text().splitlines()[1:]
    assert [line.split("│")[2].strip() for line in places] == [row.split(",")[0] for row in written[:20]]
    assert len(written) == 23
    assert "and 3 more in scores.csv" in out
    assert lines[-1] == f"scores: {folder / 'scores.csv'}"
    assert "\x1b" not in out


def test_a_single_proxy_ranks_by_itself(nas_score):
    status, out, _ = nas_score(*TINY, "run=one", "architectures=3", "proxies=[snip]")
    assert status == 0
    assert "Best by snip" in out
    assert "rank sum" not in out


def test_a_stop_keeps_the_scores_it_has(nas_score, tmp_path, monkeypatch):
    words, calls = (*TINY, "architectures=5"), []
    scored = nas.score.run.score

    def stop_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return scored(*arguments)

    monkeypatch.setattr(nas.score.run, "score", stop_at_the_third)
    status, out, err = nas_score(*words, "run=stopped")
    folder = tmp_path / "outputs" / "score" / "stopped"
    assert (status, err) == (130, "")
    last = rf"stopped by SIGINT; 3 of 5 architectures are in {folder}/scores.jsonl; to go on: (.*)"
    found = re.fullmatch(last, out.splitlines()[-1])
    assert found, out
    assert not (folder / "scores.csv").exists()
    _, *printed = shlex.split(found[1])
    status, out, _ = nas_score(*printed)
    assert status == 0
    assert out.startswith(f"chain: 5 of 27 architectures, 3 scored before; {folder}")
    assert len(calls) == 5
    assert (folder / "scores.csv").read_text().count("\n") == 6


WRONG = [
    (["proxies=[nas_wot]"], r"proxies=nas_wot: is not a proxy; did you mean naswot\?"),
    (["proxies=[zico]", "batches=1"], r"proxies=zico: needs at least 2 batches: .*; give batches=2"),
    (["only=[0-0-7]"], r"architecture=\(0, 0, 7\): entry 7 .*"),
    (["batch_size=99"], r"batch_size=99: 2 such batches need 198 training images; there are \d+; .*"),
]


def test_a_mistake_is_one_line_and_leaves_nothing(nas_score, tmp_path):
    for words, line in WRONG:
        status, out, err = nas_score(*TINY, "architectures=2", *words)
        assert status == 1, words
        assert re.fullmatch(rf"nas-score: {line}\n", err), err
        assert "Traceback" not in out
        assert not list(tmp_path.iterdir()), words


def test_without_progress_the_result_alone_is_printed(nas_score, tmp_path):
    status, out, err = nas_score(*TINY, "architectures=2", "run=q", "progress=false")
    assert (status, err) == (0, "")
    assert out.startswith("Best by the rank sum of naswot, snip\n")
    assert (tmp_path / "outputs" / "score" / "q" / "scores.csv").is_file()
