"""Separate models: one model for every domain, trained on T^i alone (Figure 1 (b))."""

from dataclasses import replace

from mamdr_core.config.learning import DRSettings
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.method import JOINT_LR, Method


def _separate(dr: DRSettings, alpha: float) -> DRSettings:
    """Train theta_i, embeddings included, on T^i alone; Adam's moments are fresh in each pass."""
    return replace(dr, k=0, gamma=1.0, rows="touched", lr=alpha, schedule="settled", every=1)


METHOD = Method(None, DomainRegularization, dr=_separate, lr=JOINT_LR)
