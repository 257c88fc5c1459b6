"""Finetuning: joint training, then training of theta_i on T^i alone (appendix A.3)."""

from dataclasses import replace

from mamdr_core.config.learning import DRSettings
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.method import JOINT_LR, Method


def _finetuning(dr: DRSettings, alpha: float) -> DRSettings:
    """Train theta_i on T^i alone once theta_S is trained; a pass moves it as far as k updates by gamma would."""
    gamma = 1 - (1 - dr.gamma) ** max(dr.k, 1)
    return replace(dr, k=0, gamma=gamma, schedule="settled", every=1)


METHOD = Method(JointTraining, DomainRegularization, dr=_finetuning, lr=JOINT_LR, mixes=True)
