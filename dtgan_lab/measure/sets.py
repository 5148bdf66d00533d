"""What the sets of images are called that tables and figures compare."""

# yardsticks
FLOOR, COPY, PASTE, NORMAL = "fresh real", "training set", "copy-paste", "untouched Normal"
LATENT, REFERENCE = "DT-GAN, latent", "DT-GAN, reference"
JITTERED, MIRRORED = "looked up, jittered", "looked up, mirrored"  # training images, disguised
