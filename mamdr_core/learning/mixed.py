"""Mixed: a mixed model of domains and ids, then joint training of the network with its logits as an offset."""

from dataclasses import replace

from mamdr_core.config.learning import DRSettings
from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.method import JOINT_LR, Method


def _without_supports(dr: DRSettings, alpha: float) -> DRSettings:
    """Without support domains, because the prior of the mixed model contains what domains have in common."""
    return replace(dr, k=0)


METHOD = Method(JointTraining, dr=_without_supports, mixed=True, lr=JOINT_LR, mixes=True)
"""logit = theta_S's network + w_i . phi(x) + random effects of ids (GLMix, Zhang et al. 2016; docs/mixed.md)."""
