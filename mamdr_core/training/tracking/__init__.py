"""A run sent to MLflow and TensorBoard once it has ended. Start with `tracking.py`."""
