"""Writing many synthetic defects to a folder, in one of several formats; a stop loses nothing.

OUT/export.json     what was ordered; the same order goes on with `--resume`
OUT/images/...      the images, where a format puts them (see `formats.Folder`)
OUT/rejects.csv     with a gate: what it refused and why; the images in OUT/rejects/
OUT/manifest.csv    one row an image, written last: a folder with a manifest is complete

An image is a function of (checkpoint, seed, backgrounds, references, index), computed in blocks of
`batch_size` indices.  A block whose images are on disk is skipped, and processes or machines take
every n-th block; so neither a stop nor their number changes a byte.
"""

FORMATS = ("folder", "imagefolder", "layout", "coco", "tar")
