"""Model structures: logits = model(fields), independent of learning methods. `structures.py` lists them."""
