"""The learning methods, to be read beside the paper. No I/O, no Spark, no Horovod."""
