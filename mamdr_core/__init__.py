"""MAMDR on Spark: multi-domain recommendation at production scale (Luo et al., arXiv 2202.12524)."""
