"""Many trainings on one accelerator whose machine has JAX, and not this TensorFlow."""
