"""Jacobians, determinants, Gram products and tangent kernels; imports nothing but torch."""
