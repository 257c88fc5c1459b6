"""The learning methods, one file each, in the notation of the paper. No I/O, no Spark, no Horovod."""
