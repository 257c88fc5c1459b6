"""The public sets that ship with the project, from raw files to examples; skipped where they are absent.

Ciao's are in tests/jobs/test_contracts.py, where a model is trained on them.
"""

from pathlib import Path

import pytest

from mamdr_core.config.job_config import load_config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def load(name, path, lake_root):
    if not list(path.parent.glob(path.name)):
        pytest.skip(f"{path} is absent: the real sets are not part of this project")
    conf = str(ROOT / "conf" / f"{name}.yaml")
    return load_config(conf, [f"input.path={path}", f"lake.root={lake_root}"])


def test_amazon_with_a_file_per_domain_and_sampled_negatives(spark, lake_root):
    config = load("amazon5", DATA / "amazon5" / "*_5.json.gz", lake_root)
    figures = ingest_clicks(spark, config)
    assert figures["rows_in"] == 16_069
    built = build_examples(spark, config)
    assert (built["users"], built["items"], built["domains"]) == (2_244, 469, 5)
    assert built["negatives_missing"] == 0
    assert 2 * built["positives"] <= built["negatives"] <= 5 * built["positives"]
    domains = {row["id"] for row in Lake(spark, lake_root).read("domains").collect()}
    assert domains == {"AMAZON_FASHION", "All_Beauty", "Appliances", "Gift_Cards", "Magazine_Subscriptions"}
