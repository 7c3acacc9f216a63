"""The model and its science: Mixture-of-Attention on Stable Diffusion 1.x, from the layers to training and evaluation.

Importing this package is cheap and brings in no torch; import what you need from its modules, e.g.
`from moa.pipeline import MoAPipeline, Subject`.
"""
