"""Training scripts of the house model: a small Llama-shaped model made on two CPU cores."""
