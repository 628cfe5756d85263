"""Determinants of chains of Linear layers and activations, with values and tangents side by side."""
