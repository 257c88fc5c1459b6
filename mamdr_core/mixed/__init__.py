"""The mixed-effects part of the logit: w_i of every domain and random effects of ids, by empirical Bayes.

    logit(x) = theta_S's logit + w_i . phi(x) + b_user + b_item + b_(user in domain i)

`mixed_model.py` fits and predicts, and is the place to start reading. No Spark, no Horovod.
"""
