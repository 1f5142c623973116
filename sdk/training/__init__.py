"""Training on the device: `nn` for Linux devices (torch), `mcu` for microcontrollers (a training graph for the static arena)."""
