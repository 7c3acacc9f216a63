"""Result files in, one self-contained HTML page out. Reads only the files of datasets/FORMAT.md; needs neither torch
nor a network."""
