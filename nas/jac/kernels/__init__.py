"""Tangent kernels: layers found in a run, and their products."""
