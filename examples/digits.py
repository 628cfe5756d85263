# %% [markdown]
# # A supernet on handwritten digits
#
# One call trains a *supernet*: a network that holds many subnetworks with shared weights. Afterwards the best
# subnetwork is looked for and taken out, as a plain PyTorch module. Half a minute on one CPU core.

# %%
import torch
from sklearn.datasets import load_digits

import nas
from nas.settings import ChainSettings

digits = load_digits()
images = torch.tensor(digits.images / 16)[:, None].float()  # (1797, 1, 8, 8), from 0 to 1
labels = torch.tensor(digits.target)

# %% [markdown]
# Four layers, each of which is one of three operations: 81 subnetworks. `gate="fair"` trains each operation equally
# often; `"learned"` prefers those that do well.

# %%
space = ChainSettings(widths=[8, 16], depths=[2, 2], strides=[1, 2], candidates=["skip", "conv3", "conv5"])
trained = nas.train_supernet(space, images, labels, epochs=12, gate="fair", seed=0)
trained

# %% [markdown]
# The best of the subnetworks that were evaluated, and another one:

# %%
for architecture in (trained.best, (0, 0, 0, 1)):
    result = trained.evaluate(architecture, "test")
    print(f"{trained.space.describe(architecture)}: {result.accuracy:.1%} of {result.images} test images")

# %% [markdown]
# A search looks at more of them. The front has those of which no other is both better and cheaper.

# %%
found = trained.search(objectives=["accuracy", "flops"], sampler="random", trials=30)
for trial in found.front:
    accuracy, flops = trial.values["accuracy"], trial.values["flops"]
    print(f"{trained.space.describe(trial.architecture)}: {accuracy:.1%} of the validation images, {flops:,.0f} FLOPs")

# %% [markdown]
# Take the best out. It has no gate in it and normalises its images itself.

# %%
network = trained.subnetwork(found.best.architecture)
guesses = network((images[:10] * 255).round().byte()).argmax(1)
print(guesses.tolist(), "of", labels[:10].tolist())
