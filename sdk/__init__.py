"""embarq: plan, compile, flash, prove and train models and splat scenes on small devices."""
