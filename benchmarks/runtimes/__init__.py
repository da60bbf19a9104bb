"""How right and how fast exported explanations are, by model, batch size and runtime."""
