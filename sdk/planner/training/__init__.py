"""Planning what is trained on a device, and how, inside a memory budget: records, options, the programme that chooses, the report."""
