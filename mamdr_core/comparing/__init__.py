"""Experiments of many runs: comparisons of methods and models, sweeps over settings, and conflict between domains."""
