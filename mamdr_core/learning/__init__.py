"""The learning methods, one file each, to be read alongside the paper. No I/O, no Spark, no Horovod."""
