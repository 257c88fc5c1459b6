"""Model structures: logits = model(fields). They know nothing of learning methods. `structures.py` lists them."""
