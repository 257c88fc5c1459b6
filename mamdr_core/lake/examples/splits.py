"""Assigns examples to splits by hashes, by days or as given by the log, never by row order."""

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.config.lake import SplitSettings
from mamdr_core.lake.core.hashing import hash64, uniform
from schemas import SPLITS


def split_column(settings: SplitSettings, seed: int, domain_rows: Column) -> Column:
    """The split of a row.

    Args:
        seed: decides a random split together with the hashes of the row's ids.
        domain_rows: number of examples of the row's domain.

    Returns:
        'train', 'val' or 'test', from columns user_hash, item_hash, domain_hash (random), ds (time) or split (given).
        With random splits, all rows of a user, item and domain are in the same split, and a domain with fewer rows than
        `smallest_domain` is entirely in train.
    """
    if settings.kind == "given":
        return F.col("split")
    train, val, test = SPLITS
    if settings.val_from and settings.test_from and settings.kind == "time":
        return (
            F.when(F.col("ds") < settings.val_from, train).when(F.col("ds") < settings.test_from, val).otherwise(test)
        )
    drawn = uniform(hash64("split", seed, F.col("user_hash"), F.col("item_hash"), F.col("domain_hash")))
    to_train, to_val, _ = settings.fractions
    in_train = (drawn < to_train) | (domain_rows < settings.smallest_domain)
    in_val = drawn < to_train + to_val
    # Without a test fraction, rounding may make the sum smaller than 1; the last non-empty split takes the rest.
    last = test if settings.fractions[2] else (val if to_val else train)
    return F.when(in_train, train).when(in_val, val).otherwise(last)
