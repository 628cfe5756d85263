"""Evaluating subnetworks on images that they were not trained on."""
