"""What the parts of a pipeline cost, measured beside what the machine could do: `ldm bench`."""
