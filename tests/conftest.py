"""Small tensors are slower with more threads, and sums depend on how many there are."""

import torch

torch.set_num_threads(1)
