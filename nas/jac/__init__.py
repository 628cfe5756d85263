"""Jacobians, determinants, Gram products and tangent kernels; imports nothing but torch."""

from nas.jac.errors import JacobianError
from nas.jac.factored import FactoredJacobian
from nas.jac.jacobian import jacobian

__all__ = ["FactoredJacobian", "JacobianError", "jacobian"]
