"""Subnetworks that are trained alone."""
