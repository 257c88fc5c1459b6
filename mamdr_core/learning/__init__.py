"""The learning methods, one file each, in the notation of the paper. No I/O, no Spark, no Horovod.

Start with `mamdr.py` (Algorithm 3); `methods.py` lists the methods.
"""
