"""Deciding which run serves: the gate between a trained run and users, promotion, and the way back."""
