"""DT-GAN kit: networks, losses, training and synthesis of "Defect Transfer GAN" (BMVC 2022).

The paper, in the order in which to read it:

    networks    G, M, E and D (section 3.1); `layers` holds their blocks, `composed` G of (f), ours
    losses      equations (1) to (8), a function each (section 3.2)
    step        the terms of a training step, computed together
    config      the steps (a) to (e) of the ablation (Fig. 3), and presets
    training    who learns what in an iteration
    synthesis   a trained model: random defects, those of references, style sweeps (Fig. 5)

What carries it: `batches` draws the data (`dataset`, `images`), `loop` runs, averages and logs,
`checkpoints` (`files`) survive a kill, `kernels` fuses norms, `hardware` knows the machine.
"""

__version__ = "0.1.0"
