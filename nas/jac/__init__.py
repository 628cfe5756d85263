"""Jacobians, determinants, Gram products and tangent kernels; imports nothing but torch."""

from nas.jac.check import CheckResult, check
from nas.jac.compiled import compiled
from nas.jac.determinant import SignLogDet, jacobian_det, slogdet
from nas.jac.errors import JacobianError
from nas.jac.factored import FactoredJacobian
from nas.jac.gram import gram
from nas.jac.jacobian import jacobian
from nas.jac.ntk import ntk
from nas.jac.plan.store import set_plan_bytes
from nas.jac.spectrum import Spectrum, spectrum

__all__ = [
    "CheckResult",
    "FactoredJacobian",
    "JacobianError",
    "SignLogDet",
    "Spectrum",
    "check",
    "compiled",
    "gram",
    "jacobian",
    "jacobian_det",
    "ntk",
    "set_plan_bytes",
    "slogdet",
    "spectrum",
]
