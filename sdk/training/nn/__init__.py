"""Training with torch on Linux devices. Everything in here imports torch: import it inside the functions that need it."""
