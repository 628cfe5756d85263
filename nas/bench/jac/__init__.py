"""What Jacobians and tangent kernels cost, beside autograd written by hand and JAX."""
