"""What travels to the container: values, the user's source files, the shim. No network."""
