"""Image classification on long-tailed data, by Detectron2's engine and with this project's losses and samplers."""
