"""Mixed: a mixed model of domains and ids, then joint training of the network on what it leaves."""

from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.method import MIXED_LR, Method

METHOD = Method(JointTraining, mixed=True, lr=MIXED_LR)
"""logit = theta_S's network + w_i . phi(x) + random effects of ids (GLMix, Zhang et al. 2016; docs/mixed.md)."""
