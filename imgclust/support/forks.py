"""Torch in processes that are forked."""

from __future__ import annotations

import functools
import os


@functools.cache
def one_thread_after_a_fork() -> None:
    """From now on, a forked child's torch computes in the calling thread.

    GNU's OpenMP waits for ever for the parent's threads, which the fork did not copy; with one thread it asks
    for none. Torch's own loaders do the same in their workers.
    """
    import torch

    os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))
