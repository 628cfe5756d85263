"""A network that notices whether several processes begin alike and draw apart."""

import os

import torch
from torch import nn

from nas.nn import GatedSum


class Restless(nn.Module):
    """A network that is made otherwise in every process, and notes what its dropout draws."""

    def __init__(self):
        super().__init__()
        self.mix = GatedSum([nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)])
        self.fc = nn.Linear(4, 3)
        self.drawn = []
        with torch.no_grad():
            self.fc.weight.fill_(os.getpid() % 1000 / 1000)

    def forward(self, x, architecture):
        if self.training and torch.is_grad_enabled():
            self.drawn.append(nn.functional.dropout(torch.ones(64)))
        return self.fc(self.mix(x, architecture[0]).mean((2, 3)))
