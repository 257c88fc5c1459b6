"""What each feature adds to a run: permutation importance by domain."""
