"""Feature importance: the drop of each domain's AUC when a feature is permuted."""
