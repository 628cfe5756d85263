"""How the figures of a search came about, in words, for its report."""

from __future__ import annotations

from nas.score import PROXIES
from nas.search.objectives import COSTS, EVALUATED, LATENCY, RANK_SUM, SURROGATE, TRAINED
from nas.search.outcome import SearchOutcome
from nas.search.target import SearchTarget
from nas.settings import SearchRunSettings
from nas.settings.rank import FINETUNE_STEPS


def how_measured(settings: SearchRunSettings, target: SearchTarget, outcome: SearchOutcome) -> list[str]:
    """What the numbers mean, a line for each kind of number that the outcome has."""
    how, trained, names = settings.search, target.trained, {o.name for o in outcome.columns}
    lines = []
    if names & EVALUATED.keys():
        assert trained is not None, "nothing else is evaluated"
        images = len(trained.held_out(how.split, how.images))
        estimated = target.recalibrates(how.recalibrate)
        norms = "statistics estimated for each" if estimated else "the supernet's running statistics"
        asked = f"search.recalibrate={str(estimated).lower()}"
        norms += f" ({'as the run evaluates' if how.recalibrate is None else asked})"
        own = trained.settings.evaluate.recalibrate_images
        number = own if how.recalibrate_images is None else how.recalibrate_images
        norms += f" on {min(number, len(target.splits.train)):,} training images" if estimated else ""
        lines.append(f"accuracy and loss: {images:,} {how.split} images, BatchNorm with {norms}")
        if how.race:
            looks = [trial.images for trial in outcome.trials if 0 < trial.images < images]
            ahead = f"{len(looks)} of {len(outcome.trials)} were certainly behind after a first look"
            lines.append(f"a race: {ahead} at {max(looks, default=0)} images, whose values predict those on all")
        if any(name.endswith("_running") for name in names):
            lines.append("with running statistics: those of the supernet, as training left them")
        if how.recalibrate is not None and estimated != target.recalibrates(None):
            lines.append("nas-export writes the BatchNorm statistics that the run evaluates with, not these")
        elif estimated and number != own:
            lines.append(f"nas-export estimates BatchNorm statistics on {own:,} training images, as the run evaluates")
        if any(name.endswith("_tuned") for name in names):
            lines.append(f"fine-tuned: after {how.finetune_steps or FINETUNE_STEPS} steps from the supernet's weights")
            lines.append("nas-export writes the supernet's weights, not the fine-tuned ones")
    if TRAINED.name in names:
        new = target.space_settings == target.space_settings.without_weights()
        begun = "the supernet's weights" if how.train.inherit else "scratch" if new else "the network's own weights"
        alone = f"after {how.train.epochs} epochs alone from {begun}"
        lines.append(f"trained: accuracy on {len(target.splits.val):,} val images, {alone}; a mean where trained again")
    if outcome.verdict is not None:
        lines.append(
            "verdict: 95 % interval of Student's t over pairs of the winner and a random network, each pair on a fresh "
            "seed, on the images that the search has chosen by"
        )
    lines += ["flops and parameters: of the stand-alone network"] if names & COSTS.keys() else []
    if LATENCY.name in names:
        threads = f"{how.latency_threads} thread{'s' if how.latency_threads > 1 else ''}"
        lines.append(f"latency: median of a forward pass, batch {how.latency_batch}, {threads}, this machine's CPU")
    if proxies := sorted(names & PROXIES.keys() - COSTS.keys()):
        lines.append(f"{', '.join(proxies)}: initial weights, batches of {how.proxy_images} training images")
    if RANK_SUM.name in names:
        summed = " and ".join(how.summed(trained is not None))
        summed = summed.replace(TRAINED.name, "the first training of each")
        lines.append(f"sum of ranks: of {summed}, among all that were evaluated; the best has the largest")
    if SURROGATE.name in names:
        lines.append(
            "predicted: what a regression on the trainings of search and finals says, each network's own among them"
        )
    if len(outcome.objectives) > 1 and outcome.feasible:
        ideal, reference = outcome.corner_texts()
        lines.append(
            f"hypervolume: share of the box between the ideal point ({ideal}) and the reference point ({reference}), "
            "which is the worst of everything evaluated and a tenth of the range more"
        )
    return [*lines, f"{sum(t.seconds for t in outcome.trials):,.1f} s of evaluation"]
