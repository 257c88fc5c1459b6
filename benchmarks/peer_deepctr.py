"""DeepFM of the package deepctr-torch on exported arrays, with the package's own defaults; a process of bench_peers.py.

    PYTHONPATH=FOLDER_OF_DEEPCTR_TORCH python benchmarks/peer_deepctr.py EXPORT.npz PREDICTED.npz --seed 0

Embeddings of 4, hidden layers 256-128, L2 of 1e-5 on embeddings, Adam at its default rate, batches of 256. The package
has no early stopping on AUC, so that of peer_models.py is used, without its decay of the rate.
"""

import argparse
import copy
import time

import numpy as np
import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM
from peer_models import PATIENCE, auc_of


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    held = np.load(options.export)
    sizes, width = held["sizes"].tolist(), held["train_dense"].shape[1]
    features = [SparseFeat(f"f{place}", size) for place, size in enumerate(sizes)]
    features += [DenseFeat("dense", width)] if width else []

    def inputs(split: str) -> dict[str, np.ndarray]:
        ids = {f"f{place}": held[f"{split}_ids"][:, place] for place in range(len(sizes))}
        return ids | ({"dense": held[f"{split}_dense"]} if width else {})

    model = DeepFM(features, features, seed=options.seed)
    model.compile("adam", "binary_crossentropy")
    started, descending, epochs = time.perf_counter(), 0.0, 0
    best, worse, kept = -np.inf, 0, None
    train, labels = inputs("train"), held["train_labels"]
    while worse < PATIENCE and epochs < options.epochs:
        begun = time.perf_counter()
        model.fit(train, labels, epochs=1, verbose=0)
        descending += time.perf_counter() - begun
        epochs += 1
        auc = auc_of(model.predict(inputs("val"), 1 << 16).ravel(), held["val_labels"])
        worse = 0 if auc > best else worse + 1
        if auc > best:
            best, kept = auc, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    seconds = time.perf_counter() - started
    probability = torch.from_numpy(model.predict(inputs("test"), 1 << 16).ravel())
    figures = {"rows_per_second": epochs * len(labels) / descending, "epochs": epochs, "seconds": seconds}
    np.savez(options.predicted, logits=torch.logit(probability).numpy(), **figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("predicted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
