"""The gateway function: HTTP in, payload once into shared memory, descriptor out."""
