"""Gated blocks, the zero-aware layers behind them, and the candidate operations inside them."""

from nas.nn.blocks import BlockConv2d, BlockLinear
from nas.nn.gated import (
    Active,
    GatedBlock,
    GatedConcat,
    GatedSum,
    ZeroPadded,
    active_of,
    gated_blocks,
    gated_slots,
    indices_of,
    open_branches,
)
from nas.nn.model import BranchSum, GatedModel, InPlace
from nas.nn.operations import OPERATIONS, MBConv, PooledLinear, Zero, conv_bn_relu, operation

__all__ = [
    "OPERATIONS",
    "Active",
    "BlockConv2d",
    "BlockLinear",
    "BranchSum",
    "GatedBlock",
    "GatedConcat",
    "GatedModel",
    "GatedSum",
    "InPlace",
    "MBConv",
    "PooledLinear",
    "Zero",
    "ZeroPadded",
    "active_of",
    "conv_bn_relu",
    "gated_blocks",
    "gated_slots",
    "indices_of",
    "open_branches",
    "operation",
]
