"""The parts that the architectures arrange."""
