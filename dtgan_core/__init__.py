"""DT-GAN kit: networks, losses, training and synthesis of "Defect Transfer GAN" (BMVC 2022)."""

__version__ = "0.1.0"
