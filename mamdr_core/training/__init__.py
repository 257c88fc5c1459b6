"""The run: rounds, validation, early stop, the model package, and its record in the lake."""
