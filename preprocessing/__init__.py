"""Raw images to shards: sources, captions, person masks, faces, subject crops, WebDataset shards, verification.

Command: `python -m preprocessing datasets/miniature.yaml --out data/miniature`.
What it writes is in datasets/FORMAT.md, sections 1 to 3.
"""
