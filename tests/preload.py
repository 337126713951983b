"""What a fork server imports once, before any of the processes that papers' trainings are tested on.

A child that imports these by itself pays for them at every training; torch._dynamo alone, which the first step of any optimiser
asks for, takes two seconds of it. They start no threads.
"""

PRELOAD = ["lightning.pytorch.cli", "lightning.pytorch.strategies", "peft", "torch._dynamo", "torch.distributed.fsdp",
           "torch.distributed.tensor", "torch.distributed.checkpoint.state_dict", "transformers.models.llama.modeling_llama"]
