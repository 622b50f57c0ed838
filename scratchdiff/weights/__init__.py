"""Trained weights: those that the package carries (`pretrained.py`), and published ones, in and out.

tensors.py       .safetensors files and JSON, each checked before it costs memory
names.py         our parameters under the names of others
diffusers.py     folders of Hugging Face diffusers
openai.py        weights of openai/improved-diffusion
"""
